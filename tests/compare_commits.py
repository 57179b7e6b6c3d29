"""Train, sample and evaluate with two commits, and compare what they give bit for bit.

    python tests/compare_commits.py A B              two commits, or "." for the files as they are
    python tests/compare_commits.py A --write FILE   keep losses and norms of weights of one commit
    python tests/compare_commits.py A --against FILE compare with kept ones, to 1e-5 relative

Images, text and micro-Doppler are each trained for 20 optimiser steps on both public paths: as the documents write it
(Python, or the scripts at the root) and by a recipe. Compared are the loss of every batch and validation, weights and
both averages by name in the last checkpoint, samples of fixed seeds, and the scores of the evaluation. Every command
line names every setting that has a number in it, so that a changed default is no difference, and goes through what is
documented only, so that modules may move. Both commits run side by side, each with one thread on the CPU; the whole
takes two and a half minutes of CPU time in all. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
APPLICATIONS = ("images", "text", "microdoppler")
PATHS = ("documented", "recipe")

# -------------------------------------------------------------------------------------------- the command lines

# Differences that are meant, as application/path/kind, with the reason. Nothing else is left out of the comparison.
EXEMPT = {
    "text/recipe/scores without data_path": "7ea7bf0 judges a recipe's checkpoint on the built-in corpus instead of "
    "the text held out of its own training: a fault; with --data_path both must agree, see the row above",
}
# `jitflow evaluate` on a text checkpoint is left out: it ends in a ZeroDivisionError in 7ea7bf0.

JIT_NET = '{"hidden_size":32,"depth":2,"num_heads":2,"bottleneck_dim":16,"in_context_len":4,"in_context_start":1}'
TEXT_NET = '{"hidden_size":32,"depth":2,"num_heads":2,"bottleneck_dim":16,"init_std":0.08}'
LATENT_NET = '{"hidden_size":32,"depth":2,"num_heads":2,"patch_size":1}'

# 40 pictures, 5 batches an epoch, 4 epochs.
IMAGES_SCRIPT = """
import lightning.pytorch as pl
from callbacks import create_default_callbacks
from datas.datamodule import JiTDataModule
from models.modelmodule import JiTLightningModule

pl.seed_everything(3, workers=True)
model = JiTLightningModule(
    model_name="JiT-N/4", img_size=16, num_classes=4, attn_dropout=0.1, proj_dropout=0.1, learning_rate=1e-3,
    weight_decay=0.01, ema_decay1=0.9, ema_decay2=0.7, P_mean=-0.8, P_std=0.8, noise_scale=1.0, t_eps=5e-2,
    label_drop_prob=0.1, sampling_method="heun", num_sampling_steps=4, cfg_scale=2.0, cfg_interval=(0.1, 1.0),
)
data = JiTDataModule(
    data_path="../data/images", img_size=16, batch_size=8, num_workers=0, pin_memory=False, num_replicas=1, rank=0
)
callbacks = create_default_callbacks(
    ema_decay1=0.9, ema_decay2=0.7, save_dir="images_documented/run", save_last_freq=1, save_milestone_freq=100,
    eval_freq=100, num_images=8, eval_batch_size=8, num_classes=4, img_size=16, lr_schedule="cosine", warmup_epochs=1,
    min_lr=1e-5, epochs=4, log_freq=1, enable_fid_eval=False,
)
trainer = pl.Trainer(
    max_epochs=4, accelerator="cpu", devices=1, precision="32-true", callbacks=callbacks, logger=False,
    enable_checkpointing=True, enable_progress_bar=False, gradient_clip_val=1.0, num_sanity_val_steps=0,
    check_val_every_n_epoch=1,
)
trainer.fit(model, datamodule=data)
"""


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        name: application/path/what.
        spellings: The line as one or more ways to write it, the newest first: the first one whose options a commit's
            ``--help`` lists is run, else the last. Dotted options are not looked for, since no help lists them.
    """

    name: str
    spellings: tuple[str, ...]

    @property
    def application(self) -> str:
        """The application."""
        return self.name.partition("/")[0]

    @property
    def trains(self) -> bool:
        """Whether it belongs to the training: losses and weights come of it."""
        return self.name.rpartition("/")[2] in ("extract", "train")


def commands() -> list[Command]:
    """Return every command line in the order of running; each runs in a folder beside ``../data``."""
    return [*_images_commands(), *_text_commands(), *_microdoppler_commands()]


def simulate_command() -> Command:
    """Return the command that makes the spectrograms, once for both commits."""
    return Command(
        "microdoppler/data/simulate",
        (
            "jitflow microdoppler simulate --output_dir gait --num_users 3 --images_per_user 8 --val_fraction 0.34 "
            "--seed 0 --carrier_ghz 24 --window_sec 2.5 --img_size 64 --min_cadence_gap 0.1 --snr_db [18,28] "
            "--direction toward --colours viridis --layout class_folders --num_processes 1",
        ),
    )


def _images_commands() -> list[Command]:
    sample = (
        "jitflow sample {run} --labels 0-3 --count 1 --guidance 2 --interval 0.1,1 --solver heun --steps 4 "
        "--time_shift 1 --seed 5 --ema {ema} --out {out} --batch_size 3 --device cpu --precision 32"
    )
    evaluate = (
        "jitflow evaluate {run} --num_images 40 --reference {reference} --extractor pixels:2 --guidance 2 "
        "--interval 0.1,1 --solver heun --steps 4 --ema 1 --seed 5 --out {out} --batch_size 16 --processes 1 "
        "--device cpu --precision 32"
    )
    train = (
        "jitflow train --config images/digits --run_dir images_recipe/run --seed_everything 3 "
        f"--model.model_name JiT-N/4 --model.net_settings '{JIT_NET}' --model.img_size 16 --model.in_channels 1 "
        "--model.num_classes 10 --model.attn_dropout 0 --model.proj_dropout 0.1 --model.learning_rate 1e-3 "
        "--model.weight_decay 0.01 --model.ema_decay1 0.9 --model.ema_decay2 0.7 --model.P_mean -0.8 "
        "--model.P_std 0.8 --model.noise_scale 1 --model.t_eps 0.05 --model.label_drop_prob 0.1 "
        "--model.sampling_method multistep --model.num_sampling_steps 6 --model.cfg_scale 1.5 "
        "--model.cfg_interval [0,1] --model.prediction data --model.time_kind logit_normal --model.time_shift 1 "
        "--data.img_size 16 --data.batch_size 16 --data.num_workers 0 --data.val_fraction 0.2 --data.drop_last true "
        "--schedule.lr_schedule cosine --schedule.warmup_epochs 1 --schedule.min_lr 1e-5 --checkpoint.save_last_freq 1 "
        "--checkpoint.save_milestone_freq 1000 --trainer.max_epochs 4 --trainer.max_steps 20 "
        "--trainer.limit_train_batches 5 --trainer.limit_val_batches 2 --trainer.check_val_every_n_epoch 1 "
        "--trainer.log_every_n_steps 1 --trainer.gradient_clip_val 1 --trainer.accumulate_grad_batches 1 "
        "--trainer.num_sanity_val_steps 0 --trainer.accelerator cpu --trainer.devices 1 --trainer.precision 32-true"
    )
    listed = [
        Command("images/documented/train", ("images_documented.py",)),
        Command("images/recipe/train", (train,)),
    ]
    for path, run, reference in (
        ("documented", "images_documented/run/checkpoint-last.pth", "../data/images/val"),
        ("recipe", "images_recipe/run/checkpoints/last.ckpt", "digits:val"),
    ):
        out = f"images_{path}"
        listed += [
            Command(f"images/{path}/sample", (sample.format(run=run, ema=1, out=f"{out}/samples/1"),)),
            Command(f"images/{path}/sample EMA 2", (sample.format(run=run, ema=2, out=f"{out}/samples/2"),)),
            Command(f"images/{path}/evaluate", (evaluate.format(run=run, reference=reference, out=f"{out}/scores"),)),
        ]
    return listed


def _text_commands() -> list[Command]:
    train = (
        f"train.py --data_path ../data/text.txt --model JiT-N/4 --net_settings '{TEXT_NET}' --img_size 16 "
        "--epochs 50 --max_steps 20 --lr 3e-3 --warmup_epochs 0.2 --batch_size 12 --gradient_accumulation_steps 2 "
        "--output_dir text_documented/run --tokenizer bytes --mapping codebook --save_interval 1 --val_interval 1 "
        "--log_interval 1 --weight_decay 0.01 --max_grad_norm 1 --ema_decay 0.9 --predict_clean true "
        "--decoder expected --velocity_weight 0.5 --cross_entropy_weight 1 --self_conditioning true "
        "--infill_prob 0.5 --prompt_prob 0.25 --P_mean -0.8 --P_std 0.8 --time_kind logit_normal --noise_scale 1 "
        "--pack true --seed 3 --devices 1 --accelerator cpu --precision 32-true --num_workers 0"
    )
    recipe = (
        "jitflow train --config text/jit_n4_bytes --run_dir text_recipe/run --seed_everything 3 "
        f"--model.tokenizer bytes --model.model_name JiT-N/4 --model.net_settings '{TEXT_NET}' --model.img_size 16 "
        "--model.mapping codebook --model.codebook_seed 0 --model.predict_clean true --model.decoder expected "
        "--model.learning_rate 3e-3 --model.weight_decay 0.01 --model.ema_decay1 0.9 --model.ema_decay2 0.6 "
        "--model.velocity_weight 0.5 --model.cross_entropy_weight 1 --model.pad_weight 0.1 "
        "--model.self_conditioning true --model.self_conditioning_prob 0.5 --model.infill_prob 0.5 "
        "--model.prompt_prob 0.25 --model.P_mean -0.8 --model.P_std 0.8 --model.noise_scale 1 --model.t_eps 0.01 "
        "--model.sampling_method euler --model.num_sampling_steps 5 --model.churn 0 --model.time_kind logit_normal "
        "--model.time_shift 1 --data.tokenizer bytes --data.mapping codebook --data.img_size 16 "
        "--data.data_path ../data/text.txt --data.batch_size 16 --data.val_fraction 0.05 --data.num_workers 0 "
        "--schedule.lr_schedule cosine --schedule.warmup_epochs 0.2 --schedule.min_lr 0 --checkpoint.save_last_freq 1 "
        "--checkpoint.save_milestone_freq 10 --checkpoint.best_name best_model.pth --trainer.max_epochs 4 "
        "--trainer.max_steps 20 --trainer.limit_train_batches 5 --trainer.check_val_every_n_epoch 1 "
        "--trainer.log_every_n_steps 1 --trainer.gradient_clip_val 1 --trainer.accumulate_grad_batches 1 "
        "--trainer.num_sanity_val_steps 0 --trainer.accelerator cpu --trainer.devices 1 --trainer.precision 32-true"
    )
    sample = (
        "jitflow text sample {run} --count 3 --seed 5 --steps 5 --solver {solver} --churn {churn} --temperature 0.9 "
        "--ema {ema} --out {out} --batch_size 2 --device cpu --precision 32 {prompt}"
    )
    evaluate = (
        "jitflow text evaluate {run} --num_texts 8 --num_samples 4 --seed 5 --ema 1 --steps 5 --solver heun --churn 0 "
        "--temperature 1 --recovery_time 0.3 --batch_size 4 --device cpu --out {out} {data}"
    )
    listed = [Command("text/documented/train", (train,)), Command("text/recipe/train", (recipe,))]
    for path, run in (("documented", "text_documented/run"), ("recipe", "text_recipe/run/checkpoints")):
        last, best = f"{run}/checkpoint-last.pth", f"{run}/best_model.pth"
        plain = sample.format(run=last, solver="heun", churn=0, ema=1, prompt="", out=f"text_{path}/samples/1")
        prompted = sample.format(
            run=best, solver="euler", churn=1, ema=2, prompt="--prompt 'The '", out=f"text_{path}/samples/2"
        )
        scores = f"text_{path}/scores"
        listed += [
            Command(f"text/{path}/sample", (plain,)),
            Command(f"text/{path}/sample after a prompt", (prompted,)),
            Command(
                f"text/{path}/evaluate", (evaluate.format(run=last, data="--data_path ../data/text.txt", out=scores),)
            ),
            Command(
                f"text/{path}/evaluate without data_path",
                (evaluate.format(run=last, data="", out=f"{scores} without data_path".replace(" ", "_")),),
            ),
        ]
    return listed


def _microdoppler_commands() -> list[Command]:
    extract = (
        "stage1_extract_features.py --data_dir ../data/gait --vavae_path builtin --output_path latents --batch_size 4 "
        "--seed 3 --img_size 64 --num_processes 1 --device cpu --sample true"
    )
    train = (
        "stage2_train_dit.py --latent_dir latents --output_dir microdoppler_documented/run --batch_size 7 "
        f"--max_epochs 10 --lr 1e-3 --devices 1 --precision 32-true --seed 3 --model LightningDiT-N/4 "
        f"--net_settings '{LATENT_NET}' --max_steps 20 --warmup_epochs 1 --ema_decay 0.9 --cosine_weight 1 "
        "--label_drop_prob 0.1 --prediction velocity --noise_scale 1 --P_mean 0 --P_std 1 --gradient_clip 1 "
        "--accelerator cpu --num_workers 0 --check_val_every_n_epoch 1"
    )
    recipe = (
        "jitflow train --config microdoppler/n4_5users --run_dir microdoppler_recipe/run --seed_everything 3 "
        f"--model.num_users 3 --model.model_name LightningDiT-N/4 --model.net_settings '{LATENT_NET}' "
        "--model.latent_shape [32,4,4] --model.learning_rate 1e-3 --model.weight_decay 0 --model.ema_decay1 0.9 "
        "--model.ema_decay2 0.6 --model.cosine_weight 1 --model.P_mean 0 --model.P_std 1 --model.noise_scale 1 "
        "--model.t_eps 0.05 --model.label_drop_prob 0.1 --model.sampling_method multistep "
        "--model.num_sampling_steps 5 --model.cfg_scale 2 --model.cfg_interval [0,1] --model.cfg_channels null "
        "--model.prediction velocity --model.time_kind logit_normal --model.time_shift 1 --data.latent_dir latents "
        "--data.batch_size 7 --data.num_workers 0 --schedule.lr_schedule cosine --schedule.warmup_epochs 1 "
        "--schedule.min_lr 1e-4 --checkpoint.save_last_freq 1 --checkpoint.save_milestone_freq 1000 "
        "--checkpoint.best_name best.ckpt --trainer.max_epochs 10 --trainer.max_steps 20 "
        "--trainer.check_val_every_n_epoch 1 --trainer.log_every_n_steps 1 --trainer.gradient_clip_val 1 "
        "--trainer.accumulate_grad_batches 1 --trainer.num_sanity_val_steps 0 --trainer.accelerator cpu "
        "--trainer.devices 1 --trainer.precision 32-true"
    )
    sample = (
        "{program} --dit_checkpoint {run}/checkpoints/{name} --output_dir {out} --vavae_path builtin "
        "--user_ids 1 2 3 --num_samples_per_user 3 --guidance_scale 2 --num_steps 5 --seed 5 --device cpu "
        "--batch_size 4 --solver {solver} --interval [0.1,1] --ema {ema}"
    )
    evaluate = (
        "jitflow microdoppler evaluate --data_dir ../data/gait --generated_dir {out}/samples/1 --out {out}/scores "
        "--seed 5 --split_seed 42"
    )
    listed = [
        Command("microdoppler/documented/extract", (extract,)),
        Command("microdoppler/documented/train", (train,)),
        Command("microdoppler/recipe/train", (recipe,)),
    ]
    for path, program in (("documented", "stage3_inference.py"), ("recipe", "jitflow microdoppler sample")):
        out = f"microdoppler_{path}"
        named = functools.partial(sample.format, program=program, run=f"{out}/run")
        listed += [
            Command(
                f"microdoppler/{path}/sample",
                (named(name="best.ckpt", out=f"{out}/samples/1", solver="euler", ema=1),),
            ),
            Command(
                f"microdoppler/{path}/sample EMA 2",
                (named(name="checkpoint-last.pth", out=f"{out}/samples/2", solver="heun", ema=2),),
            ),
        ]
    # Once is enough: the evaluation sees pictures only, those of the recipe are compared themselves, and its three
    # classifiers take most of the time of the whole comparison.
    listed.append(Command("microdoppler/documented/evaluate", (evaluate.format(out="microdoppler_documented"),)))
    return listed


# ------------------------------------------------------------------------------------------------ the shared data


def make_data(folder: Path, tree: Path, applications: Sequence[str]) -> None:
    """Write pictures, a text, and the spectrograms that a commit simulates.

    Args:
        folder: Where to.
        tree: Files of the commit that simulates.
        applications: Which of the applications need data.
    """
    folder.mkdir(parents=True)
    if "images" in applications:
        _make_images(folder / "images")
    if "text" in applications:
        (folder / "text.txt").write_text(make_text(), encoding="utf-8")
    if "microdoppler" in applications:
        words = _program(tree, shlex.split(_choose(simulate_command(), tree)))
        done = subprocess.run(words, cwd=folder, env=process_environment(tree), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"no spectrograms could be simulated: {_last_line(done.stderr)}")


def _make_images(folder: Path) -> None:
    """Four classes of coloured noise, 24 x 20 pixels, ten to train on and three to validate on."""
    from PIL import Image

    for split, count in (("train", 10), ("val", 3)):
        for label in range(4):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            draws = np.random.default_rng([label, count])
            for number in range(count):
                pixels = draws.integers(0, 128, (20, 24, 3)) + 40 * label
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place / f"{number}.png")


def make_text() -> str:
    """Made-up English: enough for a held-out part (256 tokens of 5,120), few enough for epochs that end in 20 steps."""
    draws = np.random.default_rng(0)
    nouns = ("radar", "colour", "token", "image", "step", "user", "noise", "word")
    verbs = ("shows", "follows", "names", "hides", "moves", "draws")
    lines = [
        f"The {nouns[a]} {verbs[b]} the {nouns[c]} number {d}."
        for a, b, c, d in draws.integers(0, [8, 6, 8, 100], (170, 4)).tolist()
    ]
    return "\n".join(lines) + "\n"


# ----------------------------------------------------------------------------------- one commit, in its own process


def work(tree: Path, applications: Sequence[str], *, trainings_only: bool) -> None:
    """Run the commands of one commit in the working directory, each in a fork of this process.

    A fork starts at once, where a new Python would import torch and Lightning for several seconds.

    Args:
        tree: Files of the commit, which are first on the path of modules.
        applications: Which applications to run.
        trainings_only: Leave samples and scores out.
    """
    _import_what_is_large(tree)
    Path("images_documented.py").write_text(IMAGES_SCRIPT, encoding="utf-8")
    Path("logs").mkdir()
    status = {}
    for command in commands():
        if command.application not in applications or (trainings_only and not command.trains):
            continue
        words = shlex.split(_choose(command, tree))
        log = Path("logs") / f"{command.name.replace('/', '_').replace(' ', '_')}.log"
        started = time.monotonic()
        code = _run_in_fork(command, words, tree, log)
        seconds = round(time.monotonic() - started, 1)
        status[command.name] = {"code": code, "seconds": seconds, "said": _last_line(log.read_text("utf-8", "replace"))}
        Path("status.json").write_text(json.dumps(status), encoding="utf-8")
        print(f"{Path.cwd().name}  {command.name}: {seconds} s{'' if code == 0 else ', failed'}", file=sys.stderr)


def _import_what_is_large(tree: Path) -> None:
    """Import what every command needs; SystemExit if jitflow is not the commit's."""
    large = ("jsonargparse", "lightning.pytorch.cli", "matplotlib.pyplot", "sklearn.datasets", "torchvision")
    for name in (*large, "torch.utils.tensorboard"):
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    found = importlib.import_module("jitflow").__file__ or ""
    if tree not in Path(found).resolve().parents:
        sys.exit(f"jitflow comes from {found} instead of {tree}")


def _run_in_fork(command: Command, words: list[str], tree: Path, log: Path) -> int:
    """Run a command in a forked process; return its exit status."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        with log.open("w", encoding="utf-8") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        application, path, _ = command.name.split("/")
        record_training(Path(f"{application}_{path}") / "training.jsonl")
        _run_here(words, tree)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 (a fork must never come back into the loop of its parent)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_here(words: list[str], tree: Path) -> None:
    program, *rest = words
    sys.argv = [program, *rest]
    if program == "jitflow":
        runpy.run_module("jitflow", run_name="__main__", alter_sys=True)
    else:
        # The scripts of the checkout; our own lies in the working directory.
        script = Path(program) if Path(program).exists() else tree / program
        runpy.run_path(str(script), run_name="__main__")


def record_training(target: Path) -> None:
    """Make every ``Trainer.fit`` of this process write the loss of each batch and validation, one JSON a line.

    The log files of a run are no measure: how often they are written is a setting of each application.

    Args:
        target: The file, which is made when a training starts.
    """
    import lightning.pytorch as pl

    class Recorder(pl.Callback):
        def write(self, **values: float) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
            self.write(step=trainer.global_step, loss=float(loss))

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self.write(step=trainer.global_step, **values)

    fit = pl.Trainer.fit

    @functools.wraps(fit)
    def fit_and_record(self: Any, *args: Any, **kwargs: Any) -> Any:
        # In front, so that it has written before a callback of the training can stop it.
        self.callbacks.insert(0, Recorder())
        return fit(self, *args, **kwargs)

    pl.Trainer.fit = fit_and_record


def _choose(command: Command, tree: Path) -> str:
    """The first spelling whose options the commit knows."""
    for line in command.spellings[:-1]:
        words = shlex.split(line)
        verb = words[: next((i for i, word in enumerate(words) if word.startswith("--")), len(words))]
        options = [word for word in words if word.startswith("--") and "." not in word]
        if all(option in _help(tree, tuple(verb)).split() for option in options):
            return line
    return command.spellings[-1]


@functools.cache
def _help(tree: Path, verb: tuple[str, ...]) -> str:
    words = _program(tree, [*verb, "--help"])
    shown = subprocess.run(words, env=process_environment(tree), capture_output=True, text=True)
    return shown.stdout.replace(",", " ").replace("[", " ") if shown.returncode == 0 else ""


def _program(tree: Path, words: list[str]) -> list[str]:
    """Words for a new process."""
    first = ["-m", "jitflow"] if words[0] == "jitflow" else [str(tree / words[0])]
    return [sys.executable, *first, *words[1:]]


def process_environment(tree: Path) -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}
    left_out = ("PL_GLOBAL_SEED", "PYTHONHASHSEED")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **threads, **quiet, "PYTHONPATH": str(tree)}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


# -------------------------------------------------------------------------------------------- what came out of it

Values = dict[str, Any]


class MissingResultError(Exception):
    """A commit did not leave a result; the message says why."""


@dataclass(frozen=True)
class Kind:
    """A kind of result.

    Attributes:
        name: Its name in the table.
        command: What makes it, the last part of the command's name.
        read: Reads it from the folder of an application and path: arrays, numbers or texts by name.
        applications: Who has it.
        paths: On which paths.
        extra_allowed: Whether the second commit may have more than the first.
    """

    name: str
    command: str
    read: Callable[[Path], Values]
    applications: tuple[str, ...] = APPLICATIONS
    paths: tuple[str, ...] = PATHS
    extra_allowed: bool = False


def read_losses(folder: Path) -> Values:
    """Read the loss of every batch and validation."""
    values: Values = {}
    for place, line in enumerate(_training_lines(folder)):
        step = line.pop("step")
        values.update({f"{name} {place} after {step:.0f} steps": np.float64(value) for name, value in line.items()})
    return values


def _training_lines(folder: Path) -> list[dict[str, float]]:
    path = folder / "training.jsonl"
    if not path.exists():
        raise MissingResultError("no training ran")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_weights(section: str, folder: Path) -> Values:
    """Read a section of the last checkpoint as arrays by name."""
    import torch

    files = [path for name in ("checkpoint-last.pth", "last.ckpt") for path in sorted((folder / "run").rglob(name))]
    if not files:
        raise MissingResultError("no last checkpoint")
    weights = torch.load(files[0], map_location="cpu", weights_only=True).get(section)
    if not weights:
        raise MissingResultError(f"the last checkpoint has no {section}")
    return {name: _array(value) for name, value in weights.items()}


def _array(value: Any) -> np.ndarray[Any, Any]:
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()


def read_latents(folder: Path) -> Values:
    """Read the latents of stage 1."""
    from safetensors.numpy import load_file

    files = [folder.parent / "latents" / f"{split}.safetensors" for split in ("train", "val")]
    if not all(path.exists() for path in files):
        raise MissingResultError("no latents")
    return {f"{path.stem} {name}": array for path in files for name, array in load_file(path).items()}


def read_samples(folder: Path) -> Values:
    """Read pictures as pixels, and texts."""
    from PIL import Image

    place = folder / "samples"
    values: Values = {str(path.relative_to(place)): _pixels(Image.open(path)) for path in sorted(place.rglob("*.png"))}
    texts = sorted(place.rglob("samples.txt"))
    values.update({str(path.relative_to(place)): path.read_text(encoding="utf-8") for path in texts})
    if not values:
        raise MissingResultError("no samples")
    return values


def _pixels(image: Any) -> np.ndarray[Any, Any]:
    with image:
        return np.asarray(image)


def read_scores(name: str, folder: Path) -> Values:
    """Read every number of the reports of the evaluation, but how long it took."""
    files = sorted((folder / name).glob("*.json"))
    if not files:
        raise MissingResultError("no scores")
    values: Values = {}
    for path in files:
        values.update(_numbers(json.loads(path.read_text(encoding="utf-8")), ""))
    return values


def _numbers(value: Any, name: str) -> Iterator[tuple[str, np.float64]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not any(word in key for word in ("second", "_sec", "elapsed", "duration", "version", "commit")):
                yield from _numbers(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _numbers(inner, f"{name}[{place}]")
    elif isinstance(value, int | float):
        yield name, np.float64(value)


SECTIONS = {"weights": "state_dict", "EMA 1": "model_ema1", "EMA 2": "model_ema2"}
KINDS = [
    Kind("latents", "extract", read_latents, ("microdoppler",), ("documented",)),
    Kind("losses", "train", read_losses),
    *(Kind(name, "train", functools.partial(read_weights, section)) for name, section in SECTIONS.items()),
    Kind("samples", "sample", read_samples),
    Kind("scores", "evaluate", functools.partial(read_scores, "scores"), ("images", "text"), extra_allowed=True),
    Kind(
        "scores",
        "evaluate",
        functools.partial(read_scores, "scores"),
        ("microdoppler",),
        ("documented",),
        extra_allowed=True,
    ),
    Kind(
        "scores without data_path",
        "evaluate without data_path",
        functools.partial(read_scores, "scores_without_data_path"),
        ("text",),
        extra_allowed=True,
    ),
]


@dataclass
class Side:
    """A commit and what it left.

    Attributes:
        commit: As it was given.
        tree: Its files.
        folder: Where it runs.
        status: What became of each command.
    """

    commit: str
    tree: Path
    folder: Path
    status: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, application: str, path: str, kind: Kind) -> Values:
        """Read a result; MissingResultError if a command failed or left nothing."""
        for name, outcome in self.status.items():
            if name.startswith(f"{application}/{path}/{kind.command}") and outcome["code"]:
                raise MissingResultError(f"{self.commit}: {name.partition('/')[2]} failed: {outcome['said']}")
        try:
            return kind.read(self.folder / f"{application}_{path}")
        except MissingResultError as error:
            raise MissingResultError(f"{self.commit}: {error}") from None


# ------------------------------------------------------------------------------------------------- the comparison


@dataclass(frozen=True)
class Row:
    """A line of the table: whether a kind of result is equal, and what is to be said of it."""

    name: str
    equal: bool
    text: str

    @property
    def passes(self) -> bool:
        """Whether it is equal or need not be."""
        return self.equal or self.name in EXEMPT


def compare(first: Values, second: Values, *, extra_allowed: bool) -> tuple[bool, str]:
    """Compare two results bit for bit.

    Args:
        first: Arrays, numbers or texts by name.
        second: The same of another commit.
        extra_allowed: Whether the second may have more names.

    Returns:
        Whether they are equal, and what is to be said: how many, or where the largest difference is.
    """
    missing = sorted(first.keys() - second.keys())
    extra = sorted(second.keys() - first.keys())
    differing = {name: _difference(first[name], second[name]) for name in first.keys() & second.keys()}
    differing = {name: size for name, size in differing.items() if size is not None}
    notes = [f"{len(differing)} of {len(first)} differ"] if differing else []
    if differing:
        where = max(differing, key=lambda name: differing[name])
        notes.append(f"the most by {differing[where]:.3g} at {where}")
    notes += [
        f"{len(names)} only in the {which} ({names[0]})"
        for names, which in ((missing, "first"), (extra, "second"))
        if names
    ]
    equal = not differing and not missing and (extra_allowed or not extra)
    return equal, "; ".join([*(["equal"] if equal else []), *notes]) + (f" ({len(first)})" if equal else "")


def _difference(a: Any, b: Any) -> float | None:
    """Largest absolute difference; infinity where there is none to take, None if nothing differs."""
    if isinstance(a, str) or isinstance(b, str):
        return None if a == b else math.inf
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return math.inf
    if a.tobytes() == b.tobytes():
        return None
    largest = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    return math.inf if math.isnan(largest) else largest


def compare_sides(first: Side, second: Side, applications: Sequence[str]) -> list[Row]:
    """Compare every result of two commits."""
    rows = []
    for application in applications:
        for path in PATHS:
            for kind in KINDS:
                if application in kind.applications and path in kind.paths:
                    name = f"{application}/{path}/{kind.name}"
                    rows.append(Row(name, *_compare_kind(first, second, application, path, kind)))
    return rows


def _compare_kind(first: Side, second: Side, application: str, path: str, kind: Kind) -> tuple[bool, str]:
    results, missing = [], []
    for side in (first, second):
        try:
            results.append(side.read(application, path, kind))
        except MissingResultError as error:
            missing.append(str(error))
    if missing:
        return False, "; ".join(missing)
    return compare(*results, extra_allowed=kind.extra_allowed)


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table and the reasons of what is exempt."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        mark = "  " if row.equal else "~ " if row.passes else "! "
        print(f"{mark}{row.name:<{width}}  {row.text}")
    for row in rows:
        if row.passes and not row.equal:
            print(f"~ need not be equal: {row.name}: {EXEMPT[row.name]}")


# ----------------------------------------------------------------------------------------------- the golden numbers

TOLERANCE = 1e-5
_DIGITS = 8


def golden_numbers(side: Side, applications: Sequence[str]) -> dict[str, Any]:
    """Losses of one commit, and a few numbers of each set of weights, by application and path.

    Raises:
        MissingResultError: If a training failed.
    """
    kinds = {kind.name: kind for kind in KINDS}
    numbers: dict[str, Any] = {}
    for application in applications:
        for path in PATHS:
            losses = side.read(application, path, kinds["losses"])
            entry: dict[str, Any] = {"losses": [_rounded(value) for value in losses.values()]}
            for name in SECTIONS:
                arrays = side.read(application, path, kinds[name]).values()
                entry[name] = _summary([np.asarray(array, np.float64).ravel() for array in arrays])
            numbers[f"{application}/{path}"] = entry
    return numbers


def _summary(arrays: list[np.ndarray[Any, Any]]) -> dict[str, float]:
    values = np.concatenate(arrays)
    norms = [float(np.linalg.norm(array)) for array in arrays]
    return {
        "num_values": len(values),
        "norm": _rounded(np.linalg.norm(values)),
        "mean_abs": _rounded(np.abs(values).mean()),
        # Weighted by place, so that two tensors that change places are seen.
        "norms_by_place": _rounded(sum((1 + place) * norm for place, norm in enumerate(norms))),
    }


def _rounded(value: Any) -> float:
    return float(f"{float(value):.{_DIGITS}g}")


def compare_golden(kept: Mapping[str, Any], found: Mapping[str, Any]) -> list[Row]:
    """Compare numbers with kept ones, to 1e-5 relative."""
    rows = []
    for name, entry in found.items():
        for kind, values in entry.items():
            before = kept.get(name, {}).get(kind)
            rows.append(Row(f"{name}/{kind}", *_compare_numbers(before, values)))
    return rows


def _compare_numbers(kept: Any, found: Any) -> tuple[bool, str]:
    if kept is None:
        return False, "not in the file"
    pairs = zip(*(list(v.values()) if isinstance(v, Mapping) else v for v in (kept, found)), strict=False)
    if len(kept) != len(found):
        return False, f"{len(found)} numbers instead of {len(kept)}"
    largest = max(abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs)
    return largest <= TOLERANCE, f"largest relative difference {largest:.2g}"


# ------------------------------------------------------------------------------------------------------- the program


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Give the files of a commit, in a worktree that is removed afterwards; "." gives the files as they are."""
    if commit == ".":
        yield ROOT
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    made = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"no worktree of {commit} could be made: {_last_line(made.stderr)}")
    try:
        yield folder.resolve()
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True)


def run_sides(sides: Sequence[Side], applications: Sequence[str], *, trainings_only: bool) -> None:
    """Run the commands of every side, each in a process of its own, side by side."""
    running = []
    for side in sides:
        side.folder.mkdir()
        words = [sys.executable, __file__, "--worker", str(side.tree), "--only", ",".join(applications)]
        words += ["--trainings_only"] if trainings_only else []
        running.append(subprocess.Popen(words, cwd=side.folder, env=process_environment(side.tree)))
    try:
        for side, process in zip(sides, running, strict=True):
            if process.wait():
                sys.exit(f"{side.commit} could not be run")
            side.status = json.loads((side.folder / "status.json").read_text(encoding="utf-8"))
    finally:
        for process in running:
            process.terminate()


def main(args: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "commits", nargs="*", metavar="COMMIT", help='a commit, such as HEAD; "." is the files as they are'
    )
    parser.add_argument("--only", default=",".join(APPLICATIONS), help="applications, such as images,text")
    parser.add_argument("--keep", type=Path, help="folder, which must not exist, for everything that the runs leave")
    parser.add_argument(
        "--write", type=Path, help="keep losses and norms of weights of the one commit in this JSON file"
    )
    parser.add_argument("--against", type=Path, help="compare those of the one commit with this JSON file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trainings_only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(args)
    applications = [name for name in APPLICATIONS if name in given.only.split(",")]
    unknown = set(given.only.split(",")) - set(APPLICATIONS)
    if unknown:
        parser.error(f"there is no application {', '.join(sorted(unknown))}; there are {', '.join(APPLICATIONS)}")
    if given.worker is not None:
        work(given.worker, applications, trainings_only=given.trainings_only)
        return 0
    golden = given.write or given.against
    if len(given.commits) != (1 if golden else 2):
        parser.error("give two commits, or one with --write or --against")
    if given.keep is not None and given.keep.exists():
        parser.error(f"{given.keep} exists already")
    # Ended by SIGTERM, it still removes its worktrees.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = Path(tempfile.mkdtemp(prefix="compare_commits_"))
    try:
        return _run(given, applications, place)
    finally:
        if given.keep is not None:
            shutil.copytree(place, given.keep, symlinks=True)
        shutil.rmtree(place, ignore_errors=True)


def _run(given: argparse.Namespace, applications: list[str], place: Path) -> int:
    trees = place / "trees"
    if len(given.commits) == 1:
        with checkout(given.commits[0], trees / "first") as tree:
            side = Side(given.commits[0], tree, place / "first")
            make_data(place / "data", tree, applications)
            run_sides([side], applications, trainings_only=True)
        return _golden(given, side, applications)
    with checkout(given.commits[0], trees / "first") as tree, checkout(given.commits[1], trees / "second") as other:
        sides = [Side(given.commits[0], tree, place / "first"), Side(given.commits[1], other, place / "second")]
        make_data(place / "data", tree, applications)
        run_sides(sides, applications, trainings_only=False)
    rows = compare_sides(*sides, applications)
    print_rows(rows)
    failed = sum(not row.passes for row in rows)
    print(f"{failed} of {len(rows)} differ" if failed else f"all {len(rows)} equal or exempt")
    return int(failed > 0)


def _golden(given: argparse.Namespace, side: Side, applications: list[str]) -> int:
    try:
        found = golden_numbers(side, applications)
    except MissingResultError as error:
        print(error)
        return 1
    if given.write is not None:
        given.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    rows = compare_golden(json.loads(given.against.read_text(encoding="utf-8")), found)
    print_rows(rows)
    return int(not all(row.passes for row in rows))


if __name__ == "__main__":
    sys.exit(main())
