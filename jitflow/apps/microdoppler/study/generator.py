"""Generator of a training subset: a LightningDiT on linear latents, pretrained on other people if there are some.

It is trained by ``jitflow train`` in a process of its own, so an interrupted training resumes as any other does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jitflow.apps.microdoppler.data import LINEAR_CODEC_NAME
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.latent_file import LatentFile, LatentInfo
from jitflow.apps.microdoppler.latent_statistics import channel_statistics
from jitflow.apps.microdoppler.study.settings import NetworkOptions
from jitflow.codec.linear import LinearCodec
from jitflow.core.seeding import mix_seeds
from jitflow.errors import JitflowError
from jitflow.io.array_file import ArrayFileWriter
from jitflow.io.processes import run_command
from jitflow.model import load

LATENTS, RUN = "latents", "run"
_RECIPE = "microdoppler/n4_5users"
# Patches of the codec, small enough for its 32 components to keep the noise of a spectrogram, which a classifier sees.
_CODEC_PATCH, _COMPONENTS = 8, 32
# Positions of a token in each direction.
_PATCH = 2
_BATCH_SIZE = 32
_RATE, _TUNING_RATE = 1e-3, 5e-4
_SAMPLES_AT_ONCE = 128
# Of NumPy.
_MOST_SEED = 1 << 32


@dataclass(frozen=True)
class GeneratorFolder:
    """Folder of a generator: latents of what it is trained on, and its run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def latents(self) -> Path:
        """Folder of the latents."""
        return self.path / LATENTS

    @property
    def run(self) -> Path:
        """Folder of the training."""
        return self.path / RUN


def train_generator(
    folder: GeneratorFolder,
    subset: LabelledImages,
    user_ids: Sequence[int],
    options: NetworkOptions,
    seed: int,
    *,
    base: GeneratorFolder | None = None,
    is_base: bool = False,
) -> None:
    """Train a generator on these spectrograms alone, or resume its training; a finished one is kept.

    Args:
        folder: Its folder.
        subset: Everything that it may see, shape ``(N, C, 64, 64)``, uint8, and their users.
        user_ids: Ids of the users, by label.
        options: Size of the network and lengths of the trainings.
        seed: Seed of the training.
        base: Generator of other people, from whose weights, codec and statistics it starts.
        is_base: Whether it is such a one itself, which is trained longer.

    Raises:
        JitflowError: If the training fails.
    """
    write_latents(folder.latents, subset, user_ids, None if base is None else base.latents)
    steps = options.pretraining_steps if is_base else options.generator_steps
    settings: dict[str, Any] = {
        "seed_everything": seed % _MOST_SEED,
        "model.num_users": "null",
        "model.latent_shape": "null",
        "model.net_settings.hidden_size": options.width,
        "model.net_settings.depth": options.depth,
        "model.net_settings.num_heads": options.width // 32,
        "model.net_settings.patch_size": _PATCH,
        "model.prediction": "data",
        "model.noise_scale": 1.5 * _PATCH,
        "model.P_mean": -0.8,
        "model.cosine_weight": 0.0,
        # Compiling takes longer than such a training.
        "model.compile": "false",
        "model.learning_rate": _RATE if base is None else _TUNING_RATE,
        "model.ema_decay1": "null",
        "model.ema_decay2": "null",
        "data.latent_dir": folder.latents,
        "data.batch_size": min(_BATCH_SIZE, len(subset.labels)),
        "trainer.max_epochs": -(-steps // max(1, len(subset.labels) // _BATCH_SIZE)),
        "trainer.max_steps": steps,
        "trainer.devices": 1,
        # Several are trained at the same time, which would mix their lines.
        "trainer.enable_progress_bar": str(is_base).lower(),
        # Nothing is chosen by validation.
        "trainer.limit_val_batches": 0,
        "checkpoint.best_name": "null",
        "checkpoint.save_last_freq": max(1, steps // (4 * max(1, len(subset.labels) // _BATCH_SIZE))),
    }
    words = ["train", "--config", _RECIPE, "--run_dir", str(folder.run)]
    words += [f"--{name}={value}" for name, value in settings.items()]
    if base is not None:
        words += ["--init_from", str(base.run)]
    status = run_command(words)
    if status:
        how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
        raise JitflowError(f"the training of {folder.path} failed ({how}); its error is above; the command resumes")


def write_latents(folder: Path, subset: LabelledImages, user_ids: Sequence[int], base: Path | None) -> None:
    """Encode spectrograms as the latents of a training; finished files are kept.

    Codec and statistics are those of the base, else fitted to these spectrograms. A training wants a validation file,
    of which this one uses nothing; it holds the same latents, so that no others are seen.

    Args:
        folder: Folder of the latents.
        subset: The spectrograms and their users.
        user_ids: Ids of the users, by label.
        base: Folder of the base's latents.
    """
    images = subset.images.expand(-1, 3, -1, -1)
    folder.mkdir(parents=True, exist_ok=True)
    if base is None:
        codec = LinearCodec.fit(images.split(64), num_components=_COMPONENTS, patch_size=_CODEC_PATCH)
    else:
        codec = LinearCodec.from_file(base / LINEAR_CODEC_NAME)
    if not (folder / LINEAR_CODEC_NAME).exists():
        codec.export(folder / LINEAR_CODEC_NAME)
    latents = torch.cat([codec.encode(part) for part in images.split(256)]).numpy()
    if base is None:
        mean, std = (tuple(values.tolist()) for values in channel_statistics(latents))
    else:
        info = LatentFile(base / "train.safetensors").info
        mean, std = info.mean, info.std
    info = LatentInfo(mean, std, codec.id, codec.checksum, codec.img_size, fingerprint="")
    for split in ("train", "val"):
        path = folder / f"{split}.safetensors"
        if path.exists():
            continue
        num = len(latents)
        layout = {"latents": (latents.shape, "float32"), "labels": ((num,), "int64"), "user_ids": ((num,), "int64")}
        writer = ArrayFileWriter.create(path, layout)
        writer.arrays["latents"][:] = latents
        writer.arrays["labels"][:] = subset.labels.numpy()
        writer.arrays["user_ids"][:] = torch.tensor(user_ids)[subset.labels].numpy()
        writer.finish(info.to_metadata())


def draw_samples(
    folder: GeneratorFolder, counts: Sequence[int], channels: int, options: NetworkOptions, seed: int
) -> LabelledImages:
    """Draw spectrograms of a generator.

    Args:
        folder: Folder of the generator.
        counts: How many of each user, by label.
        channels: Channels of the spectrograms.
        options: Guidance and steps.
        seed: Seed that determines all.

    Returns:
        The spectrograms, by user; of each user any first ones are as good as others.
    """
    model = load(folder.run)
    wanted = [label for label, count in enumerate(counts) for _ in range(count)]
    own_seeds = [mix_seeds(seed, label, number) for label, count in enumerate(counts) for number in range(count)]
    drawn = model.sample(
        labels=wanted,
        seeds=own_seeds,
        guidance=options.guidance,
        steps=options.sampling_steps,
        batch_size=_SAMPLES_AT_ONCE,
    )
    return LabelledImages(drawn.pixels[:, :channels].contiguous(), torch.tensor(wanted))


def share_cores(num_workers: int, num_cores: int) -> None:
    """Let this worker, and the trainings that it starts, use its share of the cores; a single one is left as it is."""
    if num_workers == 1:
        return
    threads = max(1, num_cores // num_workers)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
