"""The module from the release's command-line arguments."""

from argparse import Namespace

import pytest

from jitflow.apps.images.from_args import create_jit_lightning_module, learning_rate_from_args
from jitflow.errors import ConfigError

ARGS = {
    "model": "JiT-N/4",
    "img_size": 8,
    "class_num": 7,
    "attn_dropout": 0.1,
    "proj_dropout": 0.2,
    "weight_decay": 0.3,
    "ema_decay1": 0.99,
    "ema_decay2": 0.9,
    "P_mean": -0.4,
    "P_std": 1.2,
    "noise_scale": 2.0,
    "t_eps": 0.03,
    "label_drop_prob": 0.2,
    "sampling_method": "euler",
    "num_sampling_steps": 9,
    "cfg": 2.9,
    "interval_min": 0.1,
    "interval_max": 0.8,
    "lr": None,
    "blr": 5e-5,
    "batch_size": 128,
}


def test_every_argument_arrives():
    module = create_jit_lightning_module(Namespace(**ARGS))
    expected = {
        **{k: v for k, v in ARGS.items() if hasattr(module, k) and k not in ("model", "lr", "blr", "batch_size")},
        "model_name": "JiT-N/4",
        "num_classes": 7,
        "cfg_scale": 2.9,
        "cfg_interval": (0.1, 0.8),
        "attn_dropout": 0.1,
        "proj_dropout": 0.2,
        "learning_rate": 2.5e-5,
    }
    assert {name: module.hparams[name] for name in expected} == expected
    assert len(expected) == 18
    assert module.net.blocks[1].mlp.dropout.p == 0.2


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({"lr": 3e-4}, 3e-4),
        ({"batch_size": 1024}, 2e-4),
        ({"batch_size": 128, "world_size": 8}, 2e-4),
        ({"batch_size": 64, "world_size": 4, "accum_iter": 4}, 2e-4),
        ({"batch_size": 256, "world_size": None, "accum_iter": 1}, 5e-5),
    ],
)
def test_learning_rate(given, rate):
    args = Namespace(**{"lr": None, "blr": 5e-5, **given})
    assert learning_rate_from_args(args) == pytest.approx(rate)


@pytest.mark.parametrize("name", [n for n in ARGS if n not in ("lr",)])
def test_a_missing_argument_is_named(name):
    with pytest.raises(ConfigError, match=rf"args lacks {name} "):
        create_jit_lightning_module(Namespace(**{k: v for k, v in ARGS.items() if k != name}))


def test_no_rate_needed_with_lr():
    args = {k: v for k, v in ARGS.items() if k not in ("blr", "batch_size")}
    assert create_jit_lightning_module(Namespace(**{**args, "lr": 1e-3})).learning_rate == 1e-3
