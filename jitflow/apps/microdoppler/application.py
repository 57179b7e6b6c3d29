"""The application ``microdoppler``: spectrograms of users in a latent space."""

from __future__ import annotations

from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.training.application import Application, Documented, Subject

DOCUMENTED = Documented(
    recipe="microdoppler/xl1",
    words={
        "latent_dir": "data.latent_dir",
        "batch_size": "data.batch_size",
        "num_workers": "data.num_workers",
        "max_epochs": "trainer.max_epochs",
        "max_steps": "trainer.max_steps",
        "devices": "trainer.devices",
        "accelerator": "trainer.accelerator",
        "precision": "trainer.precision",
        "gradient_clip": "trainer.gradient_clip_val",
        "check_val_every_n_epoch": "trainer.check_val_every_n_epoch",
        "seed": "seed_everything",
        "model": "model.model_name",
        "lr": "model.learning_rate",
        "ema_decay": "model.ema_decay1",
        "cosine_weight": "model.cosine_weight",
        "label_drop_prob": "model.label_drop_prob",
        "prediction": "model.prediction",
        "noise_scale": "model.noise_scale",
        "P_mean": "model.P_mean",
        "P_std": "model.P_std",
        "net_settings": "model.net_settings",
        "compile": "model.compile",
        "gradient_checkpointing": "model.gradient_checkpointing",
        "warmup_epochs": "schedule.warmup_epochs",
    },
    options={
        "latent_dir": "Folder of stage 1.",
        "batch_size": "",
        "max_epochs": "Length of the training.",
        "lr": "Peak learning rate, by default that for the network; the schedule ends at a tenth of it.",
        "devices": "Number of GPUs, or of processes on the CPU.",
        "precision": "16-mixed, bf16-mixed, fp8-mixed or 32-true; on a CPU half precision becomes 32-true.",
        "max_steps": "Largest number of steps, whatever the epochs; -1 for no limit.",
        "seed": "",
        "model": "Name of the network (jitflow models 'LightningDiT*').",
    },
    least={"batch_size": 1, "max_epochs": 1, "devices": 1, "warmup_epochs": 0, "gradient_clip": 0},
    derive="jitflow.apps.microdoppler.documented:derive_settings",
)
MICRODOPPLER = Application(
    name="microdoppler",
    module=UserConditionedDiT,
    condition="jitflow.apps.microdoppler.sampling:ask_for_users",
    present="jitflow.apps.microdoppler.sampling:present_users",
    subject=Subject(
        word="users",
        title="Users",
        example="Such as 1,2, or all",
        first="jitflow.apps.microdoppler.sampling:first_users",
    ),
    headline=("identity_accuracy",),
    documented=DOCUMENTED,
    judge="jitflow.apps.microdoppler.checkpoint_judge:UserJudge",
    scorer="jitflow.apps.microdoppler.checkpoint_judge:IdentityScorer",
    describe="jitflow.apps.microdoppler.describe",
    pictures={
        "generated_images/micro_doppler_grid.png": "Generated spectrograms, one row per user",
        "latent_features/reconstruction.png": "Pictures (top) and their reconstructions from latents (bottom)",
    },
    commands={
        name.replace("_", "-"): f"jitflow.apps.microdoppler.commands:{name}"
        for name in ("simulate", "spectrogram", "extract", "sample", "add_user", "evaluate", "run")
    }
    | {"augment-study": "jitflow.apps.microdoppler.study.command:augment_study"},
    demo="jitflow.apps.microdoppler.demo:DEMO",
)
