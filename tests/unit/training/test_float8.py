"""Float8 products: which layers, what stays the same, how far the losses are apart, and where they are refused.

What needs torchao is skipped without it; no test needs a GPU (the products are emulated).
"""

import importlib.util

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.ema import EMACallback
from jitflow.callbacks.utilisation import training_flops
from jitflow.checkpoint.load import load_module
from jitflow.cli import main
from jitflow.data.digits import digits_arrays
from jitflow.errors import ConfigError
from jitflow.run.fit import prepare
from jitflow.run.memory import estimate_memory
from jitflow.run.recipe import override, read_recipe
from jitflow.run.settings import changed_settings, fixed_settings
from jitflow.run.strategy import precision_arguments
from jitflow.training.float8 import FP8_MIXED, check_float8, float8_layers, undo_float8, use_float8
from jitflow.training.float8_precision import Float8Mixed

needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
# 516 and 1,548 are no multiples of 16.
WIDE = {"model_name": "JiT-N/4", "img_size": 8, "num_classes": 10, "num_sampling_steps": 4}
WIDE |= {"net_settings": {"hidden_size": 516, "depth": 1, "num_heads": 3, "in_context_len": 0}}
LARGE = ["blocks.0.attn.qkv", "blocks.0.mlp.w12"]


def wide_module(**settings):
    torch.manual_seed(0)
    return JiTLightningModule(**{**WIDE, **settings})


class Losses(pl.Callback):
    def __init__(self):
        self.all, self.kinds = [], set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.all.append(float(outputs["loss"].detach()))
        self.kinds.add(type(pl_module.net.blocks[0].attn.qkv).__name__)


def train_on_digits(tmp_path, steps=30, **precision):
    """Train the wide network on digits for some steps; return the module, its losses and its trainer."""
    images, labels = digits_arrays("train")
    images = np.repeat(images * 15, 3, axis=1)
    pl.seed_everything(0, verbose=False)
    loader = DataLoader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), batch_size=5)
    module, losses = wide_module(learning_rate=3e-4), Losses()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        max_steps=steps,
        callbacks=[EMACallback(module.ema_decay1, module.ema_decay2), losses],
        **precision,
    )
    trainer.fit(module, loader)
    return module, losses, trainer


def test_large_layers_of_the_blocks_and_no_others():
    assert float8_layers(wide_module().net) == LARGE
    with torch.device("meta"):
        kinds = {
            name: {layer.split(".", 2)[2] for layer in float8_layers(JiTLightningModule(name, img_size=256).net)}
            for name in ("JiT-B/16", "JiT-L/16", "JiT-H/16")
        }
    assert kinds == {
        "JiT-B/16": {"attn.qkv", "mlp.w12"},
        "JiT-L/16": {"attn.qkv", "mlp.w12"},
        "JiT-H/16": {"attn.qkv", "attn.proj", "mlp.w12", "mlp.w3"},
    }


@needs_torchao
@pytest.mark.parametrize("tokens", [64, 37])
@pytest.mark.parametrize(("inputs", "outputs"), [(528, 1584), (516, 1548), (520, 1040)])
def test_products_are_right_up_to_the_rounding_of_float8(inputs, outputs, tokens):
    torch.manual_seed(0)
    net = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(inputs, outputs)])})
    x, grad = torch.randn(2, tokens, inputs, requires_grad=True), torch.randn(2, tokens, outputs)

    def results():
        y = net["blocks"][0](x)
        weight, bias = net["blocks"][0].weight, net["blocks"][0].bias
        return [y.detach(), *torch.autograd.grad(y, (x, weight, bias), grad)]

    exact = results()
    assert use_float8(net, emulated=True) == 1
    for ours, right in zip(results(), exact, strict=True):
        assert ours.shape == right.shape and ours.dtype == right.dtype
        # e4m3 has 4 significant bits and e5m2, of the gradients, 3: a rounding error of about 2.5 and 5 %.
        assert torch.linalg.vector_norm(ours - right) < 0.08 * torch.linalg.vector_norm(right)
    assert not torch.equal(results()[0], exact[0])
    undo_float8(net)
    assert all(torch.equal(a, b) for a, b in zip(results(), exact, strict=True))


@needs_torchao
def test_conversion_keeps_parameters_names_and_counts():
    module = wide_module()
    before, flops = dict(module.named_parameters()), training_flops(module)
    keys, groups = list(module.state_dict()), [g["params"] for g in module.configure_optimizers().param_groups]
    for _ in range(2):
        assert use_float8(module.net, emulated=True) == len(LARGE)
        assert list(module.state_dict()) == keys
        assert all(before[name] is p for name, p in module.named_parameters())
        now = [g["params"] for g in module.configure_optimizers().param_groups]
        assert [[id(p) for p in group] for group in now] == [[id(p) for p in group] for group in groups]
        assert training_flops(module) == pytest.approx(flops, rel=0.02)  # zeros count too
        with pytest.raises(ConfigError, match="no layer"):
            use_float8(module.net, emulated=True)
        undo_float8(module.net)
    assert type(module.net.blocks[0].attn.qkv) is nn.Linear
    assert all(before[name] is p for name, p in module.named_parameters())


@needs_torchao
def test_losses_on_digits_stay_close_to_bf16_and_the_checkpoint_is_an_ordinary_one(tmp_path):
    _, bf16, _ = train_on_digits(tmp_path, precision="bf16-mixed")
    module, fp8, trainer = train_on_digits(tmp_path, plugins=[Float8Mixed(emulated=True)])
    assert trainer.precision == FP8_MIXED
    assert fp8.kinds == {"PaddedFloat8Linear"} and bf16.kinds == {"Linear"}
    assert len(fp8.all) == 30 and fp8.all != bf16.all
    assert np.mean(fp8.all[-10:]) < 0.7 * np.mean(fp8.all[:5])
    np.testing.assert_allclose(fp8.all, bf16.all, rtol=0.05)
    # After the training the module is an ordinary one, and so is what loads from its checkpoint.
    assert type(module.net.blocks[0].mlp.w12) is nn.Linear
    trainer.save_checkpoint(tmp_path / "fp8.ckpt")
    loaded = load_module(tmp_path / "fp8.ckpt")
    assert list(loaded.state_dict()) == list(module.state_dict())
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert loaded.ema_params1.keys() == dict(module.named_parameters()).keys()


@needs_torchao
def test_samples_of_a_training_run_in_its_precision(tmp_path):
    plugin = Float8Mixed(emulated=True)
    module = wide_module()
    plugin.convert_module(module)
    with plugin.autocast_context_manager():
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert module.generate(torch.tensor([1, 2]), use_ema=False).isfinite().all()
    plugin.teardown()
    assert float8_layers(module.net) == LARGE


def refused(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        check_float8(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and "use bf16-mixed instead" in text
    return text


def a_card(monkeypatch, capability, *, package=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A100")
    find = importlib.util.find_spec
    spec = object() if package else None
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: spec if name == "torchao" else find(name, *more)
    )


def test_what_is_missing_is_named_in_one_line(monkeypatch):
    if not torch.cuda.is_available():
        assert "needs a CUDA device" in refused()
    a_card(monkeypatch, (8, 0))
    assert "8.9" in (text := refused()) and "NVIDIA A100 has 8.0" in text
    a_card(monkeypatch, (9, 0), package=False)
    assert 'pip install "jitflow[float8]"' in refused()
    a_card(monkeypatch, (9, 0))
    assert "needs a CUDA device" in refused("cpu")
    check_float8("auto")


def small_recipe(**settings):
    recipe = read_recipe("images/digits")
    return override(recipe, {"trainer.precision": FP8_MIXED, "trainer.accelerator": "auto", **settings})


def test_a_recipe_is_refused_before_its_data_are_read(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        prepare(small_recipe(**{"trainer.accelerator": "cpu"}), tmp_path)
    a_card(monkeypatch, (9, 0))
    with pytest.raises(ConfigError, match="no layer in the network's blocks"):
        prepare(small_recipe(), tmp_path)


def test_the_command_line_knows_the_precision(tmp_path, capsys):
    words = ["train", "--config", "images/digits", "--run_dir", str(tmp_path / "run"), "--dry_run", "true"]
    words += ["--trainer.accelerator", "cpu"]
    assert main([*words, "--trainer.precision", FP8_MIXED]) == 1
    assert "fp8-mixed needs a CUDA device" in capsys.readouterr().err
    assert main([*words, "--trainer.precision", "fp9"]) == 1
    assert "--trainer.precision must be" in (error := capsys.readouterr().err) and "or 'fp8-mixed'; got fp9" in error
    assert main([*words, "--trainer.precision", "bf16-mixed"]) == 0
    assert not (tmp_path / "run").exists()


def test_the_trainer_s_arguments(monkeypatch):
    assert precision_arguments("16-mixed", "cpu") == {"precision": "32-true", "plugins": None}
    assert precision_arguments(None, "gpu", ["other"]) == {"precision": None, "plugins": ["other"]}
    a_card(monkeypatch, (9, 0))
    for given, kept in ((None, []), ("one", ["one"]), (["a", "b"], ["a", "b"])):
        arguments = precision_arguments(FP8_MIXED, "auto", given)
        assert arguments["precision"] is None and arguments["plugins"][:-1] == kept
        assert isinstance(arguments["plugins"][-1], Float8Mixed)


def test_memory_is_that_of_bf16():
    with torch.device("meta"):
        module = wide_module()
    assert estimate_memory(module, precision=FP8_MIXED) == estimate_memory(module, precision="bf16-mixed")


def test_another_precision_is_another_setting_of_a_run_and_never_of_its_model():
    then = {"trainer.precision": "32-true"}
    for now in ("bf16-mixed", FP8_MIXED):
        changed = changed_settings(then, {"trainer.precision": now})
        assert changed == {"trainer.precision": ("32-true", now)} and not fixed_settings(changed)
