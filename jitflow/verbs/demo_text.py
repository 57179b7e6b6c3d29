"""The text demo: a small model of text as colour learns Python's own documentation in minutes on two CPU cores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from jitflow import pictures
from jitflow.apps.text.corpus import builtin_documents, builtin_size
from jitflow.apps.text.judge import PLOT_NAME, SAMPLES_NAME, evaluate
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.sampling import TextSamples
from jitflow.apps.text.tables import accuracy_table
from jitflow.callbacks.checkpoint import LAST_NAME
from jitflow.callbacks.history import TrainingHistory
from jitflow.core.path import interpolate
from jitflow.core.seeding import noise_from_seeds
from jitflow.io.files import load_checkpoint, read_json, writable_folder, write_json, write_text
from jitflow.io.progress import meter
from jitflow.model import Model, load
from jitflow.run.report import REPORT_NAME, write_final_report
from jitflow.training.samples import Samples
from jitflow.verbs.demo_folder import Laps, check_same_run, remove_run
from jitflow.verbs.text_train import train

_TRAINING, _EVALUATION = "training", "evaluation"
_METRICS, _SETTINGS = "metrics.json", "settings.json"
_SAMPLES, _IMAGE, _LOSS = "samples.txt", "text.png", "loss.png"
_IMAGE_SCALE = 6
# What a colour is can be seen; what a token is can be read beside it.
_IMAGE_CAPTION = "text.txt"
_NUM_PRINTED = 2
_FIVE_TIMES = ("0.1", "0.2", "0.3", "0.4", "0.5")

# Chosen by trials of some minutes: the smaller of the two image sizes, so that two cores read two thousand bytes a
# step; most steps at times when about half of the bytes can be read without context; cross-entropy alone, which ends
# the plateau on which a network reads each place by itself; and a number of steps instead of a time, so that a result
# repeats.
SETTINGS: dict[str, Any] = {
    "training": {
        "model": "JiT-N/4",
        "img_size": 32,
        "tokenizer": "bytes",
        "mapping": "codebook",
        "net_settings": {"hidden_size": 128, "depth": 4, "num_heads": 4, "bottleneck_dim": 48, "init_std": 0.08},
        "batch_size": 32,
        "max_steps": 2000,
        "lr": 3e-3,
        "warmup_epochs": 0.06,
        "weight_decay": 0.0,
        "ema_decay": 0.99,
        "velocity_weight": 0.0,
        "infill_prob": 0.75,
        "prompt_prob": 0.1,
        "P_mean": -1.4,
    },
    "times": [0.05, 0.1, 0.15, 0.2, 0.22, 0.25, 0.3, 0.4, 0.5],
    "num_texts": 128,
    "num_samples": 32,
    "sampling": {"steps": 100, "solver": "euler", "churn": 3.0},
    "prompt": "The import statement",
    "num_continuations": 3,
}
_QUICK: dict[str, Any] = {
    "training": {
        **SETTINGS["training"],
        "img_size": 16,
        "net_settings": {"hidden_size": 32, "depth": 2, "num_heads": 2, "bottleneck_dim": 16},
        "max_steps": 4,
        "warmup_epochs": 0.0,
    },
    "num_texts": 4,
    "num_samples": 2,
    "sampling": {"steps": 4, "solver": "euler", "churn": 1.0},
    "prompt": "The",
    "num_continuations": 1,
}


def run(
    out: Path, *, seed: int = 0, restart: bool = False, dry_run: bool = False, quick: bool = False
) -> dict[str, Any]:
    """Train, read noisy text, write, and say how it went.

    Args:
        out: Folder of the results: ``training/``, ``evaluation/``, ``samples.txt``, ``text.png``, ``accuracy.png``,
            ``loss.png``, ``metrics.json``.
        seed: Seed of everything.
        restart: Throw away what the folder holds.
        dry_run: Say what would be done, and do nothing.
        quick: A few steps of a tiny network on images of 16 tokens, for tests; nothing is learned then.

    Returns:
        What ``metrics.json`` holds; empty after a dry run.

    Raises:
        ConfigError: If the folder holds a run with other settings.
    """
    console = Console(stderr=True, soft_wrap=True)
    settings = {**SETTINGS, **(_QUICK if quick else {}), "seed": seed}
    metrics_path = out / _METRICS
    if dry_run:
        state = "report what is there" if metrics_path.exists() else "go on" if out.exists() else "start"
        console.print(f"would {'start anew' if restart else state} in {out}, seed {seed}: {json.dumps(settings)}")
        return {}
    if restart:
        remove_run(
            out,
            folders=(_TRAINING, _EVALUATION),
            files=(REPORT_NAME, _METRICS, _SETTINGS, _SAMPLES, _IMAGE, _IMAGE_CAPTION, _LOSS, PLOT_NAME),
        )
    record = out / _SETTINGS
    if record.exists():
        check_same_run(record, read_json(record), settings)
    if metrics_path.exists():
        metrics: dict[str, Any] = read_json(metrics_path)
        console.print(f"{out} is finished already; --restart starts anew.")
        _summary(out, metrics)
        return metrics
    write_json(writable_folder(out) / record.name, settings)
    checkpoint, history = _train(out / _TRAINING, settings, console)
    laps = Laps(train=round(history["seconds"], 1))
    console.print(f"reading {settings['num_texts']} noisy held-out texts, writing {settings['num_samples']} of its own")
    report = evaluate(
        checkpoint,
        None,
        out / _EVALUATION,
        settings["num_texts"],
        settings["num_samples"],
        seed,
        times=settings["times"],
        device="cpu",
        **settings["sampling"],
    )
    laps.lap("evaluate")
    model = load(checkpoint, device="cpu")
    module = model.module
    assert isinstance(module, TextLightningModule)
    continued = _continue_prompt(model, settings)
    laps.lap("prompt")
    _save_pictures(out, model, module, history["losses"], settings)
    written = (out / _EVALUATION / SAMPLES_NAME / _SAMPLES).read_text(encoding="utf-8")
    prompted = "".join(f"--- prompt {settings['prompt']!r}\n{text}\n\n" for text in continued.texts)
    write_text(out / _SAMPLES, prompted + written)
    held_out, samples = report["held_out"], report["samples"]
    metrics = {
        "token_accuracy": held_out["token_accuracy"],
        "token_accuracy_one_pass": held_out["token_accuracy_one_pass"],
        "unigram_baseline": held_out["unigram_baseline"],
        "context_free_baseline": held_out["context_free_baseline"],
        "time_nearest_half": held_out["time_nearest_half"],
        "gain_at_time_nearest_half": held_out["gain_at_time_nearest_half"],
        "bits_per_byte": held_out["bits_per_byte"],
        "context_free_bits_per_byte": held_out["context_free_bits_per_byte"],
        "text_recovery_accuracy": report["recovery"]["text_recovery_accuracy"],
        "text_recovery_time": report["recovery"]["t"],
        "text_recovery_exact": report["recovery"]["exact"],
        "ngram_perplexity": samples["ngram_perplexity"],
        "valid_codes": samples["valid_codes"],
        "code_distance": samples["code_distance"],
        "samples": samples["samples"],
        "held_out": samples["held_out"],
        "continuations": continued.texts,
        "train_steps": len(history["losses"]),
        "train_tokens_per_sec": round(
            len(history["losses"])
            * settings["training"]["batch_size"]
            * module.colours.num_tokens
            / max(history["seconds"], 1e-9)
        ),
        "num_parameters": sum(p.numel() for p in module.parameters()),
        "seconds": laps.seconds,
        "settings": settings,
    }
    write_json(metrics_path, metrics)
    write_final_report(out)
    _summary(out, metrics)
    return metrics


def _train(folder: Path, settings: dict[str, Any], console: Console) -> tuple[Path, dict[str, Any]]:
    """Train, or go on, or take what is finished: the checkpoint, and losses and seconds of the whole training."""
    last = folder / LAST_NAME
    done = int(load_checkpoint(last)["global_step"]) if last.exists() else 0
    if done < settings["training"]["max_steps"]:
        size = builtin_size("train")
        console.print(
            f"{'resuming' if done else 'training'} at step {done} of {settings['training']['max_steps']} on "
            f"{size.megabytes:.2f} MB of Python's documentation"
        )
        course: dict[str, Any] = {"resume": str(last)} if done else {**settings["training"], "seed": settings["seed"]}
        train(
            None,
            folder,
            epochs=100,
            # It is judged at the end, and saved when it is interrupted.
            val_interval=100,
            save_interval=1,
            accelerator="cpu",
            callbacks=[TrainingHistory()],
            **course,
        )
    history: dict[str, Any] = load_checkpoint(last)["callbacks"][TrainingHistory.__qualname__]
    return last, history


def _continue_prompt(model: Model, settings: dict[str, Any]) -> Samples:
    num = settings["num_continuations"]
    with meter("continuing the prompt", num, unit="texts") as progress:
        return model.sample(
            num=num,
            prompt=settings["prompt"],
            seeds=settings["seed"],
            on_progress=lambda done, in_all: progress.update(num * done / in_all),
            **settings["sampling"],
        )


def _save_pictures(
    out: Path, model: Model, module: TextLightningModule, losses: list[float], settings: dict[str, Any]
) -> None:
    """The curves, and a held-out text as an image: clean, under noise, recovered."""
    shutil.copyfile(out / _EVALUATION / PLOT_NAME, out / PLOT_NAME)
    pictures.plot_curve(
        out / _LOSS,
        range(1, len(losses) + 1),
        losses,
        xlabel="optimiser step",
        ylabel="loss",
        title="JiT on text as colour",
        smooth=min(50, len(losses)),
    )
    colours, seed, t = module.colours, settings["seed"], 0.3
    ids = torch.tensor([module.tokenizer.encode(builtin_documents("held_out")[0])[: colours.num_tokens]])
    clean = colours.encode(ids)
    noise = module.noise_scale * noise_from_seeds(module.codec.shape, [seed])
    noisy = interpolate(noise, clean, torch.tensor([t]))
    back = model.sample(texts=ids, start_time=t, seeds=seed, **settings["sampling"])
    assert isinstance(back, TextSamples)
    strip = torch.cat([colours.decode(clean), colours.decode(noisy), back.pixels])
    pictures.save_image(
        pictures.grid(strip.numpy(), columns=3, scale=_IMAGE_SCALE * 64 // colours.img_size, gap_px=12), out / _IMAGE
    )
    said = {"left: a held-out text": ids[0], f"right: recovered from t = {t}, the middle": back.ids[0]}
    decode = module.tokenizer.decode
    write_text(out / _IMAGE_CAPTION, "".join(f"--- {name}\n{decode(row.tolist())}\n\n" for name, row in said.items()))


def _summary(out: Path, metrics: dict[str, Any]) -> None:
    # The result goes to standard output, the progress before it to standard error.
    console = Console(soft_wrap=True)
    times = [t for t in _FIVE_TIMES if t in metrics["token_accuracy"]]
    columns = ("token_accuracy", "token_accuracy_one_pass", "unigram_baseline", "context_free_baseline")
    bits = ("bits_per_byte", "context_free_bits_per_byte")
    shown = {name: {t: metrics[name][t] for t in times} for name in (*columns, *bits)}
    console.print(accuracy_table({"num_texts": metrics["settings"]["num_texts"], **shown}))
    perplexity = metrics["ngram_perplexity"]
    nearest = metrics["time_nearest_half"]
    console.print(
        f"at t = {nearest:g}, where the reader without context is nearest one half "
        f"({metrics['context_free_baseline'][f'{nearest:g}']:.1%}), the model is "
        f"{100 * metrics['gain_at_time_nearest_half']:+.1f} points better\n"
        f"text recovery from t = {metrics['text_recovery_time']:g}: {metrics['text_recovery_accuracy']:.1%} of the "
        f"characters, {metrics['text_recovery_exact']:.0%} of the texts exact\n"
        f"perplexity of a byte: samples {perplexity['samples'] or float('nan'):.1f}, held-out text "
        f"{perplexity['held_out']:.1f}, shuffled {perplexity['shuffled']:.1f}; real words in the samples "
        f"{metrics['samples']['real_words']:.0%} (held-out text {metrics['held_out']['real_words']:.0%})"
    )
    for text in metrics["continuations"][:_NUM_PRINTED]:
        console.rule("continued", align="left")
        prompt = metrics["settings"]["prompt"]
        console.print(Text(prompt, style="bold") + Text(text.removeprefix(prompt)))
    written = (out / _SAMPLES).read_text(encoding="utf-8").split("--- seed ")[1 : 1 + _NUM_PRINTED]
    for part in written:
        number, _, text = part.partition("\n")
        console.rule(f"written from noise, seed {number}", align="left")
        console.print(Text(text.strip("\n")))
    console.rule(align="left")
    seconds = metrics["seconds"]
    console.print(
        f"{metrics['train_steps']} training steps in {seconds['train']:.0f} s, everything in "
        f"{sum(seconds.values()):.0f} s\n"
        f"look at {out / _IMAGE} (a text as an image, under noise, recovered), {out / PLOT_NAME}, {out / _LOSS}, "
        f"{out / _SAMPLES}\n"
        f'write more: jitflow text sample {out / _TRAINING / LAST_NAME} --prompt "The import statement"'
    )
