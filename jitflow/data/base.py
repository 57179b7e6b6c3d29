"""Base data module: seeded loaders, distributed sampling, and exact resume inside an epoch."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch

from jitflow.data.batch import collate
from jitflow.data.crop import height_and_width
from jitflow.data.loader import LOADER_TIMEOUT_SEC, WatchedLoader, check_timeout, start_method, worker_arguments
from jitflow.data.paired import PairedDataset
from jitflow.data.position import DataPosition
from jitflow.data.sampler import FixedOrderSampler, ResumableSampler
from jitflow.data.seeded import SeededDataset
from jitflow.errors import ConfigError, DataError, check_count

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoaderSettings:
    """Settings of a data module's loaders.

    Attributes:
        num_workers: Loader processes, at most one for each CPU core; 0 loads in the training process. Batches do not
            depend on it.
        pin_memory: Page-locked batches, which a GPU fetches faster; has no effect without CUDA.
        num_replicas: Number of processes that share the data; None asks the trainer. A trainer with several
            processes overrides it.
        rank: Rank of this process; None asks the trainer.
        drop_last: Drop the last, smaller training batch; None drops it unless it is the only one.
        seed: Seed of order and random transforms; None takes that of Lightning's ``seed_everything``, or 0.
        loader_timeout: Seconds without a batch from the workers that end the run; after 60 there is a warning.

    Raises:
        ConfigError: If a number is out of range.
    """

    num_workers: int = 0
    pin_memory: bool = True
    num_replicas: int | None = None
    rank: int | None = None
    drop_last: bool | None = True
    seed: int | None = None
    loader_timeout: float = LOADER_TIMEOUT_SEC

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_timeout(self.loader_timeout)
        if self.num_workers < 0:
            raise ConfigError(f"num_workers must be at least 0; got {self.num_workers}")


class SeededLoader(WatchedLoader):
    """Data loader that tells Lightning that resuming inside an epoch is supported.

    Its own state is empty; :mod:`jitflow.training.lightning_counters` explains why.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state; :meth:`ImageDataModule.resume_at` sets the position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the empty state of :meth:`state_dict`."""


class ImageDataModule(pl.LightningDataModule):
    """Data module whose batches are a function of (seed, epoch, batch number) alone.

    A subclass fills ``dataset_train`` and, if it has one, ``dataset_val`` in :meth:`setup` with any map-style
    data set of (image, label). For transport between two data sets it fills ``source_train`` and ``source_val`` with
    those of the images that paths begin from, in place of noise.

    Args:
        img_size: Side of a square, or ``(height, width)``, in pixels.
        batch_size: Images per batch and process.
        loading: Settings of the loaders; each is an attribute of the data module under its name.
        class_balanced: Give every class the same share of a training epoch, by repeating samples of small classes and
            skipping some of large ones. The training set needs ``targets``, its labels.

    Attributes:
        unit: Name of the samples in the plural, for messages.

    Raises:
        ConfigError: If a number is out of range.
    """

    channels: int = 3
    unit: ClassVar[str] = "images"
    settings_class: ClassVar[type[LoaderSettings]] = LoaderSettings

    num_workers: int
    pin_memory: bool
    num_replicas: int | None
    rank: int | None
    drop_last: bool | None
    seed: int | None
    loader_timeout: float

    def __init__(
        self,
        img_size: int | tuple[int, int],
        batch_size: int,
        loading: LoaderSettings = LoaderSettings(),
        *,
        class_balanced: bool = False,
    ) -> None:
        super().__init__()
        height_and_width(img_size)
        check_count("batch_size", batch_size)
        self.img_size = img_size
        self.batch_size = batch_size
        for field in fields(loading):
            setattr(self, field.name, getattr(loading, field.name))
        self.class_balanced = class_balanced
        self.dataset_train: Any = None
        self.dataset_val: Any = None
        self.source_train: Any = None
        self.source_val: Any = None
        self._epoch = 0
        self._sampler: ResumableSampler | None = None
        self._loaded: dict[str, Any] | None = None
        self._resume_at: DataPosition | None = None
        self._resume_epoch: int | None = None
        self._loaded_seed: int | None = None
        self._owner: pl.Trainer | None = None

    @property
    def drops_last(self) -> bool:
        """Whether the last, smaller training batch is dropped."""
        return self._drops_last(self._replicas()[0])

    def _drops_last(self, num_processes: int) -> bool:
        if self.drop_last is not None:
            return self.drop_last
        return len(self.dataset_train) >= self.batch_size * num_processes

    def check_training_data(self, num_processes: int) -> None:
        """Check that the training data, once set up, can be trained on, before a network is built.

        Args:
            num_processes: Processes that share the data.

        Raises:
            DataError: If the samples fill no batch, and a smaller one would be dropped.
            ConfigError: If classes are to be balanced and there are no labels.
        """
        if self.class_balanced:
            self._labels(self.dataset_train)
        num = len(self.dataset_train)
        share = num // num_processes
        if share >= self.batch_size or not self._drops_last(num_processes):
            return
        each = f" on each of {num_processes} processes" if num_processes > 1 else ""
        remedy = f"lower batch_size to {share} or less" if share else "train on fewer devices"
        raise DataError(f"{num} training {self.unit} are too few for batch_size {self.batch_size}{each}; {remedy}")

    def get_dataset_info(self) -> dict[str, Any]:
        """Describe the training data.

        Returns:
            ``num_samples``, ``num_val_samples``, ``num_classes``, ``classes`` (names by label), ``img_size``,
            ``channels``, ``batch_size``; ``transports`` if paths begin from the images of another data set.
        """
        if self.dataset_train is None:
            self.setup("fit")
        dataset = self.dataset_train
        classes = list(dataset.classes)
        return {
            "num_samples": len(dataset),
            "num_val_samples": 0 if self.dataset_val is None else len(self.dataset_val),
            "num_classes": len(classes),
            "classes": classes,
            "img_size": self.img_size,
            "channels": self.channels,
            "batch_size": self.batch_size,
            **({"transports": True} if self.source_train is not None else {}),
        }

    def train_dataloader(self) -> SeededLoader:
        """Build the training loader, positioned where a loaded checkpoint stopped.

        Returns:
            Loader of :class:`ImageBatch`.

        Raises:
            DataError: If there are too few samples for one batch, or a checkpoint belongs to other data.
            ConfigError: If a checkpoint was loaded into a module that does not call :meth:`resume_at`.
        """
        if self.dataset_train is None:
            self.setup("fit")
        dataset = self.dataset_train
        num_replicas, rank = self._replicas()
        self.check_training_data(num_replicas)
        seed, position = self._seed_and_position(len(dataset), num_replicas)
        self._sampler = ResumableSampler(
            len(dataset),
            num_replicas=num_replicas,
            rank=rank,
            seed=seed,
            drop_last=self.drops_last,
            batch_size=self.batch_size,
            balance=self._labels(dataset) if self.class_balanced else None,
        )
        # Set before any iterator exists: loader processes prefetch before Lightning calls set_epoch itself.
        self._sampler.set_epoch(position.epoch)
        self._sampler.skip(position.num_batches)
        return self._loader(dataset, self._sampler, seed, drop_last=self.drops_last)

    def val_dataloader(self) -> SeededLoader | list[Any]:
        """Build the validation loader: same order and same random transforms every time.

        Returns:
            Loader of :class:`ImageBatch` that covers every sample, or an empty list, for which Lightning
                skips validation.
        """
        if self.dataset_train is None and self.dataset_val is None:
            self.setup("validate")
        if self.dataset_val is None:
            return []
        num_replicas, rank = self._replicas()
        sampler = FixedOrderSampler(len(self.dataset_val), num_replicas=num_replicas, rank=rank)
        return self._loader(self.dataset_val, sampler, self._seed(), drop_last=False)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines order and random transforms; Lightning does so itself.

        Args:
            epoch: Counted from 0.
        """
        self._epoch = epoch
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the current epoch and what its order depends on; the trainer stores the position inside the epoch.

        Returns:
            Plain numbers, empty before there is a training loader.
        """
        sampler = self._sampler
        if sampler is None:
            return dict(self._loaded or {})
        return {
            "epoch": sampler.epoch,
            "seed": sampler.seed,
            "num_samples": sampler.dataset_size,
            "global_batch_size": sampler.batch_size * sampler.num_replicas,
            "class_balanced": sampler.is_balanced,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint's data order for the next training loader.

        Without a trainer, the loader begins with the checkpoint's epoch.

        Args:
            state_dict: State of :meth:`state_dict`.
        """
        self._reset_loader()
        self._loaded = dict(state_dict) or None
        self._loaded_seed = state_dict.get("seed")

    def resume_at(self, position: DataPosition) -> None:
        """Start the next training loader at a position, in the data order of the loaded checkpoint, if any.

        The module calls this when it resumes from a checkpoint, before or after :meth:`load_state_dict`; see
        :class:`jitflow.training.lightning_counters.ExactResume`, the base of all modules of this library.

        Args:
            position: Position of the checkpoint's training.
        """
        self._reset_loader()
        self._resume_at = position

    def _reset_loader(self) -> None:
        """Reset the last training loader, and state loaded for it or by another trainer."""
        if self._owner is not self.trainer or self._resume_epoch is not None:
            self._loaded, self._loaded_seed, self._resume_at = None, None, None
        self._resume_epoch, self._sampler, self._owner = None, None, self.trainer

    def _labels(self, dataset: Any) -> torch.Tensor:
        targets = getattr(dataset, "targets", None)
        if targets is None:
            raise ConfigError(
                f"class_balanced=True needs the labels of the training set, and {type(dataset).__name__} has no "
                "`targets`; add it or leave class_balanced off"
            )
        return torch.as_tensor(targets)

    def _seed(self) -> int:
        if self._loaded_seed is not None:
            return self._loaded_seed
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed

    def _replicas(self) -> tuple[int, int]:
        """Return the number of processes and the number of this one."""
        trainer = self.trainer
        if trainer is not None and (trainer.world_size > 1 or self.num_replicas is None):
            given = (self.num_replicas, self.rank)
            actual = (trainer.world_size, trainer.global_rank)
            if any(g is not None and g != a for g, a in zip(given, actual, strict=True)):
                _log.warning("num_replicas, rank = %s, %s are overridden by the trainer's %s, %s", *given, *actual)
            return actual
        if self.num_replicas is not None and self.num_replicas > 1 and self.rank is None:
            raise ConfigError(f"num_replicas={self.num_replicas} without a trainer needs rank as well")
        return self.num_replicas or 1, self.rank or 0

    def _seed_and_position(self, num_samples: int, num_replicas: int) -> tuple[int, DataPosition]:
        """Return the seed and the position at which a new training loader starts."""
        if self._owner is not self.trainer:
            self._reset_loader()
        if self._sampler is not None and self._resume_epoch not in (None, self._sampler.epoch):
            self._loaded = self._resume_at = None  # training has moved past the loaded position
        position = self._position()
        if self._loaded is not None:
            self._check_loaded(self._loaded, position, num_samples, num_replicas)
        if self._loaded is not None or self._resume_at is not None:
            self._resume_epoch = position.epoch
        return self._seed(), position

    def _position(self) -> DataPosition:
        if self._resume_at is not None:
            return self._resume_at
        if self.trainer is None:
            return DataPosition(self._epoch if self._loaded is None else self._loaded["epoch"])
        if self._loaded is not None:
            raise ConfigError(
                "the module does not pass the checkpoint's position to the data; derive it from "
                "jitflow.training.lightning_counters.ExactResume and let its on_load_checkpoint call super(), or start "
                "a new run from the checkpoint's weights"
            )
        # A trainer that calls fit again keeps counting.
        return DataPosition(self.trainer.current_epoch)

    def _check_loaded(
        self, loaded: dict[str, Any], position: DataPosition, num_samples: int, num_replicas: int
    ) -> None:
        """Check that a loaded state matches the current data at the position to resume from."""
        seed, saved_samples, saved_batch = (loaded[key] for key in ("seed", "num_samples", "global_batch_size"))
        balanced = loaded.get("class_balanced", False)
        if position.num_batches and saved_samples != num_samples:
            raise DataError(
                f"the checkpoint lies inside an epoch of {saved_samples} images and there are now {num_samples}; "
                "restore the data set until the epoch is over, or start a new run from the checkpoint's weights"
            )
        if saved_samples != num_samples:
            _log.warning("the checkpoint was trained on %d images and resumes with %d", saved_samples, num_samples)
        if self.seed is not None and self.seed != seed:
            _log.info("the data order continues with the checkpoint's seed %d instead of %d", seed, self.seed)
        if position.num_batches and balanced != self.class_balanced:
            raise DataError(
                f"the checkpoint lies inside an epoch that was read with class_balanced={balanced}; keep it until "
                "the epoch is over"
            )
        # The number of processes may differ: a global batch holds the same samples however many processes share it.
        global_batch = self.batch_size * num_replicas
        if position.num_batches and saved_batch != global_batch:
            raise DataError(
                f"the checkpoint lies inside an epoch that was read {saved_batch} images at a time over all "
                f"processes, and now it would be {global_batch}; choose batch_size so that they agree"
            )

    def _loader(self, dataset: Any, sampler: ResumableSampler, seed: int, *, drop_last: bool) -> SeededLoader:
        samples = self._seeded(dataset, seed)
        workers: dict[str, Any] = {"num_workers": 0}
        if self.num_workers and len(dataset):
            batch_bytes = collate(samples.__getitems__([0])).num_bytes * self.batch_size
            shared_by = self.trainer.num_devices if self.trainer is not None else 1
            workers = worker_arguments(
                self.num_workers, batch_bytes, timeout=self.loader_timeout, num_processes=shared_by
            )
        loader = SeededLoader(
            samples,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            drop_last=drop_last,
            persistent_workers=workers["num_workers"] > 0,
            multiprocessing_context=start_method() if workers["num_workers"] else None,
            **workers,
        )
        loader.title = "validation" if dataset is self.dataset_val else "training"
        return loader

    def _seeded(self, dataset: Any, seed: int) -> Any:
        """Return a data set whose samples depend on (seed, epoch, index) alone."""
        source = self.source_val if dataset is self.dataset_val else self.source_train
        return SeededDataset(dataset, seed) if source is None else PairedDataset(dataset, source, seed)
