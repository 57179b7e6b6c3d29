"""The precision that ``auto`` stands for, and what TF32 leaves alone."""

import subprocess

import pytest
import torch
from forked_python import forked_python

from jitflow.errors import ConfigError
from jitflow.model import Model
from jitflow.training.precision import autocast, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TF32 = """
import os, sys, torch
torch.cuda.is_available = lambda: True
from jitflow.host import allow_tf32, full_float32, is_tf32_allowed
exec(sys.argv[1])
a, b = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
before, kind = a @ b, torch.backends.mkldnn.matmul.fp32_precision
allow_tf32()
assert torch.equal(a @ b, before) and torch.backends.mkldnn.matmul.fp32_precision == kind
print(is_tf32_allowed(), torch.get_float32_matmul_precision())
with full_float32():
    assert not is_tf32_allowed()
exec(sys.argv[2])
print(is_tf32_allowed())
"""


def test_auto_follows_the_device(monkeypatch):
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert resolve_precision("auto", CUDA) == ("bf16" if native else "32")
        assert resolve_precision("auto", CPU) == "32"
    assert [resolve_precision(word, CUDA) for word in ("32", "bf16", "16")] == ["32", "bf16", "16"]
    with pytest.raises(ConfigError, match="precision must be one of auto"):
        resolve_precision("8", CPU)


def test_autocast_on_a_cpu():
    product = torch.nn.Linear(4, 4)
    found = {}
    for word in ("auto", "32", "bf16"):
        with autocast(word, CPU):
            found[word] = product(torch.ones(1, 4)).dtype
    assert found == {"auto": torch.float32, "32": torch.float32, "bf16": torch.bfloat16}


def test_samples_record_what_auto_was(make_module):
    model = Model(make_module(cfg_scale=2.0))
    model.module.ema_params1 = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    auto, full = model.sample([1, 2]), model.sample([1, 2], precision="32")
    assert auto.settings["precision"] == "32" and torch.equal(auto.pixels, full.pixels)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", ["True high", "True"]),
        # A user's flag stays, set before or after.
        ("torch.set_float32_matmul_precision('highest')", "", ["False highest", "False"]),
        ("", "torch.backends.cuda.matmul.allow_tf32 = False; allow_tf32()", ["True high", "False"]),
        ("os.environ['NVIDIA_TF32_OVERRIDE'] = '0'", "", ["False highest", "False"]),
        ("torch.cuda.is_available = lambda: False", "", ["False highest", "False"]),
    ],
)
def test_tf32_is_for_cuda_and_a_users_flag_stays(before, after, expected):
    command = [forked_python(), "-c", TF32, before, after]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == expected, done.stderr
