"""Checks of the blocks that document the module."""

from __future__ import annotations

import inspect
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from documented_checks import check, samples
from double_network import in_double

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.seeding import use_seeds
from jitflow.errors import ConfigError

# Parameters of the released variants, the fixed positions included.
MILLIONS = {"JiT-B/16": 131.32, "JiT-L/16": 459.14, "JiT-H/16": 952.84, "JiT-B/32": 133.39}


def settings(module, **expected):
    """Assert that settings are attributes and hyperparameters alike."""
    assert {k: module.hparams[k] for k in expected} == expected
    attributes = {k: v for k, v in expected.items() if k not in ("attn_dropout", "proj_dropout")}
    assert {k: getattr(module, k) for k in attributes} == attributes


def millions(module):
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


def losses_of(module, ns):
    """Loss of each batch of one epoch, under the seed that every fit starts with."""
    from jitflow.callbacks.history import TrainingHistory

    history = TrainingHistory()
    ns["fit"](module, callbacks=[history])
    assert len(history.losses) == 8
    return history.losses


@check("model_module 1")
def _(ns):
    values = ("JiT-N/4", 16, 5, 0.1, 0.2, 1e-3, 0.01, 0.9, 0.8, -0.4, 1.2, 2.0, 0.1, 0.2, "euler", 7, 2.9, (0.1, 0.8))
    names = list(inspect.signature(ns["JiTLightningModule"]).parameters)
    settings(JiTLightningModule(*values), **dict(zip(names, values, strict=True)))


@check("model_module 2")
def _(ns):
    settings(ns["model"], cfg_scale=2.9, cfg_interval=(0.1, 1.0), num_sampling_steps=50, ema_decay1=0.9999)
    assert millions(ns["model"]) == MILLIONS["JiT-B/16"]


@check("model_module 3")
def _(ns):
    trainer = ns["trainer"]
    assert trainer.global_step == 8
    assert trainer.precision == "bf16-mixed"
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    # Nobody asked for a checkpoint callback: Lightning's own file must serve as well.
    saved = next(Path("lightning_logs").rglob("*.ckpt"))
    again = JiTLightningModule.load_from_checkpoint(saved)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ns["model"].parameters(), strict=True))


@check("model_module 4")
def _(ns):
    # 5e-5 for 256 images, and a batch is 4.
    settings(ns["model"], model_name="JiT-N/4", num_classes=5, cfg_scale=2.9, cfg_interval=(0.1, 1.0))
    assert ns["model"].learning_rate == pytest.approx(5e-5 * 4 / 256)


@check("model_module 5")
def _(ns):
    model, trained = ns["model"], ns["trained"]
    assert model is not trained
    assert dict(model.hparams) == dict(trained.hparams)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for version in (1, 2):
        for name, value in trained.ema_parameters(version).items():
            assert torch.equal(model.ema_parameters(version)[name], value), name
    assert torch.equal(samples(model), samples(trained))


@check("model_module 6")
def _(ns):
    model = ns["model"]
    plain = ns["tiny"](JiTLightningModule)
    assert losses_of(ns["tiny"](type(model)), ns) == losses_of(plain, ns)
    # An overridden step takes the plain loop, which in float32 can differ in the last bits.
    ours, plain_ones = (samples(in_double(module), use_ema=False) for module in (model, ns["trained_plain"]))
    torch.testing.assert_close(ours, plain_ones, rtol=0, atol=1e-5)


@check("model_module 7")
def _(ns):
    printed, plain = (ns["tiny"](cls) for cls in (type(ns["model"]), JiTLightningModule))
    torch.testing.assert_close(losses_of(printed, ns), losses_of(plain, ns), rtol=1e-4, atol=1e-6)
    assert "train/loss" in printed.trainer.callback_metrics


@check("model_module 8")
def _(ns):
    optimizer = ns["trainer"].optimizers[0]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    for name, value in ns["trained_plain"].state_dict().items():
        torch.testing.assert_close(ns["model"].state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


@check("model_module 9")
def _(ns):
    images = ns["generated_images"]
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.float32
    # Bounded by what the network says; a fresh one says 0 and the samples end there.
    assert images.abs().max() < 1


@check("model_module 10")
def _(ns):
    model = ns["model"]
    settings_now = (model.sampling_method, model.num_sampling_steps, model.cfg_scale, model.cfg_interval)
    assert settings_now == ("euler", 50, 2.9, (0.1, 1.0))
    assert ns["images_uint8"].dtype == torch.uint8
    assert ns["images_uint8"].shape == (2, 3, 16, 16)
    # Our own conversion rounds where the printed one cuts off.
    ours = ns["model"].codec.decode(ns["images"])
    assert (ours.int() - ns["images_uint8"].int()).abs().max() <= 1
    other = samples(model)
    model.sampling_method = "heun"
    assert not torch.equal(samples(model), other)


def solver_step_check(solver):
    def verify(ns):
        images = []
        for cls in (type(ns["model"]), JiTLightningModule):
            module = in_double(ns["tiny"](cls, sampling_method=solver, cfg_scale=2.0, cfg_interval=(0.1, 1.0)))
            images.append(samples(module, use_ema=False))
        torch.testing.assert_close(*images, rtol=0, atol=1e-5)
        # The printed step is what ran: with another one the images differ.
        step = f"_{solver}_step"
        other = type("Other", (type(ns["model"]),), {step: lambda self, z, t, t_next, labels: z})
        module = ns["tiny"](other, sampling_method=solver)
        assert not torch.allclose(samples(module, use_ema=False), images[0], atol=1e-2)

    return verify


check("model_module 11")(solver_step_check("euler"))
check("model_module 12")(solver_step_check("heun"))


@check("model_module 13")
def _(ns):
    metrics = ns["trainer"].callback_metrics
    assert metrics["custom_metric"] == 0.25
    assert torch.isfinite(metrics["train/loss"])
    for name, value in ns["trained_plain"].state_dict().items():
        assert torch.equal(ns["model"].state_dict()[name], value), name


@check("model_module 14")
def _(ns):
    model, labels = in_double(ns["model"]), torch.tensor([0, 3])
    with use_seeds([0, 1]):
        drawn = model.generate(labels)
    with use_seeds([0, 1]):
        z = torch.randn(2, 3, 16, 16)
    for i in range(3):
        z = z + 0.5 / 3 * model._forward_sample(z, i / 3, labels)
    torch.testing.assert_close(drawn, z, rtol=1e-4, atol=1e-5)


@check("model_module 15")
def _(ns):
    model = ns["model"]
    expected = model.ema_parameters(1 + ns["alternative"])
    other = model.ema_parameters(2 - ns["alternative"])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert any(not torch.equal(expected[name], other[name]) for name in expected)
    with pytest.raises(ConfigError, match="1 or 2"):
        ns["ema_callback"].load_ema_to_model(model, ema_version=3)


def fitted(ns, steps=8):
    before = [p.clone() for p in ns["model"].parameters()]
    ns["trainer"].fit(ns["model"], datamodule=ns["datamodule"])
    assert ns["trainer"].global_step == steps
    assert any(not torch.equal(a, b) for a, b in zip(before, ns["model"].parameters(), strict=True))


@check("model_module 16")
def _(ns):
    # float16 needs a GPU; Lightning takes bfloat16 without one, and says so.
    assert ns["trainer"].precision == "bf16-mixed"
    fitted(ns)
    assert all(p.dtype == torch.float32 for p in ns["model"].parameters())


@check("model_module 17")
def _(ns):
    fitted(ns, steps=4)


@check("model_module 18")
def _(ns):
    norms = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(grads).item())

    class Clipped(JiTLightningModule):
        def configure_gradient_clipping(self, *args, **kwargs):
            super().configure_gradient_clipping(*args, **kwargs)
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(grads).item())

    ns["trainer"].callbacks.append(Watch())
    ns["model"] = ns["tiny"](Clipped)
    fitted(ns)
    assert max(norms[0::2]) > 1.0, "nothing was there to clip"
    assert max(norms[1::2]) < 1.0 + 1e-4


@check("model_module 19")
def _(ns):
    plain, compiled = (ns["tiny"](JiTLightningModule, compile=c) for c in (False, True))
    assert all(block._compiled_call_impl is None for block in plain.net.blocks)
    assert all(block._compiled_call_impl is not None for block in compiled.net.blocks)


@check("model_module 20")
def _(ns):
    metrics = ns["trainer"].callback_metrics
    assert metrics["train/custom_metric"] == metrics["train/custom_metric_epoch"] == 0.25
    assert "train/loss" in ns["trainer"].progress_bar_metrics


@check("model_module 21")
def _(ns):
    settings(ns["model"], learning_rate=2e-4, cfg_scale=2.9, proj_dropout=0.0, noise_scale=1.0, P_mean=-0.8)
    assert millions(ns["model"]) == MILLIONS["JiT-B/16"]


@check("model_module 22")
def _(ns):
    settings(ns["model"], learning_rate=2e-4, cfg_scale=2.4)
    assert millions(ns["model"]) == MILLIONS["JiT-L/16"]


@check("model_module 23")
def _(ns):
    settings(ns["model"], learning_rate=2e-4, cfg_scale=2.2, proj_dropout=0.2)
    assert millions(ns["model"]) == MILLIONS["JiT-H/16"]
    # Dropout acts in the middle half of the 32 blocks.
    acting = [i for i, block in enumerate(ns["model"].net.blocks) if block.mlp.dropout.p == 0.2]
    assert acting == list(range(8, 24))


@check("model_module 24")
def _(ns):
    settings(ns["model"], model_name="JiT-B/32", img_size=512, noise_scale=2.0, cfg_scale=2.9)
    assert millions(ns["model"]) == MILLIONS["JiT-B/32"]


@check("model_module 25")
def _(ns):
    model = ns["model"]
    assert (model.num_sampling_steps, model.cfg_scale, model.cfg_interval) == (100, 2.9, (0.1, 1.0))
    assert ns["images"].shape == (2, 3, 16, 16)
    with_average = samples(model, use_ema=True)
    assert not torch.equal(samples(model, use_ema=False), with_average)
    ns["ema_callback"].load_ema_to_model(model, 1)
    assert torch.equal(samples(model, use_ema=False), with_average)


@check("model_module 26")
def _(ns):
    assert ns["datamodule"].img_size == ns["model"].img_size == ns["model"].net.img_size[0] == 256


@check("model_module 27")
def _(ns):
    callbacks = {type(c).__name__: c for c in ns["callbacks"]}
    assert callbacks["EMACallback"].ema_decay1 == ns["model"].ema_decay1
    assert callbacks["EMACallback"].ema_decay2 == ns["model"].ema_decay2
    # Its schedule is made for 600 epochs; here is one, inside the warm-up.
    ns["fit"](ns["model"], callbacks=ns["callbacks"])
    assert Path("checkpoints/checkpoint-last.pth").is_file()
