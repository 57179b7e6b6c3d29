"""AsymFlow's prediction: its formulas patch by patch, its directions, and its files."""

import copy

import pytest
import torch

import jitflow
from jitflow.core.asymmetric import (
    asymmetric_target,
    images_of,
    patches_of,
    principal_directions,
    project,
    velocity_from_asymmetric,
)
from jitflow.core.path import interpolate
from jitflow.data.digits import DigitsDataModule
from jitflow.errors import ConfigError
from jitflow.layers.patch import unpatchify

G = torch.Generator().manual_seed(0)
SHAPE = (4, 3, 8, 4)
BASIS = torch.linalg.qr(torch.randn(12, 3, generator=G, dtype=torch.float64)).Q


def draw(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def test_patches_are_a_networks_tokens():
    x = draw(*SHAPE)
    patches = patches_of(x, 2)
    assert patches.shape == (4, 8, 12)
    torch.testing.assert_close(unpatchify(patches, (4, 2), 2), x)
    torch.testing.assert_close(images_of(patches, x.shape, 2), x)


def test_an_ideal_output_gives_the_velocity():
    # As many samples as the last dimension is long.
    x0, x1 = draw(*SHAPE), draw(*SHAPE)
    t = torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    v = velocity_from_asymmetric(asymmetric_target(x0, x1, BASIS, 2), interpolate(x0, x1, t), t, BASIS, 2)
    torch.testing.assert_close(v, x1 - x0)


def test_half_precision_of_the_network_leaves_the_conversion_exact():
    x0, x1, basis = draw(*SHAPE).float(), draw(*SHAPE).float(), BASIS.float()
    t = torch.tensor([0.0, 0.3, 0.6, 0.94])
    with torch.autocast("cpu", torch.bfloat16):
        v = velocity_from_asymmetric(asymmetric_target(x0, x1, basis, 2), interpolate(x0, x1, t), t, basis, 2)
    torch.testing.assert_close(v, x1 - x0, atol=1e-4, rtol=1e-4)


def test_any_output_is_converted_as_the_definition_says():
    """One patch at a time, with the projection as a matrix."""
    x_t, output = draw(*SHAPE), draw(*SHAPE)
    t = torch.tensor([0.1, 0.5, 0.7, 0.99], dtype=torch.float64)
    got = patches_of(velocity_from_asymmetric(output, x_t, t, BASIS, 2, t_eps=0.05), 2)
    inside = BASIS @ BASIS.T
    across = torch.eye(12, dtype=torch.float64) - inside
    for i in range(4):
        left = max(1 - t[i].item(), 0.05)
        for x, u, v in zip(patches_of(x_t, 2)[i], patches_of(output, 2)[i], got[i], strict=True):
            torch.testing.assert_close(v, -(inside @ u) - (across @ x + across @ u) / left)
    # With no directions it is the prediction of the (negative) data, with all of them that of the velocity.
    none, every = BASIS[:, :0], torch.linalg.qr(draw(12, 12)).Q
    time = (1 - t).clamp_min(0.05).view(-1, 1, 1, 1)
    torch.testing.assert_close(velocity_from_asymmetric(output, x_t, t, none, 2), (-output - x_t) / time)
    torch.testing.assert_close(velocity_from_asymmetric(output, x_t, t, every, 2), -output)


def test_directions_are_those_of_the_largest_squares():
    images = [
        images_of(
            (draw(5, 8, 3) * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)) @ BASIS.T, torch.Size((5, 3, 8, 4)), 2
        )
        for _ in range(3)
    ]
    found = principal_directions(images, 2, 3).double()
    torch.testing.assert_close(found @ found.T, BASIS @ BASIS.T, atol=1e-6, rtol=0)
    x = images[0]
    torch.testing.assert_close(project(x, found, 2), x, atol=1e-5, rtol=0)
    assert (found.abs().max(dim=0).values == found.max(dim=0).values).all()
    for rank in (0, 12):
        with pytest.raises(ConfigError, match="asym_rank"):
            principal_directions(images, 2, rank)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A module of digits after two steps, its data, and its checkpoint."""
    import lightning.pytorch as pl

    from jitflow.apps.images.module import JiTLightningModule

    torch.manual_seed(0)
    net = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_start": 1}
    module = JiTLightningModule(
        "JiT-N/4", 16, 10, in_channels=1, net_settings=net, prediction="asym", asym_rank=3, learning_rate=1e-9
    )
    data = DigitsDataModule(batch_size=32, num_workers=0)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_steps=2, limit_val_batches=1, accelerator="cpu", **quiet)
    trainer.fit(module, datamodule=data)
    path = tmp_path_factory.mktemp("asym") / "a.ckpt"
    trainer.save_checkpoint(path)
    return module, data, path


def test_a_training_takes_its_directions_from_the_data(trained):
    module, data, _ = trained
    images = module.codec.encode(torch.stack([data.dataset_train[i][0] for i in range(len(data.dataset_train))]))
    torch.testing.assert_close(module.asym.basis, principal_directions([images], 4, 3))
    # Three directions of sixteen hold most of the squares of digits.
    assert project(images, module.asym.basis, 4).square().sum() > 0.8 * images.square().sum()
    # The patch embedding began with them; at so small a learning rate it still has them.
    rows = module.net.x_embedder.proj1.weight[:3].permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(rows, module.asym.basis.mT * (2 * 16 / (16 + 8)) ** 0.5)


def test_a_resumed_training_keeps_directions_and_patch_embedding(trained):
    module, data, _ = trained
    module = copy.deepcopy(module)
    weight = module.net.x_embedder.proj1.weight
    with torch.no_grad():
        weight.add_(1.0)
    before = [weight.clone(), module.asym.basis.clone()]
    module.asym.adopt_data(module, data)
    assert torch.equal(weight, before[0]) and torch.equal(module.asym.basis, before[1])


def test_an_oracle_has_no_loss_and_samples_the_image(trained):
    module, data, _ = trained
    x1 = module.codec.encode(data.dataset_train[0][0][None]).expand(3, -1, -1, -1)
    noise, t = torch.randn(3, 1, 16, 16), torch.tensor([0.1, 0.5, 1.0])
    x_t = interpolate(noise, x1, t)
    v_t = module.true_velocity(noise, x1, x_t, t)
    torch.testing.assert_close(v_t[:2], (x1 - noise)[:2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(module.velocity_of(module.asym.target(noise, x1), x_t, t), v_t)


def test_files_keep_the_directions(trained, tmp_path):
    from jitflow.checkpoint.convert import convert, resumable

    module, _, path = trained
    assert resumable(path, module, tmp_path) == path
    drawn = []
    for name in ("a.ckpt", "b.safetensors", "c.pth"):
        if name != "a.ckpt":
            convert(path, tmp_path / name, ema=0)
        loaded = jitflow.load(path if name == "a.ckpt" else tmp_path / name, device="cpu")
        assert torch.equal(loaded.module.asym.basis, module.asym.basis)
        drawn.append(loaded.sample([0, 1], steps=2, ema=0).pixels)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_what_it_cannot_do_is_named(make_module, make_trainer, loader, trained, tmp_path):
    with pytest.raises(ConfigError, match="asym_rank"):
        make_module(prediction="asym", asym_rank=48)
    with pytest.raises(ConfigError, match="data module"):
        make_trainer(max_steps=1).fit(make_module(prediction="asym"), loader)
    with pytest.raises(ConfigError, match="own"):
        make_module(prediction="asym", loss_terms={"internal_guidance": {}})
    from jitflow.export.export import export

    with pytest.raises(ConfigError, match="safetensors"):
        export(trained[2], tmp_path / "out", format="torch_export", ema="0")
