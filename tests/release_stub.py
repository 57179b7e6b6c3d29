"""A folder that looks like a checkout of the JiT release to the benchmarks: its interface, around our own network."""

import textwrap
from pathlib import Path

_NETWORK = """
from jitflow.nets.jit import JiT as Network

JiT_models = {}


def JiT(input_size, in_channels, num_classes, attn_drop, proj_drop, **sizes):
    return Network(input_size, in_channels=in_channels, num_classes=num_classes, **sizes)
"""
_DENOISER = """
import torch

from model_jit import JiT_models


class Denoiser(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        sizes = {"input_size": args.img_size, "in_channels": 3, "num_classes": args.class_num}
        self.net = JiT_models[args.model](**sizes, attn_drop=0.0, proj_drop=0.0)
        self.args, self.steps, self.method = args, args.num_sampling_steps, args.sampling_method

    def forward(self, x, labels):
        t = torch.rand(len(x))
        return (self.net(x, t, labels) - x).square().mean()

    def update_ema(self):
        pass

    @torch.no_grad()
    def generate(self, labels):
        return self._euler_step(torch.randn(len(labels), 3, 8, 8), torch.zeros(1), torch.ones(1), labels)

    @torch.no_grad()
    def _forward_sample(self, z, t, labels):
        def velocity(y):
            return (self.net(z, t.flatten().expand(len(z)), y) - z) / (1 - t).clamp_min(self.args.t_eps)

        low, high = self.args.interval_min, self.args.interval_max
        scale = torch.where((t < high) & ((low == 0) | (t > low)), self.args.cfg, 1.0)
        without = velocity(torch.full_like(labels, self.args.class_num))
        return without + scale * (velocity(labels) - without)

    def _euler_step(self, z, t, t_next, labels):
        return z + (t_next - t) * self._forward_sample(z, t, labels)

    def _heun_step(self, z, t, t_next, labels):
        v = self._forward_sample(z, t, labels)
        return z + (t_next - t) * (v + self._forward_sample(z + (t_next - t) * v, t_next, labels)) / 2
"""


def write_release_stub(folder: Path) -> Path:
    """Write the checkout and return its folder."""
    for name, text in (("model_jit.py", _NETWORK), ("denoiser.py", _DENOISER), ("util/model_util.py", "")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder
