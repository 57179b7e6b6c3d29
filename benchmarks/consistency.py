"""Consistency training on the digits, in 1, 2 and 4 network calls: ``python benchmarks/consistency.py BASE``.

BASE is a finished ``jitflow demo images``. It is post-trained with several seeds by the command of docs/methods.md, and
compared with itself: its own sampler, and as few Euler steps. Every seed also draws other samples. A judge that no
training saw, which tells how far an image was turned, compares them with held-out scans; a support-vector machine reads
which digit they show. Results go to ``benchmarks/results/consistency.json`` after each run; the same command goes on.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jitflow.apps.images.digit_judge import DigitJudge
from jitflow.data.digits import DigitsDataModule
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.intervals import disjoint_sets
from jitflow.evaluation.manifold import precision_and_recall
from jitflow.evaluation.moments import Moments
from jitflow.evaluation.rotation_features import RotationExtractor
from jitflow.io.files import read_json, write_json
from jitflow.model import Model, load
from jitflow.run.fit import fit
from jitflow.run.folder import describe_environment
from jitflow.run.recipe import override, read_recipe

RESULTS = Path(__file__).parent / "results" / "consistency.json"
FOLDER = Path("runs") / "consistency"
COMMAND = "python benchmarks/consistency.py runs/demo/images"
NUM_SAMPLES = 1000
SCORES = ("agreement", "frechet", "recall", "images_per_sec")
# The settings of the command in docs/methods.md.
TUNING: dict[str, Any] = {
    "model.loss_terms": {"consistency": {}},
    "model.velocity_weight": 0.0,
    "model.time_kind": "uniform",
    "model.learning_rate": 5e-4,
    "model.sampling_method": "euler",
    "model.num_sampling_steps": 1,
    "model.cfg_scale": 1.0,
    "trainer.max_epochs": 18,
    "trainer.gradient_clip_val": 1.0,
    "trainer.accelerator": "cpu",
    "data.num_workers": 0,
    "schedule.warmup_epochs": 1,
}
FEW: dict[str, dict[str, Any]] = {
    f"{calls} Euler step{'s'[: calls > 1]}": {"solver": "euler", "steps": calls, "guidance": 1.0} for calls in (1, 2, 4)
}
# One step of this solver is Euler's.
FRESH: dict[str, dict[str, Any]] = {
    f"{calls} steps, fresh noise": {"solver": "consistency", "steps": calls, "guidance": 1.0} for calls in (2, 4)
}


class Judge:
    """Scores of generated digits: a classifier's reading, and distance and coverage of the held-out scans.

    Args:
        folder: Folder where the trained judge is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._reader = DigitJudge()
        self._extractor = RotationExtractor(folder)
        data = DigitsDataModule(img_size=16)
        data.setup("fit")
        self._real = self._extractor(data.dataset_val.images).features

    def scores(self, model: Model, seed: int, sampling: dict[str, Any]) -> dict[str, float]:
        """Draw samples, and score them.

        Args:
            model: The model.
            seed: Number of the set of samples.
            sampling: Arguments of :meth:`jitflow.Model.sample`.
        """
        labels = [index % 10 for index in range(NUM_SAMPLES)]
        before = time.process_time()
        pixels = model.sample(labels, seed * NUM_SAMPLES, batch_size=250, **sampling).pixels
        seconds = time.process_time() - before
        made = self._extractor(pixels).features
        (mean, covariance), real = ((m.mean, m.covariance) for m in map(self._moments, (made, self._real)))
        return {
            "agreement": float((torch.from_numpy(self._reader.read(pixels)) == torch.tensor(labels)).float().mean()),
            "frechet": frechet_distance(mean, covariance, *real),
            "recall": precision_and_recall(self._real, made).recall,
            "images_per_sec": NUM_SAMPLES / seconds,
        }

    def _moments(self, features: torch.Tensor) -> Moments:
        moments = Moments(self._extractor.dim)
        moments.update(features)
        return moments


def tune(base: Path, folder: Path, seed: int) -> Path:
    """Post-train a model, unless that has been done; return its checkpoint.

    Args:
        base: Run of the model.
        folder: Folder of the post-trainings.
        seed: Seed.
    """
    changes = {**TUNING, "init_from": str(base), "seed_everything": seed}
    run = fit(override(read_recipe("images/digits"), changes), folder / f"seed{seed}")
    assert run.checkpoint is not None
    return run.checkpoint


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Format the means over seeds with their 95 % intervals (Student's t).

    Args:
        runs: The results.
    """
    lines = ["| model | sampling | agreement | Frechet | recall | images/s |", "|---|---|---|---|---|---|"]
    for model, sampling in dict.fromkeys((run["model"], run["sampling"]) for run in runs):
        of_row = [run for run in runs if (run["model"], run["sampling"]) == (model, sampling)]
        cells = []
        for name in SCORES:
            values = [run[name] for run in of_row]
            cell = f"{statistics.mean(values):.{0 if name == 'images_per_sec' else 3}f}"
            if len(values) > 1 and name != "images_per_sec":
                interval = disjoint_sets(values)
                cell += f" [{interval.low:.3f}, {interval.high:.3f}]"
            cells.append(cell)
        lines.append(f"| {model} | {sampling} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="folder of a finished `jitflow demo images`")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the post-training and of the samples")
    parser.add_argument("--models", default="base,consistency", help="which models to score")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the post-trainings")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    runs = read_json(args.results)["runs"] if args.results.exists() else []
    judge = Judge(args.folder)
    for seed in (int(word) for word in args.seeds.split(",")):
        for name, find, samplings in (
            ("base", lambda: args.base, {"30 steps": {"guidance": 1.0}, **FEW}),
            ("consistency", lambda: tune(args.base, args.folder, seed), {**FEW, **FRESH}),  # noqa: B023 (called at once)
        ):
            if name not in args.models.split(","):
                continue
            done = {(run["model"], run["sampling"], run["seed"]) for run in runs}
            missing = {key: asked for key, asked in samplings.items() if (name, key, seed) not in done}
            model = load(find(), device="cpu") if missing else None
            for key, asked in missing.items():
                assert model is not None
                scores = judge.scores(model, seed, asked)
                changes = {"changes": TUNING} if name == "consistency" else {}
                runs.append({"model": name, "sampling": key, "seed": seed, **scores, **changes})
                machine = {**describe_environment(), "threads": torch.get_num_threads()}
                content = {"command": COMMAND, "num_samples": NUM_SAMPLES, "machine": machine, "runs": runs}
                write_json(args.results, content)
    print(table(runs))


if __name__ == "__main__":
    main()
