"""Draw the figures of the concept pages (about half a minute): ``python docs/make_concept_figures.py``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from jitflow.apps.microdoppler.gait import (
    Radar,
    SpectrogramSettings,
    Walk,
    Walker,
    draw_walk,
    draw_walkers,
    simulate_image,
)
from jitflow.apps.text.colour import ColourCodec
from jitflow.apps.text.tokenizer import ByteTokenizer
from jitflow.codec.linear import LinearCodec
from jitflow.codec.pixel import PixelCodec
from jitflow.core.guidance import guidance_weight, guided_velocity
from jitflow.core.path import expand_time, interpolate, velocity_from_data
from jitflow.core.power_ema import exponent_from_width, reconstruction_coefficients
from jitflow.core.seeding import noise_from_seeds
from jitflow.core.solver import integrate
from jitflow.core.times import TimeDistribution, time_grid
from jitflow.data.digits import DigitsDataModule
from jitflow.io.files import atomic_path

IMAGES = Path(__file__).parent / "images"
COLOURS = ["#1f6fb4", "#e07b39", "#3a9a5b", "#8a8f98", "#8e4ec6"]
T_EPS = 0.05


def save(figure: Figure, name: str) -> None:
    """Save a figure under docs/images/."""
    with atomic_path(IMAGES / name) as temporary:
        figure.savefig(temporary, format="png")


def digits(num: int | None = None) -> Tensor:
    """Load scans of digits in the model space, shape ``(N, 1, 16, 16)``."""
    data = DigitsDataModule(img_size=16)
    data.setup("fit")
    pixels = torch.stack([data.dataset_train[i][0] for i in range(num or len(data.dataset_train))])
    return PixelCodec((16, 16), 1).encode(pixels)


def draw_path() -> None:
    """Draw a digit on its path, with two noise scales, and the densities of training times."""
    times = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    figure = Figure(figsize=(13, 3.6), dpi=80, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.6, 1))
    axes = left.subplots(2, len(times))
    x1, unit_noise = digits(1), noise_from_seeds((1, 16, 16), [1])
    for row, scale in zip(axes, (1.0, 2.0), strict=True):
        for axis, t in zip(row, times, strict=True):
            x_t = interpolate(scale * unit_noise, x1, torch.tensor([t]))
            axis.imshow(x_t[0, 0].clamp(-2, 2), cmap="gray", vmin=-1.5, vmax=1.5)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"noise_scale {scale:g}", fontsize=10)
    for axis, t in zip(axes[0], times, strict=True):
        axis.set_title(f"t = {t:g}", fontsize=10)
    axis = right.subplots()
    edges = np.linspace(0, 1, 61)
    z = torch.special.ndtri(torch.linspace(1e-5, 1 - 1e-5, 400_001, dtype=torch.float64))
    cases = {
        "logit-normal (-0.8, 0.8), the default": TimeDistribution(),
        "logit-normal (0, 1), LightningDiT": TimeDistribution(mean=0.0, std=1.0),
        "uniform": TimeDistribution(kind="uniform"),
    }
    for (name, distribution), colour in zip(cases.items(), COLOURS, strict=False):
        density, _ = np.histogram(distribution.from_normal(z).numpy(), bins=edges, density=True)
        axis.plot((edges[1:] + edges[:-1]) / 2, density, color=colour, label=name)
    axis.set(xlabel="t (0 noise, 1 data)", ylabel="density of training times", xlim=(0, 1), ylim=(0, 3.2))
    axis.legend(frameon=False, fontsize=9)
    save(figure, "concept_path.png")


def draw_predictions() -> None:
    """Draw the weights of the losses, and the dimensions of the three targets."""
    t = torch.linspace(0.005, 0.995, 400, dtype=torch.float64)
    weights = {
        "velocity (here)": 1 / (1 - t).clamp_min(T_EPS) ** 2,
        "data": torch.ones_like(t),
        "noise": (t / (1 - t)) ** 2,
    }
    logit = torch.log(t / (1 - t))
    density = torch.exp(-(((logit + 0.8) / 0.8) ** 2) / 2) / (0.8 * math.sqrt(2 * math.pi) * t * (1 - t))
    figure = Figure(figsize=(14, 4.2), dpi=80, layout="constrained")
    first, second, third = figure.subplots(1, 3)
    for (name, weight), colour in zip(weights.items(), COLOURS, strict=False):
        first.semilogy(t, weight, color=colour, label=f"loss on the {name}")
        seen = weight * density
        second.plot(t, seen / torch.trapezoid(seen, t), color=colour, label=name)
    first.set(ylim=(1e-3, 1e4), xlabel="t", title="weight that a loss gives an error of the data")
    second.set(xlabel="t", title="the same, times how often t is trained on", ylim=(0, 3))
    x1 = digits().flatten(1).double()
    data = torch.cov(x1.T)
    noise = torch.eye(len(data), dtype=torch.float64)
    for (name, covariance), colour in zip(
        {"velocity = data - noise": data + noise, "data": data, "noise": noise}.items(), COLOURS, strict=False
    ):
        variances = torch.linalg.eigvalsh(covariance).flip(0)
        third.plot(np.arange(1, len(variances) + 1), variances.cumsum(0) / variances.sum(), color=colour, label=name)
    third.set(
        xlabel="directions (of 256)", ylabel="share of the variance", title="what a network must put out (digits)"
    )
    for axis in (first, second, third):
        axis.legend(frameon=False, fontsize=9)
        axis.grid(alpha=0.25)
    save(figure, "concept_predictions.png")


def arms(num_per_arm: int = 24) -> tuple[Tensor, Tensor]:
    """Centre points of three bent arms with a common origin, shape ``(3 num_per_arm, 2)``, and their classes."""
    angle = torch.tensor([math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6])
    label = torch.arange(3).repeat_interleave(num_per_arm)
    along = torch.linspace(0.05, 1.6, num_per_arm).repeat(3)[:, None]
    out = torch.stack([angle.cos(), angle.sin()], 1)[label]
    return along * out + 0.5 * along**2 * torch.stack([-out[:, 1], out[:, 0]], 1), label


def exact_velocity(x: Tensor, t: Tensor, y: Tensor, *, spread: float = 0.07) -> Tensor:
    """Exact velocity for data of Gaussians around the points of :func:`arms`; class 3 is any class.

    Given x_t = x, the component with mean m has the likelihood N(t m, t^2 s^2 + (1-t)^2), and its data the mean
    m + t s^2 / (t^2 s^2 + (1-t)^2) (x - t m).
    """
    centres, label = arms()
    s = expand_time(t, x)[..., None]
    variance = (s * spread) ** 2 + (1 - s) ** 2
    away = x[:, None] - s * centres
    score = -away.square().sum(-1) / (2 * variance[..., 0])
    score = score.masked_fill((y[:, None] != label) & (y[:, None] < 3), -torch.inf)
    mean = centres + s * spread**2 / variance * away
    data = (torch.softmax(score, dim=1)[..., None] * mean).sum(1)
    return velocity_from_data(data, x, t, t_eps=1e-3)


def draw_guidance() -> None:
    """Draw samples in the plane with exact velocities, with guidance everywhere and inside an interval."""
    label = torch.arange(600) % 3
    noise = noise_from_seeds((2,), range(len(label)))
    cases: list[tuple[str, float, tuple[float, float]]] = [
        ("no guidance (scale 1)", 1.0, (0.0, 1.0)),
        ("scale 3", 3.0, (0.0, 1.0)),
        ("scale 3, inside (0.5, 1)", 3.0, (0.5, 1.0)),
    ]
    figure = Figure(figsize=(15, 4), dpi=80, layout="constrained")
    axes = figure.subplots(1, 4)
    centres, _ = arms()
    for axis, (title, scale, interval) in zip(axes, cases, strict=False):

        def velocity(x: Tensor, t: Tensor, scale: float = scale, interval: tuple[float, float] = interval) -> Tensor:
            return guided_velocity(exact_velocity, x, t, label, null_label=3, scale=scale, interval=interval)

        x = integrate(velocity, noise, time_grid(100), solver="heun")
        axis.scatter(*centres.T, c="#d5d8dc", s=60)
        axis.scatter(*x.T, c=[COLOURS[y] for y in label.tolist()], s=5)
        axis.set(title=title, aspect="equal", xlim=(-2.4, 2.4), ylim=(-2.4, 2.4))
    t = torch.linspace(0, 1, 501)
    for (title, scale, interval), colour in zip(cases, (COLOURS[3], COLOURS[4], COLOURS[0]), strict=True):
        axes[3].plot(t, guidance_weight(t, scale, interval), color=colour, label=title)
    axes[3].set(title="weight of the guidance", xlabel="t", ylim=(0, 4))
    axes[3].legend(frameon=False, fontsize=9)
    save(figure, "concept_guidance.png")


def power_profile(at: np.ndarray, end: float, width: float) -> np.ndarray:
    """Weight of each step in a power-function average that ends at ``end``."""
    gamma = exponent_from_width(width)
    return np.where(at <= end, (gamma + 1) * at**gamma / end ** (gamma + 1), 0.0)


def draw_averages() -> None:
    """Draw the profiles of averages, and one reconstructed from snapshots."""
    figure = Figure(figsize=(14, 4.2), dpi=80, layout="constrained")
    first, second, third = figure.subplots(1, 3)
    steps = np.logspace(1, 5, 400)
    for decay, colour in zip((0.9999, 0.9996, 0.999, 0.99), COLOURS, strict=False):
        first.semilogx(steps, decay**steps, color=colour, label=f"decay {decay:g}")
    first.set(xlabel="optimiser steps", title="share of the first, untrained weights")
    end = 10_000
    at = np.linspace(1, end, 2000)
    for decay, colour in zip((0.9999, 0.9996), COLOURS, strict=False):
        second.plot(at, (1 - decay) * decay ** (end - at) * end, color=colour, label=f"decay {decay:g}")
    for width, colour in zip((0.05, 0.1, 0.2), COLOURS[2:], strict=True):
        second.plot(at, power_profile(at, end, width) * end, color=colour, ls="--", label=f"power, width {width:g}")
    second.set(xlabel="step", title=f"weight of each of {end:,} steps (mean 1)", ylim=(0, 12))
    kept = [(step, width) for step in range(1000, end + 1, 1000) for width in (0.05, 0.1)]
    c = reconstruction_coefficients(
        [step for step, _ in kept], [exponent_from_width(w) for _, w in kept], end, exponent_from_width(0.15)
    )
    for step, width in kept:
        third.plot(at, power_profile(at, step, width) * end, color="#d5d8dc", linewidth=0.8)
    made = sum(float(w) * power_profile(at, *one) for w, one in zip(c, kept, strict=True)) * end
    third.plot(at, power_profile(at, end, 0.15) * end, color=COLOURS[0], linewidth=3, label="width 0.15, wanted")
    third.plot(at, made, color=COLOURS[1], ls="--", label="made from the snapshots (grey)")
    third.set(xlabel="step", title="an average of another width, after training", ylim=(-1, 12))
    for axis in (first, second, third):
        axis.legend(frameon=False, fontsize=9)
        axis.grid(alpha=0.25)
    save(figure, "concept_averages.png")


def spectrograms() -> Tensor:
    """Simulate forty spectrograms, shape ``(40, 3, 256, 256)``, uint8; the first is of a user not among the others."""
    radar, settings = Radar(), SpectrogramSettings()
    pictures = [simulate_image(Walker(), Walk(), radar, settings)]
    for user, walker in enumerate(draw_walkers(3, 0)):
        pictures += [simulate_image(walker, draw_walk(0, user, i), radar, settings) for i in range(13)]
    return torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures])


def draw_codecs() -> None:
    """Draw the three codecs: data, model space, and decoded data."""
    figure = Figure(figsize=(14, 7.5), dpi=80, layout="constrained")
    axes = figure.subplots(2, 5)
    pictures = spectrograms()
    codec = LinearCodec.fit([pictures[1:]])
    latents = codec.encode(pictures[:1])
    axes[0, 0].imshow(pictures[0].permute(1, 2, 0))
    axes[0, 0].set_title("a spectrogram, 3 x 256 x 256")
    for axis, channel in zip(axes[0, 1:4], (0, 1, 8), strict=True):
        axis.imshow(latents[0, channel], cmap="PuOr")
        axis.set_title(f"latent channel {channel} of 32, 16 x 16")
    axes[0, 4].imshow(codec.decode(latents)[0].permute(1, 2, 0))
    axes[0, 4].set_title("decoded")

    text = "A model of text as colour writes its words as tiles of colour, and reads them back from noise. " * 6
    for column, (mapping, noise) in enumerate(
        [("base256", 0.0), ("base256", 0.1), ("codebook", 0.0), ("codebook", 0.1), ("codebook", 0.6)]
    ):
        tokenizer = ByteTokenizer()
        colours = ColourCodec(tokenizer.vocab_size, mapping, img_size=64 if mapping == "codebook" else 16)
        ids = torch.tensor(tokenizer.encode(text)[: colours.num_tokens])[None]
        x = colours.encode(ids)
        x = x + noise * noise_from_seeds(x.shape[1:], [0])
        right = (colours.tokens(x) == ids).double().mean()
        axes[1, column].imshow(colours.decode(x)[0].permute(1, 2, 0))
        axes[1, column].set_title(f"{mapping}, noise {noise:g}: {right:.0%} read")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    save(figure, "concept_codecs.png")


if __name__ == "__main__":
    draw_path()
    draw_predictions()
    draw_guidance()
    draw_averages()
    draw_codecs()
