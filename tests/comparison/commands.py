"""Command lines that train, sample and evaluate each application on both public paths.

Every line names every setting that has a number in it, so that a changed default is no difference.
"""

from __future__ import annotations

import functools
import shlex
from dataclasses import dataclass

from former_words import in_present_words

APPLICATIONS = ("images", "text", "microdoppler")
PATHS = ("documented", "recipe")

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
        spellings: The line as one or more ways to write it, the oldest first: the first one whose options a commit's
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


def _today(line: str) -> str:
    """A documented training in the words of today."""
    return shlex.join(in_present_words(shlex.split(line)))


def _evaluations(line: str) -> tuple[str, str]:
    """An evaluation of a text model in the words of before and of today."""
    return line, line.replace("--num_samples", "--num_images").replace("--data_path", "--reference")


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
    listed = [Command("text/documented/train", (train, _today(train))), Command("text/recipe/train", (recipe,))]
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
                f"text/{path}/evaluate",
                _evaluations(evaluate.format(run=last, data="--data_path ../data/text.txt", out=scores)),
            ),
            Command(
                f"text/{path}/evaluate without data_path",
                _evaluations(evaluate.format(run=last, data="", out=f"{scores} without data_path".replace(" ", "_"))),
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
        Command("microdoppler/documented/train", (train, _today(train))),
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
