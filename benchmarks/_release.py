"""The JiT release, or a fork, from a checkout outside this repository: the reference of the ratios.

Its modules have general names (``denoiser``, ``util``), so they are imported from the given folder only, and only
here. CPU rows need a fork that runs without CUDA.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jitflow.apps.images.module import JiTLightningModule
from jitflow.errors import MissingFileError

_NEEDS = ("denoiser.py", "model_jit.py", "util/model_util.py")


def release_twin(checkout: Path, ours: JiTLightningModule) -> Any:
    """Build the release's ``Denoiser`` with the sizes, settings and weights of a module of this library.

    Args:
        checkout: Folder of the release.
        ours: The module; three channels, square images.

    Returns:
        The denoiser, on the module's device.

    Raises:
        MissingFileError: If the folder is not such a checkout.
    """
    for name in _NEEDS:
        if not (checkout / name).is_file():
            raise MissingFileError(f"{checkout} is not a checkout of the JiT release: it has no {name}")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    networks, denoiser = (importlib.import_module(name) for name in ("model_jit", "denoiser"))
    net = ours.net
    assert isinstance(net.in_context_len, int)
    networks.JiT_models["twin"] = functools.partial(
        networks.JiT,
        patch_size=net.patch_size,
        hidden_size=net.pos_embed.shape[-1],
        depth=len(net.blocks),
        num_heads=net.blocks[0].attn.num_heads,
        bottleneck_dim=net.x_embedder.proj1.out_channels,
        in_context_len=net.in_context_len,
        in_context_start=net.in_context_start,
    )
    args = argparse.Namespace(
        model="twin",
        img_size=net.img_size[0],
        class_num=ours.num_classes,
        attn_dropout=0.0,
        proj_dropout=0.0,
        label_drop_prob=ours.label_drop_prob,
        P_mean=ours.P_mean,
        P_std=ours.P_std,
        t_eps=ours.t_eps,
        noise_scale=ours.noise_scale,
        ema_decay1=ours.ema_decay1,
        ema_decay2=ours.ema_decay2,
        sampling_method=ours.sampling_method,
        num_sampling_steps=ours.num_sampling_steps,
        cfg=ours.cfg_scale,
        interval_min=ours.cfg_interval[0],
        interval_max=ours.cfg_interval[1],
    )
    twin = denoiser.Denoiser(args).to(ours.device)
    twin.net.load_state_dict(net.state_dict())
    return twin


def release_training_step(
    twin: nn.Module, images: Tensor, labels: Tensor, autocast: Any, *, eager: bool = False
) -> Callable[[], Tensor]:
    """Build the release's training step: normalise, loss, read it, backward, AdamW, synchronise, two averages.

    Args:
        twin: The denoiser.
        images: Shape ``(B, 3, H, W)``, uint8.
        labels: Shape ``(B,)``.
        autocast: Context of the forward pass.
        eager: Run the release's blocks uncompiled.

    Returns:
        The step, which returns its loss.
    """
    decay = [p for p in twin.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in twin.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decay, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    for name in ("ema_params1", "ema_params2"):
        setattr(twin, name, [p.detach().clone() for p in twin.parameters()])

    def step() -> Tensor:
        x = images.to(torch.float32).div(255) * 2.0 - 1.0
        with autocast, torch.compiler.set_stance("force_eager") if eager else nullcontext():
            loss = twin(x, labels)
        loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if x.is_cuda:
            torch.cuda.synchronize()
        twin.update_ema()
        return loss.detach()

    return step


@torch.no_grad()
def release_samples(twin: Any, noise: Tensor, labels: Tensor) -> Tensor:
    """Sample with the release's steps from given noise, where its own ``generate`` draws it.

    Args:
        twin: The denoiser.
        noise: Shape ``(B, 3, H, W)``, of the denoiser's noise scale.
        labels: Shape ``(B,)``.

    Returns:
        Samples, shape ``(B, 3, H, W)``.
    """
    times = torch.linspace(0.0, 1.0, twin.steps + 1, device=noise.device)
    grid = [t.expand(len(noise)).view(-1, 1, 1, 1) for t in times]
    x = noise
    for t, t_next in pairwise(grid[:-1]):
        x = twin._heun_step(x, t, t_next, labels)
    return twin._euler_step(x, grid[-2], grid[-1], labels)  # type: ignore[no-any-return]
