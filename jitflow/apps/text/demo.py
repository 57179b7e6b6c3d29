"""The demo of text: train a small text model on Python's own documentation, in minutes on two CPU cores."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from jitflow import pictures
from jitflow.apps.text.corpus import builtin_documents
from jitflow.apps.text.evaluation_settings import TextEvaluation
from jitflow.apps.text.judge import PLOT_NAME, SAMPLES_NAME, evaluate
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.sampling import TextSamples
from jitflow.apps.text.tables import accuracy_table
from jitflow.checkpoint.folder import LAST_NAME
from jitflow.core.path import interpolate
from jitflow.core.seeding import noise_from_seeds
from jitflow.io.files import write_text
from jitflow.io.progress import meter
from jitflow.model import Model, load
from jitflow.training.demo import Demo, DemoState

_TRAINING, _EVALUATION = "training", "evaluation"
_SAMPLES, _IMAGE, _LOSS = "samples.txt", "text.png", "loss.png"
_IMAGE_SCALE = 6
# The text of the image, whose colours a person cannot read.
_IMAGE_CAPTION = "text.txt"
# Start time of the text recovery in the picture.
_IMAGE_TIME = 0.3
_NUM_PRINTED = 2
_FIVE_TIMES = ("0.1", "0.2", "0.3", "0.4", "0.5")


def _evaluate(state: DemoState) -> None:
    """Evaluate the model on noisy held-out text, recovery and generated samples."""
    settings = state.settings
    state.console.print(
        f"reading {settings['num_texts']} noisy held-out texts, generating {settings['num_samples']} texts"
    )
    assert state.checkpoint is not None
    measured = TextEvaluation(
        num_texts=settings["num_texts"],
        num_samples=settings["num_samples"],
        seed=state.seed,
        times=settings["times"],
        sampling=settings["sampling"],
    )
    report = evaluate(state.checkpoint, None, state.out / _EVALUATION, measured, device="cpu")
    held_out, samples = report["held_out"], report["samples"]
    state.metrics.update(
        {
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
        }
    )


def _continue_prompt(state: DemoState) -> None:
    """Continue the prompt, and write all generated texts to one file."""
    model, module = _load(state)
    prompt, num_steps = state.settings["prompt"], len(state.losses)
    texts = _write(model, state).texts
    written = (state.out / _EVALUATION / SAMPLES_NAME / _SAMPLES).read_text(encoding="utf-8")
    prompted = "".join(f"--- prompt {prompt!r}\n{text}\n\n" for text in texts)
    write_text(state.out / _SAMPLES, prompted + written)
    num_tokens = num_steps * state.training["data.batch_size"] * module.colours.num_tokens
    state.metrics.update(
        {
            "continuations": texts,
            "train_steps": num_steps,
            "train_tokens_per_sec": round(num_tokens / max(state.train_seconds, 1e-9)),
            "num_parameters": sum(p.numel() for p in module.parameters()),
        }
    )


def _load(state: DemoState) -> tuple[Model, TextLightningModule]:
    assert state.checkpoint is not None
    model = load(state.checkpoint, device="cpu")
    assert isinstance(model.module, TextLightningModule)
    return model, model.module


def _write(model: Model, state: DemoState) -> TextSamples:
    num = state.settings["num_continuations"]
    with meter("continuing the prompt", num, unit="texts") as progress:
        samples = model.sample(
            num=num,
            prompt=state.settings["prompt"],
            seeds=state.seed,
            on_progress=progress.update_share,
            **state.settings["sampling"],
        )
    assert isinstance(samples, TextSamples)
    return samples


def _save_pictures(state: DemoState) -> None:
    """Save the curves, and a held-out text as an image: clean, under noise, recovered."""
    out, losses = state.out, state.losses
    shutil.copyfile(out / _EVALUATION / PLOT_NAME, out / PLOT_NAME)
    pictures.plot_losses(out / _LOSS, losses, title="JiT on text as colour")
    model, module = _load(state)
    colours, t = module.colours, _IMAGE_TIME
    ids = torch.tensor([module.tokenizer.encode(builtin_documents("held_out")[0])[: colours.num_tokens]])
    clean = colours.encode(ids)
    noise = module.noise_scale * noise_from_seeds(module.codec.shape, [state.seed])
    noisy = interpolate(noise, clean, torch.tensor([t]))
    back = model.sample(texts=ids, start_time=t, seeds=state.seed, **state.settings["sampling"])
    assert isinstance(back, TextSamples)
    strip = torch.cat([colours.decode(clean), colours.decode(noisy), back.pixels])
    pictures.save_image(
        pictures.grid(strip.numpy(), columns=3, scale=_IMAGE_SCALE * 64 // colours.img_size, gap_px=12), out / _IMAGE
    )
    shown = {"left: a held-out text": ids[0], f"right: recovered from t = {t}, the middle": back.ids[0]}
    decode = module.tokenizer.decode
    write_text(out / _IMAGE_CAPTION, "".join(f"--- {name}\n{decode(row.tolist())}\n\n" for name, row in shown.items()))


def _describe(out: Path, metrics: Mapping[str, Any]) -> None:
    # The result goes to standard output, the progress before it to standard error.
    console = Console(markup=False, soft_wrap=True)
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


# Chosen by trials of some minutes: the smaller of the two image sizes, so that two cores read two thousand bytes a
# step; most steps at times when about half of the bytes can be read without context; cross-entropy alone, which ends
# the plateau on which a network reads each place by itself; and a number of steps instead of a time, so that a result
# repeats. Network, loss and rate are the recipe's.
DEMO = Demo(
    summary="Train a small model of text as colour on Python's documentation, and read what it recovers and writes.",
    recipe="text/jit_n4_bytes",
    training=_TRAINING,
    overrides={
        "trainer.max_steps": 2000,
        # Never reached: max_steps ends the training; it is saved when interrupted.
        "trainer.max_epochs": 100,
        "trainer.check_val_every_n_epoch": 100,
        "trainer.log_every_n_steps": 10,
        "trainer.devices": 1,
        "checkpoint.dirpath": ".",
        "checkpoint.save_milestone_freq": 1,
    },
    settings={
        "times": [0.05, 0.1, 0.15, 0.2, 0.22, 0.25, 0.3, 0.4, 0.5],
        "num_texts": 128,
        "num_samples": 32,
        "sampling": {"steps": 100, "solver": "euler", "churn": 3.0},
        "prompt": "The import statement",
        "num_continuations": 3,
    },
    # A tiny network on images of 16 tokens; nothing is learned.
    quick={
        "model.img_size": 16,
        "data.img_size": 16,
        "model.net_settings": {"hidden_size": 32, "depth": 2, "num_heads": 2, "bottleneck_dim": 16},
        "trainer.max_steps": 4,
        "schedule.warmup_epochs": 0.0,
        "settings.num_texts": 4,
        "settings.num_samples": 2,
        "settings.sampling": {"steps": 4, "solver": "euler", "churn": 1.0},
        "settings.prompt": "The",
        "settings.num_continuations": 1,
    },
    after={"evaluate": _evaluate, "prompt": _continue_prompt, "pictures": _save_pictures},
    describe=_describe,
    writes=(
        f"{_TRAINING}/cache",
        # Where earlier versions kept the tokens.
        f"{_TRAINING}/tokens",
        _EVALUATION,
        _SAMPLES,
        _IMAGE,
        _IMAGE_CAPTION,
        _LOSS,
        PLOT_NAME,
    ),
)
