"""Images per second and core from disk to a batch: exact decoding, fast decoding, and prepared shards.

Run: ``python benchmarks/bench_data.py`` (some minutes). All methods read the same synthetic photographs, in turns, in
    one process with one thread. Writes ``benchmarks/results/<machine>-data.json``, a list of rows with name, ours,
reference, ratio, unit and command. The time is CPU time, which a busy machine distorts least.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _timing import commit_of
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from jitflow.apps.images.data import JiTDataModule
from jitflow.apps.images.prepare import prepare
from jitflow.data.crop import center_crop_arr
from jitflow.io.cores import available_cores
from jitflow.run.folder import describe_environment

COMMAND = "python benchmarks/bench_data.py"
SIDE = 256
SIZES = ((500, 400), (1200, 900))
TARGETS = {"shards": 20.0, "fast 500x400": 2.0, "fast 1200x900": 1.5}
EPOCH_TARGET = 10_000.0


def sample_pictures() -> list[Image.Image]:
    """Load the photographs of scikit-image and scikit-learn."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    arrays = [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    return [Image.fromarray(array) for array in arrays]


def write_photographs(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write JPEGs of one size: crops of the sample pictures, with camera noise."""
    pictures, rng = sample_pictures(), np.random.default_rng(0)
    for i in range(count):
        picture = pictures[i % len(pictures)]
        left, top = (int(rng.integers(0, side // 4)) for side in picture.size)
        part = picture.crop((left, top, left + picture.width * 3 // 4, top + picture.height * 3 // 4))
        pixels = np.asarray(part.resize(size, Image.Resampling.LANCZOS), np.float32)
        noisy = (pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"class{i % 4}" / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=92)


def epoch_of(path: Path, batch_size: int, **options: object) -> Callable[[], int]:
    """Build a function that reads one epoch of a data set in this process and counts its images."""
    module = JiTDataModule(str(path), SIDE, batch_size, 0, seed=0, drop_last=False, **options)  # type: ignore[arg-type]
    loader = module.train_dataloader()
    epoch = 0

    def run() -> int:
        nonlocal epoch
        epoch += 1
        module.set_epoch(epoch)
        return sum(len(batch.images) for batch in loader)

    return run


def documented(path: Path, batch_size: int) -> Callable[[], int]:
    """Build a function that reads one epoch as documented originally: torchvision's folder, Pillow, the ADM crop."""
    transform = transforms.Compose(
        [
            transforms.Lambda(lambda image: center_crop_arr(image, SIDE)),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    loader = DataLoader(datasets.ImageFolder(str(path), transform=transform), batch_size, shuffle=True)
    return lambda: sum(len(images) for images, _ in loader)


def rates(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Measure the median images per second of CPU time, the methods in turns, without the first turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = time.process_time()
            images = run()
            if turn:
                found[name].append(images / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def repeated(run: Callable[[], int], times: int) -> Callable[[], int]:
    """Repeat a short function several times, so that it can be timed."""
    return lambda: sum(run() for _ in range(times))


def bench_ways(folder: Path, count: int, repeats: int) -> list[dict[str, object]]:
    """Benchmark the three methods for both sizes of photographs."""
    rows: list[dict[str, object]] = []
    for size in SIZES:
        name = f"{size[0]}x{size[1]}"
        write_photographs(folder / name, size, count)
        prepare(folder / name, folder / f"{name}-shards", img_size=SIDE, workers=1)
        found = rates(
            {
                "documented": documented(folder / name, 64),
                "exact": epoch_of(folder / name, 64),
                "fast": epoch_of(folder / name, 64, decoder="fast"),
                "shards": repeated(epoch_of(folder / f"{name}-shards", 64), 20),
            },
            repeats,
        )
        for way, text, target in (
            ("shards", "shards", TARGETS["shards"]),
            ("exact", "files", 1.0),
            ("fast", 'decoder="fast"', TARGETS[f"fast {name}"]),
        ):
            rows.append(
                row(f"{name} JPEG to {SIDE} px, {text} / documented pipeline", found[way], found["documented"], target)
            )
    return rows


def bench_epoch(folder: Path, repeats: int, num_images: int) -> list[dict[str, object]]:
    """Benchmark an epoch over shards that feeds a dummy step, in this process alone."""
    source = folder / f"{SIZES[0][0]}x{SIZES[0][1]}"
    big = folder / "big"
    files = sorted(source.rglob("*.jpg"))
    for i in range(num_images):
        link = big / f"class{i % 10}" / f"{i:05d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[i % len(files)], link)
    prepare(big, folder / "big-shards", img_size=SIDE, workers=available_cores())
    module = JiTDataModule(str(folder / "big-shards"), SIDE, 256, 0, seed=0)
    loader = module.train_dataloader()
    walls, processors, shares = [], [], []
    for epoch in range(repeats + 1):
        module.set_epoch(epoch)
        start, used, stepping, images = time.perf_counter(), time.process_time(), 0.0, 0
        for batch in loader:
            before = time.process_time()
            # Reading a few rows in place of a network, so that the loader is measured.
            batch.images[:, :, ::16].float().div_(127.5).sub_(1).mean()
            stepping += time.process_time() - before
            images += len(batch.images)
        if epoch:
            used = time.process_time() - used
            walls.append(images / (time.perf_counter() - start))
            processors.append(images / used)
            shares.append(stepping / used)
    print(f"share of the dummy step in the epoch: {statistics.median(shares):.2f}")
    name = f"epoch over {num_images} shard images with a dummy step / {EPOCH_TARGET:.0f} a second"
    return [
        row(f"{name}, wall clock", statistics.median(walls), EPOCH_TARGET, 1.0),
        row(f"{name}, processor time of one core", statistics.median(processors), EPOCH_TARGET, 1.0),
    ]


def row(name: str, ours: float, reference: float, target: float) -> dict[str, object]:
    """Build and print a row of the results."""
    ratio = round(ours / reference, 2)
    print(f"{name:<90} {ours:9.0f} {reference:9.0f} images/s  {ratio:6.2f}x  (target {target:g}x)", flush=True)
    return {
        "name": name,
        "ours": round(ours, 1),
        "reference": round(reference, 1),
        "ratio": ratio,
        "target": target,
        "unit": "images/s",
    }


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=96, help="photographs of each size")
    parser.add_argument("--epoch_images", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/<machine>-data.json")
    args = parser.parse_args()
    # torchvision announces that its decoder will move; a warning for each file would hide the table.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench_data") as name:
        rows = bench_ways(Path(name), args.images, args.repeats)
        rows += bench_epoch(Path(name), args.repeats, args.epoch_images)
    environment = describe_environment()
    machine = f"{platform.machine()}-{available_cores()}threads-data".lower()
    out = args.out or Path(__file__).parent / "results" / f"{machine}.json"
    extra = {"command": COMMAND, "commit": commit_of(environment), "torch": torch.__version__}
    out.write_text(json.dumps([{**row, **extra} for row in rows], indent=2) + "\n", encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
