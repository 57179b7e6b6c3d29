"""Score a model: images of balanced classes, each with a seed of its own, against real ones.

The images are made in parts. A part's features are written when it is done, so that an interrupted evaluation
goes on where it stopped, several processes share the parts without talking to each other, and neither changes a
digit of the score.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jitflow import pictures
from jitflow.errors import ConfigError, DataError, JitflowError
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.features import FeatureExtractor
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.inception_score import inception_score
from jitflow.evaluation.kid import kernel_inception_distance
from jitflow.evaluation.manifold import precision_and_recall
from jitflow.evaluation.moments import Moments
from jitflow.evaluation.protocol import claim_folder, protocol_card, read_report
from jitflow.evaluation.reference import Reference, load_reference
from jitflow.io.files import atomic_path, writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.model import Model, default_device, load

MAX_IMAGES_IN_PART, MIN_IMAGES_IN_PART = 1000, 50
"""Most and fewest images of a part, which an interrupted evaluation need not make again."""
_NUM_PARTS = 50
log = logging.getLogger(__name__)
_INCEPTION_SPLITS = 10
_KID_SUBSET = 1000


@dataclass(frozen=True)
class Plan:
    """What is to be generated. A sampling setting that is None is the model's own.

    Attributes:
        num_images: Images in all, a multiple of the classes.
        seed: Seed of image 0; image i has ``seed + i`` and class ``i % num_classes``.
        guidance: Guidance scale.
        interval: Times (low, high) between which guidance acts.
        solver: Name of the solver.
        steps: Steps of the solver.
        ema: 1 or 2 for an average, 0 for the weights, a width such as 0.1 for one made after training.
        precision: ``"32"``, ``"bf16"`` or ``"16"`` inside the network.
        batch_size: Images at a time; does not change the score.
    """

    num_images: int
    seed: int = 0
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    solver: str | None = None
    steps: int | None = None
    ema: float = 1
    precision: str = "32"
    batch_size: int = 64

    def check(self, num_classes: int) -> None:
        """Raise ConfigError if the numbers cannot work for a model of so many classes."""
        if self.num_images < 2 or self.num_images % num_classes:
            nearest = max(1, round(self.num_images / num_classes)) * num_classes
            raise ConfigError(
                f"num_images ({self.num_images}) must be a multiple of the model's {num_classes} classes, "
                f"so that they are balanced; the nearest is {nearest}"
            )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {self.batch_size}")

    def part(self, model: Model, index: range, on_progress: Callable[[int, int], None] | None = None) -> Any:
        """Generate the images of some indices; returns :class:`jitflow.model.Samples`."""
        labels = [i % model.module.num_classes for i in index]
        settings = {k: v for k, v in asdict(self).items() if k not in ("num_images", "seed")}
        return model.sample(labels, [self.seed + i for i in index], **settings, on_progress=on_progress)


def extract(
    model: Model,
    plan: Plan,
    index: range,
    extractor: FeatureExtractor,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Generate images and extract their features.

    Args:
        model: The model.
        plan: How to sample.
        index: Which images.
        extractor: Makes the features, on the model's device.
        on_progress: See :meth:`Model.sample`.

    Returns:
        ``features`` ``(N, D)`` and, if the extractor classifies, ``logits`` ``(N, K)``, float32; ``pixels``
        ``(N, C, H, W)``, uint8; all on the CPU.
    """
    pixels = plan.part(model, index, on_progress).pixels
    outputs = [extractor(batch.to(model.module.device)) for batch in pixels.split(plan.batch_size)]
    found = {"features": torch.cat([o.features.float().cpu() for o in outputs]), "pixels": pixels}
    if outputs[0].logits is not None:
        found["logits"] = torch.cat([o.logits.float().cpu() for o in outputs if o.logits is not None])
    return found


def reference_of(model: Model, spec: str | Path, extractor: FeatureExtractor, *, batch_size: int) -> Reference:
    """Load the real side of a score at the size and channels of a model; ``spec`` as in ``load_reference``."""
    channels, height, width = model.module.codec.shape
    return load_reference(
        spec,
        extractor,
        img_size=(height, width),
        channels=channels,
        device=model.module.device.type,
        batch_size=batch_size,
    )


def frechet_name(extractor: FeatureExtractor) -> str:
    """Name the Frechet distance under an extractor: ``fid`` is reserved for Inception."""
    return "fid" if extractor.name.startswith("inception") else "frechet_distance"


def score(
    features: Tensor,
    logits: Tensor | None,
    reference: Reference,
    extractor: FeatureExtractor,
    *,
    per_image: bool = True,
) -> dict[str, float]:
    """Score generated features against real ones.

    Args:
        features: Shape ``(N, D)``, float32, in the order of the images' indices.
        logits: Shape ``(N, K)``, or None.
        reference: The real side.
        extractor: What made the features, which names the scores.
        per_image: Also compute what compares images one by one (KID, precision, recall), where the reference
            kept its features.

    Returns:
        ``fid`` (``frechet_distance`` for another extractor than Inception); with logits ``inception_score``
        (``classifier_score``); ``kid``, ``kid_std``, ``precision``, ``recall``.

    Raises:
        DataError: If features hold NaN, or do not vary at all.
    """
    moments = Moments(features.shape[1])
    for part in features.split(MAX_IMAGES_IN_PART):
        moments.update(part)
    if not bool(moments.covariance.diagonal().gt(0).any()):
        raise DataError("all generated images have the same features; the model has collapsed or never learned")
    name = frechet_name(extractor)
    metrics = {name: frechet_distance(moments.mean, moments.covariance, *reference.statistics)}
    if logits is not None:
        metrics["inception_score" if name == "fid" else "classifier_score"] = inception_score(
            logits, min(_INCEPTION_SPLITS, len(logits))
        ).mean
    if per_image and reference.features is not None:
        subset = min(_KID_SUBSET, len(features), len(reference.features))
        kid = kernel_inception_distance(features, reference.features, subset_size=subset)
        metrics.update(kid=kid.mean, kid_std=kid.std)
        manifold = precision_and_recall(reference.features, features)
        metrics.update(precision=manifold.precision, recall=manifold.recall)
    return metrics


def evaluate(
    checkpoint: str | Path,
    plan: Plan,
    *,
    reference: str | Path,
    extractor: str = "inception",
    out: str | Path,
    device: str | None = None,
    processes: int = 1,
    keep_png: bool = False,
    keep_npz: bool = False,
    model: Model | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint into a folder; run again, it goes on where it stopped.

    Args:
        checkpoint: The model's file.
        plan: What to generate.
        reference: See :func:`jitflow.evaluation.reference.load_reference`.
        extractor: See :func:`jitflow.evaluation.extractors.make_extractor`.
        out: Folder of ``report.json`` and, while it is unfinished, of the parts.
        device: Where to run; the fastest there is by default.
        processes: Processes that share the parts; on GPUs one for each.
        keep_png: Also write every image.
        keep_npz: Also write ``samples.npz`` (``arr_0`` uint8 NHWC, ``arr_1`` labels) for ADM's evaluator.
        model: The loaded model, if there is one.

    Returns:
        The report: ``metrics``, ``protocol``, ``warnings``.

    Raises:
        ConfigError: If a setting cannot work, or the folder holds another evaluation.
    """
    out = writable_folder(out)
    made = make_extractor(extractor)
    model = model or load(checkpoint, device=device or default_device())
    module = model.module
    plan.check(module.num_classes)
    model.check_ema(plan.ema)
    real = reference_of(model, reference, made, batch_size=plan.batch_size)
    card = protocol_card(
        # One image tells the settings in force, and that the model can sample at all.
        plan.part(model, range(1)).settings,
        num_images=plan.num_images,
        num_classes=module.num_classes,
        seed=plan.seed,
        checkpoint=checkpoint,
        extractor=made,
        reference=real.record,
    )
    card = claim_folder(out, card)
    finished = out / "report.json"
    if finished.exists() and not (keep_png or keep_npz):
        log.info("%s is finished already", out)
        return dict(read_report(finished))
    job = _Job(str(checkpoint), plan, extractor, str(out), keep_pixels=keep_png or keep_npz, part_size=part_size(plan))
    _make_parts(job, model, made, processes)
    parts = [part for start in job.starts() if (part := _read_part(job, start)) is not None]
    features = torch.cat([part["features"] for part in parts])
    logits = torch.cat([part["logits"] for part in parts]) if "logits" in parts[0] else None
    report = {"metrics": score(features, logits, real, made), "protocol": card, "warnings": _warnings(plan, made, real)}
    if keep_png or keep_npz:
        _write_images(out, parts, plan, module.num_classes, png=keep_png, npz=keep_npz)
    write_json(out / "report.json", report)
    for start in job.starts():
        job.part_path(start).unlink()
    job.folder.rmdir()
    return report


def part_size(plan: Plan) -> int:
    """Images of a part: about a fiftieth of all, so that an interruption costs little; a function of the plan alone."""
    return min(MAX_IMAGES_IN_PART, max(MIN_IMAGES_IN_PART, plan.num_images // _NUM_PARTS))


@dataclass(frozen=True)
class _Job:
    """What a process must know to make its share of the parts."""

    checkpoint: str
    plan: Plan
    extractor: str
    out: str
    keep_pixels: bool
    part_size: int

    @property
    def folder(self) -> Path:
        return Path(self.out) / "parts"

    def starts(self) -> range:
        return range(0, self.plan.num_images, self.part_size)

    def part_path(self, start: int) -> Path:
        return self.folder / f"{start:08d}.safetensors"

    def index(self, start: int) -> range:
        return range(start, min(start + self.part_size, self.plan.num_images))


def _make_parts(job: _Job, model: Model, extractor: FeatureExtractor, processes: int) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    missing = [start for start in job.starts() if _read_part(job, start) is None]
    if processes > 1 and len(missing) > 1:
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(
                target=_work, args=(job, missing[rank::processes], rank, processes, model.module.device.type)
            )
            for rank in range(min(processes, len(missing)))
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            for worker in workers:
                worker.terminate()
                worker.join()
            raise
        failed = [worker.exitcode for worker in workers if worker.exitcode]
        if failed:
            raise JitflowError(
                f"{len(failed)} of {len(workers)} processes failed, and said why above; the same command goes on "
                "with the parts that are missing"
            )
        return
    extractor.to(model.module.device)
    done = job.plan.num_images - sum(len(job.index(start)) for start in missing)
    with meter("generating", job.plan.num_images) as progress:
        progress.update(done)
        for start in missing:
            index, before = job.index(start), done

            def on_progress(part_done: int, part_total: int, before: int = before, size: int = len(index)) -> None:
                progress.update(before + size * part_done / part_total)

            _make_part(job, start, model, extractor, on_progress)
            done += len(index)


def _work(job: _Job, starts: list[int], rank: int, processes: int, device: str) -> None:
    """One of several processes; each loads the model for itself."""
    # Ctrl-C reaches every process of a terminal; the first one answers it and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    model, extractor = load(job.checkpoint, device=device), make_extractor(job.extractor).to(device)
    for start in starts:
        _make_part(job, start, model, extractor, None)


def _make_part(
    job: _Job,
    start: int,
    model: Model,
    extractor: FeatureExtractor,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    found = extract(model, job.plan, job.index(start), extractor, on_progress)
    if not job.keep_pixels:
        del found["pixels"]
    with atomic_path(job.part_path(start)) as temporary:
        save_file({name: value.contiguous() for name, value in found.items()}, temporary)


def _read_part(job: _Job, start: int) -> dict[str, Tensor] | None:
    """Read a part; None if it is not there, damaged, or lacks the pixels that are wanted now."""
    path = job.part_path(start)
    if not path.exists():
        return None
    try:
        part = load_file(path)
    except (SafetensorError, OSError):
        return None
    whole = len(part.get("features", ())) == len(job.index(start))
    return part if whole and ("pixels" in part or not job.keep_pixels) else None


def _warnings(plan: Plan, extractor: FeatureExtractor, reference: Reference) -> list[str]:
    counts = {"generated": plan.num_images, "real": reference.record.get("num_images")}
    return [
        f"{count} {which} images are too few for {extractor.dim} feature dimensions: the covariance is singular "
        f"and the distance biased upwards; use at least {extractor.dim + 1}"
        for which, count in counts.items()
        if count is not None and count <= extractor.dim
    ]


def _write_images(
    out: Path, parts: list[dict[str, Tensor]], plan: Plan, num_classes: int, *, png: bool, npz: bool
) -> None:
    if png:
        index = 0
        for part in parts:
            for pixels in part["pixels"].numpy():
                name = f"{index:06d}_class{index % num_classes}_seed{plan.seed + index}.png"
                pictures.save_image(pictures.to_image(pixels), out / "images" / name)
                index += 1
    if npz:
        shape = parts[0]["pixels"].shape
        with atomic_path(out / "samples.npy") as temporary:
            # Through a file, since 50,000 images do not fit into memory beside the model.
            array = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint8, shape=(plan.num_images, shape[2], shape[3], 3)
            )
            place = 0
            for part in parts:
                colour = part["pixels"].expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
                array[place : place + len(colour)] = colour.numpy()
                place += len(colour)
            array.flush()
            with atomic_path(out / "samples.npz") as target, target.open("wb") as file:
                np.savez(file, arr_0=array, arr_1=np.arange(plan.num_images) % num_classes)
        (out / "samples.npy").unlink()
