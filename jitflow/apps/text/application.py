"""The application ``text``: texts as images whose colours are tokens."""

from __future__ import annotations

from jitflow.apps.text.module import TextLightningModule
from jitflow.training.application import Application, Documented

DOCUMENTED = Documented(
    recipe="text/jit_b4",
    words={
        "data_path": "data.data_path",
        "val_path": "data.val_path",
        "tokenizer": "data.tokenizer",
        "model": "model.model_name",
        "img_size": ("model.img_size", "data.img_size"),
        "mapping": ("model.mapping", "data.mapping"),
        "predict_clean": "model.predict_clean",
        "decoder": "model.decoder",
        "lr": "model.learning_rate",
        "weight_decay": "model.weight_decay",
        "ema_decay": "model.ema_decay1",
        "velocity_weight": "model.velocity_weight",
        "cross_entropy_weight": "model.cross_entropy_weight",
        "self_conditioning": "model.self_conditioning",
        "infill_prob": "model.infill_prob",
        "prompt_prob": "model.prompt_prob",
        "P_mean": "model.P_mean",
        "P_std": "model.P_std",
        "time_kind": "model.time_kind",
        "noise_scale": "model.noise_scale",
        "net_settings": "model.net_settings",
        "compile": "model.compile",
        "gradient_checkpointing": "model.gradient_checkpointing",
        "pack": "data.pack",
        "batch_size": "data.batch_size",
        "num_workers": "data.num_workers",
        "seed": "seed_everything",
        "epochs": "trainer.max_epochs",
        "max_steps": "trainer.max_steps",
        "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
        "max_grad_norm": "trainer.gradient_clip_val",
        "val_interval": "trainer.check_val_every_n_epoch",
        "log_interval": "trainer.log_every_n_steps",
        "devices": "trainer.devices",
        "accelerator": "trainer.accelerator",
        "precision": "trainer.precision",
        "warmup_epochs": "schedule.warmup_epochs",
        "save_interval": ("checkpoint.save_last_freq", "checkpoint.save_milestone_freq"),
        "wandb": "logging.wandb",
    },
    least={
        "epochs": 1,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "devices": 1,
        "save_interval": 1,
        "val_interval": 1,
        "log_interval": 1,
        "warmup_epochs": 0,
        "max_grad_norm": 0,
    },
)
TEXT = Application(
    name="text",
    module=TextLightningModule,
    headline=("text_recovery_accuracy", "token_accuracy"),
    documented=DOCUMENTED,
)
