"""Alignment and perceptual losses: equal to their formulas, written anew; what they refuse; what checkpoints keep."""

import pytest
import safetensors.torch
import torch
from torch.nn.functional import cosine_similarity, unfold
from torchvision.models import vgg16

from jitflow.callbacks.ema import EMACallback
from jitflow.checkpoint.convert import convert
from jitflow.checkpoint.formats import read_state
from jitflow.encoders.lpips import Lpips
from jitflow.encoders.maps import TimmMaps
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.io.files import load_checkpoint
from jitflow.training.terms import FlowState

timm = pytest.importorskip("timm")
TERMS = ("repa", "irepa", "pixel_repa", "perceptual")


@pytest.fixture(scope="module")
def weights_path(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = timm.create_model("test_vit", pretrained=False)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def spec(weights_path):
    """A Transformer of 2 x 2 patches, like the tiny module's."""
    return f"timm:test_vit@32:{weights_path}"


@pytest.fixture
def with_term(make_module, spec):
    def make(name, **settings):
        forced = {"force": True, "hidden_size": 8} if name == "repa" else {}
        return make_module(loss_terms={name: {"encoder": spec, **forced, **settings}})

    return make


def batch():
    g = torch.Generator().manual_seed(4)
    x1 = torch.rand(3, 3, 8, 8, generator=g) * 2 - 1
    return x1, torch.tensor([0, 1, 5]), torch.tensor([0.2, 0.5, 0.9]), torch.randn(3, 3, 8, 8, generator=g)


def patches(weights_path, x1):
    """The encoder's tokens of images, by timm alone."""
    encoder = TimmMaps("test_vit", weights_path, 32)
    return encoder(x1).flatten(2).mT


def part_and_feature(module, name, feature):
    """The weighted loss of the term, its random numbers, and the tokens that it read."""
    x1, labels, t, noise = batch()
    draws = module.loss_terms.draw(x1, 7)
    part = module.loss_parts(x1, labels, t, noise, draws=draws)[name]
    x_t = t.view(-1, 1, 1, 1) * x1 + (1 - t.view(-1, 1, 1, 1)) * noise * module.noise_scale
    _, found = module.net(x_t, t, labels, features=(feature,))
    return part, draws.get(name, {}), found[feature]


def test_repa_is_forced_and_is_the_cosine_through_a_pointwise_network(with_term, weights_path):
    with pytest.raises(ConfigError, match=r"5\.14.*pixel_repa"):
        with_term("repa", force=False)
    module = with_term("repa", feature="block3", weight=0.3)
    part, _, tokens = part_and_feature(module, "repa", "block3")
    projector = module.loss_terms.repa.projector
    # Every token by itself: no other token matters.
    guess = torch.stack([projector(tokens[:, n]) for n in range(4)], dim=1)
    cosine = cosine_similarity(guess, patches(weights_path, batch()[0]), dim=-1)
    torch.testing.assert_close(part, 0.3 * (1 - cosine.mean(1)))


def test_irepa_convolves_and_standardises_over_space(with_term, weights_path):
    module = with_term("irepa", weight=1.0)
    part, _, tokens = part_and_feature(module, "irepa", "block4")
    conv = module.loss_terms.irepa.projector
    columns = unfold(tokens.mT.unflatten(2, (2, 2)), 3, padding=1)
    guess = columns.mT @ conv.weight.flatten(1).mT + conv.bias
    target = patches(weights_path, batch()[0]).double()
    spread = ((target - target.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True).sqrt()
    target = (target - target.mean(1, keepdim=True)) / spread
    torch.testing.assert_close(part, (1 - cosine_similarity(guess.double(), target, dim=-1).mean(1)).float())


@pytest.mark.parametrize("over_space", [False, True])
def test_pixel_repa_masks_a_share_of_the_tokens_before_its_adapter(with_term, weights_path, over_space):
    module = with_term("pixel_repa", mask_share=0.25, over_space=over_space)
    term = module.loss_terms.pixel_repa
    with torch.no_grad():
        term.mask_token.normal_(generator=torch.Generator().manual_seed(5))
    part, draws, tokens = part_and_feature(module, "pixel_repa", "before_class_tokens")
    assert torch.equal(draws["is_masked"].sum(1), torch.ones(3, dtype=torch.long))
    given = tokens.clone()
    for sample, token in draws["is_masked"].nonzero().tolist():
        given[sample, token] = term.mask_token + module.net.pos_embed[0, token]
    target = patches(weights_path, batch()[0])
    if over_space:
        target = (target - target.mean(1, keepdim=True)) / target.std(1, keepdim=True, correction=0)
    cosine = cosine_similarity(term.projector(given), target, dim=-1)
    torch.testing.assert_close(part, 0.1 * (1 - cosine.mean(1)))
    # Its blocks start with weights of their own.
    assert not torch.equal(*(term.projector[k].linear1.weight for k in range(2)))
    # Masking is drawn anew for each batch, and differs between images.
    many = torch.zeros(64, 3, 8, 8)
    one, other = (module.loss_terms.draw(many, seed)["pixel_repa"]["is_masked"] for seed in (1, 2))
    assert not torch.equal(one, other) and len(one.unique(dim=0)) == 4
    for wrong in ({"mask_share": 1.0}, {"num_blocks": 0}, {"head_dim": 7}, {"layer": 99}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            with_term("pixel_repa", **wrong)


@pytest.fixture(scope="module")
def vgg_path(tmp_path_factory):
    with torch.random.fork_rng(), torch.device("meta"):
        net = vgg16(weights=None).features
    net = net.to_empty(device="cpu")
    g = torch.Generator().manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=(2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.01, generator=g)
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save({f"features.{name}": value for name, value in net.state_dict().items()}, path)
    return path


def state_of(x1, t, v_pred):
    x0 = torch.randn(x1.shape, generator=torch.Generator().manual_seed(6))
    time = t.view(-1, 1, 1, 1)
    return FlowState(None, x1, time * x1 + (1 - time) * x0, t, v_pred, v_pred, x1 - x0)


def test_perceptual_loss_by_hand_behind_its_gate(make_module, spec, weights_path, vgg_path, monkeypatch):
    arguments = {"encoder": spec, "lpips": str(vgg_path), "lpips_weight": 0.2, "encoder_weight": 0.03, "gate": 0.4}
    term = make_module(img_size=16, loss_terms={"perceptual": arguments}).loss_terms.perceptual
    g = torch.Generator().manual_seed(2)
    x1, t = torch.rand(4, 3, 16, 16, generator=g) * 2 - 1, torch.tensor([0.1, 0.4, 0.7, 0.9])
    state = state_of(x1, t, torch.randn(4, 3, 16, 16, generator=g).requires_grad_(True))
    found = term(state)
    x1_pred = state.x_t + (1 - t.view(-1, 1, 1, 1)) * state.v_pred
    encoder = TimmMaps("test_vit", weights_path, 32)
    cosine = cosine_similarity(encoder(x1_pred), encoder(x1), dim=1).mean((1, 2))
    expected = 0.2 * Lpips(vgg_path)(x1_pred, x1) + 0.03 * (1 - cosine)
    torch.testing.assert_close(found, torch.where(t >= 0.4, expected, 0.0))
    gradient = torch.autograd.grad(found.sum(), state.v_pred)[0].abs().sum((1, 2, 3))
    assert gradient[0] == 0 and gradient[1:].min() > 0
    # The form for compiled graphs, whose shapes are fixed.
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(term(state), found)
    perfect = state_of(x1, t, torch.zeros(0))
    perfect = FlowState(**{**vars(perfect), "v_pred": perfect.v_t})
    torch.testing.assert_close(term(perfect), torch.zeros(4), atol=1e-5, rtol=0)
    assert torch.equal(term(state_of(x1, torch.full((4,), 0.3), state.v_pred.detach())), torch.zeros(4))
    assert term.feature_spaces == ("test_vit@32", "vgg16.tv_in1k")


def test_what_encoders_refuse(make_module, spec, tmp_path):
    for wrong, message in (
        ({}, "perceptual needs"),
        ({"encoder": spec, "gate": 2.0}, "gate"),
        ({"encoder": spec, "encoder_weight": -1.0}, "weight"),
        ({"lpips": "vgg.pth"}, "at least 16 px"),
        ({"encoder": "dinov2"}, "unknown encoder 'dinov2'"),
        ({"encoder": "digits:x"}, "unknown encoder"),
        ({"encoder": "digits", "layer": 1}, "layer"),
        ({"encoder": "timm:test_vit"}, "timm:MODEL:PATH"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_module(loss_terms={"perceptual": wrong})
    with pytest.raises(MissingFileError, match="none"):
        make_module(loss_terms={"irepa": {"encoder": f"timm:test_vit:{tmp_path / 'none'}"}})
    # A network without class tokens names the features that it has.
    without = {"in_context_len": 0}
    with pytest.raises(ConfigError, match="before_class_tokens"):
        make_module(net_settings=without, loss_terms={"pixel_repa": {"encoder": spec}})
    assert make_module(net_settings=without, loss_terms={"pixel_repa": {"encoder": spec, "feature": "block2"}})


def test_a_training_is_checked_without_memory_for_its_model(with_term):
    with torch.device("meta"):
        for name in TERMS:
            assert with_term(name).loss_terms.get_submodule(name).feature_spaces == ("test_vit@32",)


@pytest.mark.parametrize("name", TERMS)
def test_trainings_resume_and_exports_are_plain(make_module, with_term, make_trainer, loader, tmp_path, name):
    def train(module, ckpt_path=None, **settings):
        torch.manual_seed(5)
        trainer = make_trainer(callbacks=[EMACallback()], limit_train_batches=2, **settings)
        trainer.fit(module, loader, ckpt_path=ckpt_path)
        return trainer

    whole, first, second = (with_term(name) for _ in range(3))
    train(whole, max_epochs=2)
    train(first).save_checkpoint(tmp_path / "a.ckpt")
    train(second, tmp_path / "a.ckpt", max_epochs=2)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in whole.state_dict().items())
    content = load_checkpoint(tmp_path / "a.ckpt")
    assert not [key for key in content["state_dict"] if "encoder" in key]
    has_projector = any(key.startswith(f"loss_terms.{name}.projector") for key in content["state_dict"])
    assert has_projector == (name != "perceptual")
    convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors")
    state = read_state(tmp_path / "b.safetensors")
    assert state.trained_on == ("test_vit@32",)
    assert state.weights.keys() == make_module().state_dict().keys()


def test_another_file_of_the_encoder_is_refused(with_term, weights_path, make_trainer, loader, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(with_term("irepa"), loader)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    weights = safetensors.torch.load_file(weights_path)
    safetensors.torch.save_file({key: value + 1 for key, value in weights.items()}, tmp_path / "other.safetensors")
    other = with_term("irepa", encoder=f"timm:test_vit@32:{tmp_path / 'other.safetensors'}")
    with pytest.raises(CheckpointError, match=r"irepa .*encoder"):
        make_trainer(max_steps=2).fit(other, loader, ckpt_path=tmp_path / "a.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_a_step_is_one_graph_for_the_compiler(with_term, name):
    module = with_term(name).train()
    x1, labels, t, noise = batch()
    draws = module.loss_terms.draw(x1, 7)
    compiled = torch.compile(module.loss_parts, backend="aot_eager", fullgraph=True, dynamic=False)
    found, expected = (step(x1, labels, t, noise, draws=draws)[name] for step in (compiled, module.loss_parts))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    torch._dynamo.reset()
