"""Ablations of text as colour at equal budget: ``python benchmarks/text_report.py``.

Every row trains the same small network for the same number of images of the built-in corpus, changes one thing, and is
measured in the same way; the rows on sampling share one trained network. Results go to
``benchmarks/results/text_report.json`` row by row; a repeated run resumes with the missing rows.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.evaluation_settings import TextEvaluation
from jitflow.apps.text.judge import evaluate
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.recovery import token_accuracy
from jitflow.apps.text.sample_judge import judge_samples
from jitflow.apps.text.sampling import TextSamples
from jitflow.core.condition import Condition
from jitflow.core.seeding import noise_from_seeds
from jitflow.io.files import read_json, write_json
from jitflow.io.progress import meter
from jitflow.model import load
from jitflow.run.folder import describe_environment
from jitflow.verbs.documented import train_documented

RESULTS = Path(__file__).parent / "results" / "text_report.json"
COMMAND = "python benchmarks/text_report.py"
# 64 patches per image: 64 tokens with the codebook, 1,024 with the one-pixel mappings.
BASE: dict[str, Any] = {
    "model": "JiT-N/4",
    "img_size": 32,
    "tokenizer": "bytes",
    "mapping": "codebook",
    "net_settings": {"hidden_size": 96, "depth": 3, "num_heads": 3, "bottleneck_dim": 48},
    "batch_size": 32,
    "max_steps": 800,
    "lr": 3e-3,
    "warmup_epochs": 0.06,
    "weight_decay": 0.0,
    "ema_decay": 0.99,
    "velocity_weight": 0.0,
    "cross_entropy_weight": 1.0,
    "self_conditioning": True,
    "infill_prob": 0.5,
    "prompt_prob": 0.0,
    "P_mean": -1.4,
}
_DIRECT = {"decoder": "direct", "self_conditioning": False}
_AS_DOCUMENTED = {
    "mapping": "base256",
    "self_conditioning": False,
    "infill_prob": 0.0,
    "velocity_weight": 1.0,
    "cross_entropy_weight": 0.0,
    "P_mean": -0.8,
}
# One change each, except for the documented system; the pixel mappings also with most training times where a pixel is
# informative about its token.
TRAININGS: dict[str, dict[str, Any]] = {
    "codebook (the base of all rows)": {},
    "no texts with gaps": {"infill_prob": 0.0},
    "rotations by row and column": {"net_settings": {**BASE["net_settings"], "rope_axes": "grid"}},
    "three quarters of the texts with gaps": {"infill_prob": 0.75},
    "weights start at std 0.1": {"net_settings": {**BASE["net_settings"], "init_std": 0.1}},
    "weights start as the images' do (Xavier, output 0)": {"net_settings": {**BASE["net_settings"], "init": "xavier"}},
    "no self-conditioning": {"self_conditioning": False},
    "cross-entropy + MSE": {"velocity_weight": 1.0},
    "MSE": {"velocity_weight": 1.0, "cross_entropy_weight": 0.0},
    "direct, cross-entropy + MSE": {**_DIRECT, "velocity_weight": 1.0},
    "direct, MSE": {**_DIRECT, "velocity_weight": 1.0, "cross_entropy_weight": 0.0},
    "lattice": {"mapping": "lattice"},
    "lattice, times at its own noise": {"mapping": "lattice", "P_mean": 2.0},
    "base256": {"mapping": "base256"},
    "base256, times at its own noise": {"mapping": "base256", "P_mean": 5.0},
    "base256 as documented": _AS_DOCUMENTED,
    "P_mean -2.0": {"P_mean": -2.0},
    "P_mean -0.8 (JiT's for images)": {"P_mean": -0.8},
    "P_mean 0": {"P_mean": 0.0},
    "uniform times": {"time_kind": "uniform"},
}
# The time at which about half of the tokens can be read without context differs between mappings.
TIMES = {
    "codebook": (0.05, 0.1, 0.15, 0.2, 0.22, 0.25, 0.3, 0.4, 0.5),
    "lattice": (0.2, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95),
    "base256": (0.2, 0.5, 0.9, 0.98, 0.99, 0.995, 0.998),
}
CHURNS = (0.0, 0.5, 1.0, 2.0)
_SAMPLING = {"steps": 50, "solver": "euler"}
_NUM_TOKENS = 8192
_NUM_SAMPLES = 64
_DOCUMENTED, _DOCUMENTED_STEPS = "the documents' sampler", 20
# Columns of the tables and their headings.
_TRAINED = {
    "time_nearest_half": "t",
    "context_free": "accuracy without context",
    "token_accuracy": "accuracy",
    "token_accuracy_one_pass": "one pass",
    "bits_per_byte": "bits/byte",
    "context_free_bits_per_byte": "without context",
    "text_recovery_accuracy": "recovery from t = 0.3",
    "ngram_perplexity": "perplexity of samples",
    "real_words": "real words",
}
_SAMPLED = {
    "valid_codes": "valid codes",
    "code_distance": "distance to codes",
    "ngram_perplexity": "perplexity",
    "real_words": "real words",
    "distinct_2": "distinct 2-grams",
    "entropy": "entropy",
    "longest_copy_max": "longest copy",
}


def run(results: Path, folder: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """Train and evaluate the missing rows of the report.

    Args:
        results: The JSON file of the rows.
        folder: Folder of the trained networks.
        seed: Seed of everything.

    Returns:
        All rows.
    """
    rows: list[dict[str, Any]] = read_json(results)["rows"] if results.exists() else []
    machine = describe_environment()

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        write_json(results, {"command": COMMAND, "base": BASE, "machine": machine, "rows": rows})

    with meter("rows", len(TRAININGS) + len(CHURNS) + 1, unit="rows") as progress:
        for name, change in TRAININGS.items():
            if not any(row["name"] == name for row in rows):
                add(_training_row(name, change, folder, seed))
            progress.update(len(rows))
        base = next(iter(TRAININGS))
        for churn in CHURNS:
            name = f"churn {churn:g}"
            if not any(row["name"] == name for row in rows):
                add(_sampling_row(name, _trained(base, {}, folder, seed), churn, seed))
            progress.update(len(rows))
        if not any(row["name"] == _DOCUMENTED for row in rows):
            add(_documented_row(_trained(base, {}, folder, seed), seed))
    return rows


def _trained(name: str, change: dict[str, Any], folder: Path, seed: int) -> Path:
    """Return the checkpoint of a trained network, training it if needed."""
    out = folder / "".join(c if c.isalnum() else "_" for c in name)
    done = out / "checkpoint-last.pth"
    if done.exists():
        return done
    seldom = {"epochs": 1000, "val_interval": 1000, "save_interval": 1000}
    run = train_documented("text", {**BASE, **change, **seldom, "accelerator": "cpu", "seed": seed}, out)
    assert run.checkpoint is not None
    return run.checkpoint


def _training_row(name: str, change: dict[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    started = time.process_time()
    checkpoint = _trained(name, change, folder, seed)
    seconds = time.process_time() - started
    mapping = {**BASE, **change}["mapping"]
    per_image = 64 if mapping == "codebook" else 1024
    settings = TextEvaluation(
        num_texts=_NUM_TOKENS // per_image,
        # The same amount of text for each mapping.
        num_samples=max(4, _NUM_SAMPLES * 64 // per_image),
        seed=seed,
        times=TIMES[mapping],
        sampling=_SAMPLING,
    )
    report = evaluate(checkpoint, None, folder / "evaluation", settings, device="cpu")
    held_out, nearest = report["held_out"], f"{report['held_out']['time_nearest_half']:g}"
    one_pass = held_out["token_accuracy_one_pass"]
    return {
        "name": name,
        "change": change,
        "train_cpu_seconds": round(seconds, 1),
        "time_nearest_half": nearest,
        "context_free": held_out["context_free_baseline"][nearest],
        "token_accuracy": held_out["token_accuracy"][nearest],
        "token_accuracy_one_pass": one_pass.get(nearest),
        "bits_per_byte": held_out["bits_per_byte"][nearest],
        "context_free_bits_per_byte": held_out["context_free_bits_per_byte"][nearest],
        "text_recovery_accuracy": report["recovery"]["text_recovery_accuracy"],
        **_sample_columns(report["samples"]),
    }


def _sampling_row(name: str, checkpoint: Path, churn: float, seed: int) -> dict[str, Any]:
    model = load(checkpoint, device="cpu")
    samples = model.sample(num=_NUM_SAMPLES, seeds=seed, churn=churn, **_SAMPLING)
    return {"name": name, "churn": churn, **_judged(model.module, samples, seed)}


def _documented_row(checkpoint: Path, seed: int) -> dict[str, Any]:
    """Measure the documented sampler and evaluation: reversed time, and samples compared with unrelated text."""
    model = load(checkpoint, device="cpu")
    module, seeds = model.module, list(range(seed, seed + _NUM_SAMPLES))
    with module.ema_weights(1):
        samples = TextSamples.read(module, documented_sampling(module, seeds), seeds)
    good = model.sample(num=_NUM_SAMPLES, seeds=seed, churn=1.0, **_SAMPLING)
    windows = _corpus(module).dataset_val
    unrelated = windows.read_batch(torch.arange(_NUM_SAMPLES))[0]
    return {
        "name": _DOCUMENTED,
        "unrelated_text_accuracy": token_accuracy(samples.ids, unrelated),
        "unrelated_text_accuracy_of_our_sampler": token_accuracy(good.ids, unrelated),
        **_judged(module, samples, seed),
    }


@torch.no_grad()
def documented_sampling(module: TextLightningModule, seeds: list[int]) -> Tensor:
    """Sample as documented originally: noise is treated as clean, and more is added in every step.

    Args:
        module: A trained model.
        seeds: A seed for each sample.

    Returns:
        The last predicted images, shape ``(B, 3, H, W)``.
    """
    module.eval()
    x = noise_from_seeds(module.codec.shape, seeds)
    generator = torch.Generator().manual_seed(seeds[0])
    labels = torch.zeros(len(x), dtype=torch.int64)
    x1_pred = x
    for i in range(_DOCUMENTED_STEPS):
        # The documented step counts noise in thousandths, so all twenty steps are close to the data.
        t = torch.full((len(x),), 1 - i / 1000).clamp_max(1 - module.t_eps)
        hint = module._training_hint(x, t, labels, Condition(), estimate=False) if module.takes_hints else None
        v = module.velocity_of(module(x, t, labels, hint).float(), x, t)
        x1_pred = x + (1 - t[0]) * v
        share = 1 - i / _DOCUMENTED_STEPS
        x = share * x1_pred + (1 - share) * torch.randn(x.shape, generator=generator)
    return x1_pred


def _judged(module: TextLightningModule, samples: TextSamples, seed: int) -> dict[str, Any]:
    data = _corpus(module)
    return _sample_columns(
        judge_samples(module, samples, data.dataset_train.stream, data.dataset_val.stream, seed=seed)
    )


def _corpus(module: TextLightningModule) -> TextDataModule:
    data = TextDataModule(None, module.tokenizer, module.colours.num_tokens, random_offset=False)
    data.setup("fit")
    return data


def _sample_columns(judged: dict[str, Any]) -> dict[str, Any]:
    perplexity = judged["ngram_perplexity"]
    return {
        "valid_codes": judged["valid_codes"],
        "code_distance": judged["code_distance"]["mean"],
        "ngram_perplexity": perplexity["samples"],
        "ngram_perplexity_held_out": perplexity["held_out"],
        "ngram_perplexity_shuffled": perplexity["shuffled"],
        "real_words": judged["samples"]["real_words"],
        "distinct_2": judged["samples"]["distinct_2"],
        "entropy": judged["samples"]["unigram_entropy"],
        "longest_copy_max": judged["samples"]["longest_copy_max"],
    }


def markdown_tables(rows: list[dict[str, Any]]) -> str:
    """Format the rows as two tables for a docs page; missing rows read "untested"."""
    sampled = [*(f"churn {churn:g}" for churn in CHURNS), _DOCUMENTED]
    return "\n\n".join(
        _markdown(rows, names, columns) for names, columns in ((TRAININGS, _TRAINED), (sampled, _SAMPLED))
    )


def _markdown(rows: list[dict[str, Any]], names: Iterable[str], columns: dict[str, str]) -> str:
    found = {row["name"]: row for row in rows}
    lines = [f"| row | {' | '.join(columns.values())} |", "|---|" + "---|" * len(columns)]
    for name in names:
        if name not in found:
            lines.append(f"| {name} | untested |" + " |" * (len(columns) - 1))
            continue
        values = (found[name].get(column) for column in columns)
        cells = (v if isinstance(v, str) else "-" if v is None else f"{v:.3f}" for v in values)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compute the missing rows of the report and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="keeps the trained networks; a temporary folder by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix="jitflow-text-report-") as temporary:
        rows = run(given.results, given.folder or Path(temporary), seed=given.seed)
    Console(soft_wrap=True).print(markdown_tables(rows), markup=False, highlight=False)


if __name__ == "__main__":
    main()
