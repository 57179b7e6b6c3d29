"""Draw images with an exported program. Needs torch and Pillow; jitflow need not be installed.

    python sample.py --labels 0,1,2 --seeds 0,1,2 --out images

Labels may be names of classes, where ``sampling.json`` lists them.

The folder of this file holds ``velocity.pt2`` (state, time, label -> velocity), ``decoder.pt2`` (one state -> pixels)
and ``sampling.json`` (all other settings that determine an image).
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Sequence
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]


def draw_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Draw standard normal noise, shape ``(len(seeds), *shape)``, each sample from its own generator on the CPU."""
    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=torch.Generator().manual_seed(seed))
    return noise


def make_times(num_steps: int, shift: float) -> Tensor:
    """Make the time grid from 0 (noise) to 1 (data), shape ``(num_steps + 1,)``; a shift above 1 favours noise."""
    t = torch.linspace(0.0, 1.0, num_steps + 1)
    return t if shift == 1 else t / (t + shift * (1 - t))


def guide(velocity: Callable[[Tensor, Tensor, Tensor], Tensor], labels: Tensor, settings: dict[str, Any]) -> Field:
    """Guided velocity ``v_uncond + w (v_cond - v_uncond)``; ``w`` is the scale inside the interval and 1 outside.

    Args:
        velocity: Field ``(x, t, label)``, shapes ``(B, C, H, W)``, ``(B,)``, ``(B,)``.
        labels: Shape ``(B,)``, int64.
        settings: ``guidance``, ``interval``, ``null_label``, ``guided_channels`` (None for all).

    Returns:
        Field ``(x, t)`` with ``t`` 0-d.
    """
    low, high = torch.tensor(settings["interval"], dtype=torch.float32)

    def field(x: Tensor, t: Tensor) -> Tensor:
        v_cond = velocity(x, t.expand(len(x)), labels)
        inside = t < high and (low == 0 or t > low)
        if settings["guidance"] == 1 or not inside:
            return v_cond
        v_uncond = velocity(x, t.expand(len(x)), torch.full_like(labels, settings["null_label"]))
        guided = v_uncond + settings["guidance"] * (v_cond - v_uncond)
        channels = settings["guided_channels"]
        return guided if channels is None else torch.cat([guided[:, :channels], v_cond[:, channels:]], dim=1)

    return field


def integrate(velocity: Field, x: Tensor, times: Tensor, solver: str) -> Tensor:
    """Integrate a state ``(B, C, H, W)`` with the solver ``euler``, ``heun``, ``midpoint`` or ``multistep``."""
    before: tuple[Tensor, float] | None = None
    for i, (t, t_next) in enumerate(pairwise(times)):
        dt = float(t_next - t)
        v = step = velocity(x, t)
        if solver == "heun" and i < len(times) - 2:
            step = (v + velocity(x + dt * v, t_next)) / 2
        elif solver == "midpoint":
            step = velocity(x + dt / 2 * v, t + (t_next - t) / 2)
        elif solver == "multistep":
            if before is not None:
                step = v + dt / (2 * before[1]) * (v - before[0])
            before = v, dt
        x = x + dt * step
    return x


@torch.no_grad()
def sample(folder: str | Path, labels: Sequence[int], seeds: Sequence[int], **changed: Any) -> Tensor:
    """Generate one image for each label.

    Args:
        folder: Folder of the programs.
        labels: Classes.
        seeds: As many seeds.
        changed: Entries of ``sampling.json`` to replace, such as ``guidance=2.0`` or ``steps=20``.

    Returns:
        Images, shape ``(B, C, H, W)``, uint8.
    """
    folder = Path(folder)
    settings = {**json.loads((folder / "sampling.json").read_text(encoding="utf-8")), **changed}
    velocity = torch.export.load(folder / "velocity.pt2").module()
    decoder = torch.export.load(folder / "decoder.pt2").module()
    x = settings["noise_scale"] * draw_noise(settings["shape"], seeds)
    times = make_times(settings["steps"], settings["time_shift"])
    x = integrate(guide(velocity, torch.tensor(labels), settings), x, times, settings["solver"])
    return torch.cat([decoder(one) for one in x.split(1)])


def read_label(word: str, names: Sequence[str]) -> int:
    """Read a class label: a number, or one of the classes' names; ValueError with the nearest name for another word.

    Args:
        word: The label.
        names: Names of the classes by label.
    """
    if word.isascii() and word.isdigit():
        return int(word)
    if word in names:
        return names.index(word)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    raise ValueError(f"there is no class {word!r}" + (f"; did you mean {near[0]}?" if near else "; give its number"))


def unused_folder(folder: Path) -> Path:
    """Return a folder without images: the given one, or else a numbered one beside it, such as ``images-2``.

    Args:
        folder: The folder, which need not exist.
    """
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(path for path in chain([folder], numbered) if not any(path.glob("*.png")))


def main() -> None:
    """Generate images into a folder."""
    from PIL import Image

    parser = argparse.ArgumentParser(description="Draw images with an exported program.")
    parser.add_argument("--labels", default="0", help="classes, as numbers or names, such as 0,1,2")
    parser.add_argument("--seeds", default="0", help="a seed for each image")
    parser.add_argument("--guidance", type=float, help="guidance scale; 1 for none")
    parser.add_argument("--steps", type=int, help="steps of the solver")
    parser.add_argument("--solver", choices=("euler", "heun", "midpoint", "multistep"))
    parser.add_argument(
        "--out", default="images", help="folder of the images; a numbered one beside it if it holds images"
    )
    args = parser.parse_args()
    folder = Path(__file__).parent
    settings = json.loads((folder / "sampling.json").read_text(encoding="utf-8"))
    names = settings.get("classes", [])
    try:
        labels = [read_label(word.strip(), names) for word in args.labels.split(",")]
    except ValueError as error:
        parser.error(str(error))
    if max(labels) > settings["null_label"]:
        parser.error(f"--labels: this model has classes 0 to {settings['num_classes'] - 1}; got {max(labels)}")
    seeds = [int(word) for word in args.seeds.split(",")]
    if len(labels) != len(seeds):
        parser.error(f"{len(labels)} labels and {len(seeds)} seeds; give as many of one as of the other")
    given = {"guidance": args.guidance, "steps": args.steps, "solver": args.solver}
    images = sample(folder, labels, seeds, **{k: v for k, v in given.items() if v is not None})
    out = unused_folder(Path(args.out))
    out.mkdir(parents=True, exist_ok=True)
    drawn = zip(images.permute(0, 2, 3, 1).numpy(), labels, seeds, strict=True)
    for index, (pixels, label, seed) in enumerate(drawn):
        name = re.sub(r"[^\w.+-]+", "-", names[label]) if label < len(names) else f"class{label}"
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        image.save(out / f"{index:06d}_{name}_seed{seed}.png")
    sys.stdout.write(f"{len(images)} images in {out}\n")


if __name__ == "__main__":
    main()
