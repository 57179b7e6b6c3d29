"""Methods at equal budget on small images: the digits, and the best four on crops of photos.

Run: ``python benchmarks/zoo.py --out runs/zoo`` (hours on a CPU; ``--methods``, ``--seeds`` and ``--steps`` make it
shorter). It can be cut off at any time: the same command goes on, and rows that are done are not measured again.

Each method is trained with every seed, and so is the base without it. A method whose step takes longer than the base's
is also scored at the step that the base's time allows ("equal time"); one run gives both scores, since the learning
rate is constant and samples come from the averages. A score is the Frechet distance to held-out images over that of
the training images, averaged over feature spaces that no method trains on. The table has the paired differences to the
base with their 95 % t-intervals over seeds, the time of a step and the memory of weights, optimiser and averages.

What small images cannot show is in docs/methods.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from jitflow.data.digits import DigitsDataModule
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.frechet import Statistics, frechet_distance
from jitflow.evaluation.frechet_samples import moments_of
from jitflow.evaluation.intervals import student_quantile
from jitflow.io.files import write_text
from jitflow.model import load
from jitflow.run.fit import fit
from jitflow.run.memory import estimate_memory
from jitflow.run.recipe import override, read_recipe
from jitflow.training.module import FlowModule

BASE = "base"
BEST = 4
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
PHOTO_SIDE, CROPS = 32, 400


@dataclass(frozen=True)
class Method:
    """A method: settings of the model, and of sampling.

    Attributes:
        model: Settings of the model by name.
        sampling: Settings of :meth:`jitflow.model.Model.sample`.
    """

    model: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    BASE: Method(),
    "muon": Method({"optimizer": "muon"}),
    "internal guidance": Method({"loss_terms": {"internal_guidance": {"block": 2}}}, {"internal_guidance": 1.4}),
    "dispersive": Method({"loss_terms": {"dispersive": {"weight": 0.25}}}),
    "class head": Method({"loss_terms": {"class_head": {}}, "net_settings": {"class_start": 1, "in_context_start": 1}}),
    "apg": Method({}, {"guidance_rule": "apg"}),
    "cfg zero": Method({}, {"guidance_rule": "cfg_zero"}),
    "sde": Method({}, {"sde": 1.0, "solver": "heun"}),
    "asym": Method({"prediction": "asym", "asym_rank": 3}),
    "velocity": Method({"prediction": "velocity"}),
    "loss on data": Method({"loss_on": "data"}),
}


@dataclass(frozen=True)
class Images:
    """A data set of small images.

    Attributes:
        recipe: Settings that replace those of the recipe of digits.
        spaces: Feature spaces that nothing is trained on.
        train: Training images, ``(N, C, H, W)``, uint8.
        held_out: Other images of the same kind.
        num_classes: Number of classes.
    """

    recipe: dict[str, Any]
    spaces: tuple[str, ...]
    train: Tensor
    held_out: Tensor
    num_classes: int


def digits() -> Images:
    """Return the digits, judged by a network that never saw a label and by pixels."""
    data = DigitsDataModule(batch_size=64, num_workers=0)
    data.setup("fit")
    return Images({}, ("digits-rotation", "pixels"), data.dataset_train.images, data.dataset_val.images, 10)


def photos(folder: Path) -> Images:
    """Cut colour crops out of scikit-image's photos, a class each; those of the right third are held out."""
    from PIL import Image
    from skimage import data

    generator = torch.Generator().manual_seed(0)
    sets: dict[str, list[Tensor]] = {"train": [], "val": []}
    for name in PHOTOS:
        pixels = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)
        edge = 2 * pixels.shape[2] // 3
        for split, part in (("train", pixels[..., :edge]), ("val", pixels[..., edge:])):
            for i in range(CROPS if split == "train" else CROPS // 2):
                top, left = (
                    int(torch.randint(size - PHOTO_SIDE, (), generator=generator))
                    for size in (part.shape[1], part.shape[2])
                )
                crop = part[:, top : top + PHOTO_SIDE, left : left + PHOTO_SIDE].contiguous()
                sets[split].append(crop)
                path = folder / "photos" / split / name / f"{i}.png"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(crop.permute(1, 2, 0).numpy()).save(path)
    recipe = {
        "data": {"class_path": "jitflow.apps.images.data.JiTDataModule", "init_args": {}},
        "data.data_path": str(folder / "photos"),
        "data.img_size": PHOTO_SIDE,
        "data.batch_size": 64,
        "data.num_workers": 0,
        "data.random_flip": False,
        "model.img_size": PHOTO_SIDE,
        "model.in_channels": 3,
        "model.num_classes": len(PHOTOS),
    }
    train, held_out = (torch.stack(sets[split]) for split in ("train", "val"))
    return Images(recipe, ("pixels", "pixels:4"), train, held_out, len(PHOTOS))


class SaveAt(pl.Callback):
    """Save a checkpoint after a number of steps, and end nothing.

    Args:
        step: Optimiser steps.
        path: The file.
    """

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Save, once."""
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


class Judge:
    """Scores images by their Frechet distance to held-out ones, over that of the training images.

    Args:
        images: The data set.
    """

    def __init__(self, images: Images) -> None:
        self._extractors = [make_extractor(spec) for spec in images.spaces]
        self._held_out = [self._statistics(e, images.held_out) for e in self._extractors]
        self._of_training = [
            frechet_distance(*self._statistics(e, images.train), *held)
            for e, held in zip(self._extractors, self._held_out, strict=True)
        ]

    def score(self, images: Tensor) -> float:
        """Return the mean ratio over feature spaces; 1 is as far away as the training images."""
        ratios = [
            frechet_distance(*self._statistics(e, images), *held) / own
            for e, held, own in zip(self._extractors, self._held_out, self._of_training, strict=True)
        ]
        return statistics.fmean(ratios)

    @staticmethod
    def _statistics(extractor: Any, images: Tensor) -> Statistics:
        moments = moments_of(torch.cat([extractor(part).features.float() for part in images.split(256)]))
        return Statistics(moments.mean, moments.covariance)


def recipe_of(images: Images, method: Method, *, seed: int, steps: int) -> dict[str, Any]:
    """Return the recipe of a training: digits with a constant learning rate, and the method's settings."""
    common = {
        "seed_everything": seed,
        "trainer.max_epochs": -1,
        "trainer.max_steps": steps,
        "trainer.accelerator": "cpu",
        "trainer.limit_val_batches": 0,
        "schedule.lr_schedule": "constant",
        "schedule.warmup_epochs": 0,
        "pictures.share": 0,
        "logging.tensorboard": None,
    }
    of_model = {f"model.{name}": value for name, value in method.model.items()}
    return override(read_recipe("images/digits"), {**images.recipe, **common, **of_model})


def step_seconds(images: Images, method: Method, repeats: int) -> tuple[float, FlowModule]:
    """Measure the processor time of a training step of 64 images; return its median, and the module."""
    from jitflow.run.model import build_model
    from jitflow.run.settings import complete

    torch.manual_seed(0)
    recipe = complete(recipe_of(images, method, seed=0, steps=1))
    module = build_model(recipe, {}, {})
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()
    batch = images.train[torch.arange(64) % len(images.train)], torch.arange(64) % images.num_classes
    taken = []
    for _ in range(repeats + 1):
        start = time.process_time()
        loss = module.training_step(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:]), module


def draw(checkpoint: Path, images: Images, method: Method, num: int) -> Tensor:
    """Draw images of all classes alike, the same seeds for every method."""
    labels = [i % images.num_classes for i in range(num)]
    return load(checkpoint, device="cpu").sample(labels, 0, batch_size=250, **method.sampling).pixels


def measure(args: argparse.Namespace, name: str, images: Images, rows: Rows) -> None:
    """Train and score every method of a data set with every seed, and add the rows that are missing."""
    judge = Judge(images)
    base_seconds, _ = step_seconds(images, METHODS[BASE], args.timed)
    for method_name in args.methods:
        method = METHODS[method_name]
        if rows.has(name, method_name, range(args.seeds)):
            continue
        seconds, module = step_seconds(images, method, args.timed)
        memory = estimate_memory(module).state / 2**20
        # A method that is faster than the base would be scored later; it gains nothing here.
        equal_time = min(args.steps, max(1, int(args.steps * base_seconds / seconds)))
        for seed in range(args.seeds):
            if rows.has(name, method_name, [seed]):
                continue
            folder = args.out / name / method_name.replace(" ", "_") / str(seed)
            early = folder / "equal_time.ckpt"
            run = fit(
                recipe_of(images, method, seed=seed, steps=args.steps), folder, callbacks=[SaveAt(equal_time, early)]
            )
            assert run.checkpoint is not None
            last, timely = (judge.score(draw(p, images, method, args.images)) for p in (run.checkpoint, early))
            cost = {"ms_per_step": 1000 * seconds, "base_ms": 1000 * base_seconds, "state_mib": memory}
            rows.add({"data": name, "method": method_name, "seed": seed, "steps": last, "time": timely, **cost})


class Rows:
    """Rows that were measured, a line of JSON each.

    Args:
        path: Their file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, data: str, method: str, seeds: Sequence[int]) -> bool:
        """Whether a method has been measured with all seeds."""
        return set(seeds) <= {row["seed"] for row in self.of(data, method)}

    def of(self, data: str, method: str) -> list[dict[str, Any]]:
        """Return the rows of a method, by seed."""
        found = [row for row in self.rows if (row["data"], row["method"]) == (data, method)]
        return sorted(found, key=lambda row: int(row["seed"]))

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to the file."""
        self.rows.append(row)
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in self.rows))
        print(json.dumps(row), flush=True)


def paired_difference(ours: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference of pairs and the half width of its 95 % t-interval; infinite for a single pair."""
    differences = [a - b for a, b in zip(ours, base, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.inf
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, student_quantile(0.975, len(differences) - 1) * error


def table(rows: Rows, data: str) -> str:
    """Make the Markdown table of a data set: differences to the base at equal steps and at equal time, and costs."""
    lines = [
        f"| {data} | score at equal steps | at equal time | time of a step | state |",
        "|---|---|---|---|---|",
    ]
    base = {row["seed"]: row for row in rows.of(data, BASE)}
    for method in METHODS:
        found = [row for row in rows.of(data, method) if row["seed"] in base]
        if not found:
            continue
        cells = []
        for score in ("steps", "time"):
            mean, half = paired_difference([row[score] for row in found], [base[row["seed"]][score] for row in found])
            own = statistics.fmean(row[score] for row in found)
            if method == BASE:
                cells.append(f"{own:.2f}")
            elif abs(mean) <= half:
                cells.append(f"{own:.2f}, no difference seen ({mean:+.2f} ± {half:.2f})")
            else:
                cells.append(f"{own:.2f}, {mean:+.2f} ± {half:.2f}")
        ratio = statistics.fmean(row["ms_per_step"] / row["base_ms"] for row in found)
        lines.append(
            f"| {method}, {len(found)} seeds | {' | '.join(cells)} | {ratio:.2f} | {found[0]['state_mib']:.1f} MiB |"
        )
    return "\n".join(lines)


def best_methods(rows: Rows, data: str, methods: Sequence[str]) -> list[str]:
    """Return the base and the best methods of a data set by their mean score at equal time."""
    scored = {m: statistics.fmean(row["time"] for row in rows.of(data, m)) for m in methods if rows.of(data, m)}
    ranked = sorted((m for m in scored if m != BASE), key=lambda m: scored[m])
    return [BASE, *ranked[:BEST]]


def main(words: Sequence[str] | None = None) -> None:
    """Run the zoo, or go on with it, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), help="folder of runs and rows")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas; all by default")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each method")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each training")
    parser.add_argument("--images", type=int, default=350, help="images that are scored")
    parser.add_argument("--timed", type=int, default=20, help="steps that are timed")
    parser.add_argument("--photos", action="store_true", help="also the best four on photos, which need scikit-image")
    args = parser.parse_args(words)
    args.methods = [BASE, *(m for m in args.methods.split(",") if m != BASE)]
    unknown = [m for m in args.methods if m not in METHODS]
    if unknown:
        parser.error(f"no method {unknown[0]}; known: {', '.join(METHODS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "zoo.jsonl")
    measure(args, "digits", digits(), rows)
    print(table(rows, "digits"))
    if args.photos:
        args.methods = best_methods(rows, "digits", args.methods)
        measure(args, "photos", photos(args.out), rows)
        print(table(rows, "photos"))


if __name__ == "__main__":
    main()
