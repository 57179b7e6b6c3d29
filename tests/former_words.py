"""Command lines of earlier versions in the words of today: many settings were options, and are dotted now.

Nothing of the library is imported: the library of another commit may be.
"""

from __future__ import annotations

_TRAIN = {"train.py": "text", "stage2_train_dit.py": "microdoppler"}
# Options that documented trainings had, and the settings that they are.
_FORMER = {
    "text": {
        "val_path": ("data.val_path",),
        "tokenizer": ("tokenizer_path",),
        "mapping": ("model.mapping", "data.mapping"),
        "decoder": ("model.decoder",),
        "ema_decay": ("model.ema_decay1",),
        "velocity_weight": ("model.velocity_weight",),
        "cross_entropy_weight": ("model.cross_entropy_weight",),
        "self_conditioning": ("model.self_conditioning",),
        "infill_prob": ("model.infill_prob",),
        "prompt_prob": ("model.prompt_prob",),
        "P_mean": ("model.P_mean",),
        "P_std": ("model.P_std",),
        "time_kind": ("model.time_kind",),
        "noise_scale": ("model.noise_scale",),
        "net_settings": ("model.net_settings",),
        "compile": ("model.compile",),
        "gradient_checkpointing": ("model.gradient_checkpointing",),
        "pack": ("data.pack",),
        "num_workers": ("data.num_workers",),
        "val_interval": ("trainer.check_val_every_n_epoch",),
        "devices": ("trainer.devices",),
        "accelerator": ("trainer.accelerator",),
        "precision": ("trainer.precision",),
    },
    "microdoppler": {
        "num_workers": ("data.num_workers",),
        "accelerator": ("trainer.accelerator",),
        "gradient_clip": ("trainer.gradient_clip_val",),
        "check_val_every_n_epoch": ("trainer.check_val_every_n_epoch",),
        "ema_decay": ("model.ema_decay1",),
        "cosine_weight": ("model.cosine_weight",),
        "label_drop_prob": ("model.label_drop_prob",),
        "prediction": ("model.prediction",),
        "noise_scale": ("model.noise_scale",),
        "P_mean": ("model.P_mean",),
        "P_std": ("model.P_std",),
        "net_settings": ("model.net_settings",),
        "compile": ("model.compile",),
        "gradient_checkpointing": ("model.gradient_checkpointing",),
        "warmup_epochs": ("schedule.warmup_epochs",),
    },
}


def in_present_words(words: list[str]) -> list[str]:
    """Translate the words of a command; those of other commands than documented trainings stay as they are.

    Args:
        words: A command line, such as ``["train.py", "--net_settings", "{}"]``.
    """
    names = [_TRAIN[word] for word in words[:2] if word in _TRAIN]
    names += [words[1]] if words[:1] == ["jitflow"] and words[2:3] == ["train"] else []
    former = _FORMER[names[0]] if names else {}
    present: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        targets = former.get(word.removeprefix("--"), ()) if word.startswith("--") else ()
        if targets:
            value = pending.pop(0)
            present += [part for target in targets for part in (f"--{target}", value)]
        else:
            present.append(word)
    return present
