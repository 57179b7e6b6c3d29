"""Data module for a folder of images with one sub-folder per class, as files or prepared shards."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torchvision import transforms

from jitflow.apps.images.bad_images import BadImages, check_share
from jitflow.apps.images.listed_folder import ListedImageFolder
from jitflow.apps.images.numeric_order import log_numeric_order
from jitflow.apps.images.shards import (
    MirroredImages,
    ShardFolder,
    ShardImages,
    TransformedImages,
    is_shard_folder,
    open_shard_folder,
)
from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.data.crop import center_crop_arr, height_and_width
from jitflow.data.folder_scan import LAYOUT, ImageListing, check_same_classes, class_folders, list_images, split_folders
from jitflow.data.image_file import open_image
from jitflow.data.loader import LOADER_TIMEOUT_SEC
from jitflow.data.split import held_out_split
from jitflow.errors import ConfigError, MissingFileError
from jitflow.io.files import user_path

Decoder = Literal["exact", "fast"]
BadImagePolicy = Literal["error", "skip"]
log = logging.getLogger(__name__)
_MAX_LISTED = 20


class JiTDataModule(ImageDataModule):
    """Data module of images in ``data_path/train/<class>/`` and optionally ``data_path/val/<class>/``, centre-cropped.

    A folder without ``train/`` whose sub-folders are the classes is used as the training set. A folder made by
    ``jitflow data prepare`` gives the same batches as its source. Creating the object does not access the disk.

    Args:
        data_path: Folder of the data set, of image files or of shards.
        img_size: Side of a square, or ``(height, width)``, in pixels.
        batch_size: Images per batch and process.
        num_workers: Loader processes; 0 loads in the training process.
        pin_memory: Page-locked batches, which a GPU fetches faster.
        num_replicas: Number of processes that share the data; None asks the trainer.
        rank: Rank of this process; None asks the trainer.
        channels: 3 for colour, 1 for greyscale.
        random_flip: Mirror each training image with probability one half.
        drop_last: Drop the last, smaller training batch.
        seed: Seed of order and flips; None takes that of Lightning's ``seed_everything``, or 0.
        decoder: ``exact``, or ``fast`` for torch's kernels, whose pixels differ by at most 3 of 255 (JPEG, colour).
            Shards are always exact and faster than either.
        val_fraction: Share of each class held out for validation if there is no ``val/``, in [0, 1); the split
            does not depend on the seed.
        class_balanced: Give every class the same share of a training epoch, by repeating images of small classes and
            skipping some of large ones.
        bad_images: What to do with unreadable files: ``error`` stops the training and names the file; ``skip`` warns,
            counts, and reads another image instead, always the same one. Shards are checked when they are prepared and
            have no such files.
        max_bad_share: Largest share of a split's images that may be skipped, in [0, 1); more is an error.
        loader_timeout: Seconds without a batch from the workers that end the run; after 60 there is a warning.
        source_path: Folder of another data set, laid out and read alike: paths then begin from its images in place of
            noise, so that the model carries those to images of ``data_path``. Pairs are random.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        data_path: str = "./data/imagenet",
        img_size: int | tuple[int, int] = 256,
        batch_size: int = 128,
        num_workers: int = 12,
        pin_memory: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        *,
        channels: int = 3,
        random_flip: bool = True,
        drop_last: bool = True,
        seed: int | None = None,
        decoder: Decoder = "exact",
        val_fraction: float = 0.0,
        class_balanced: bool = False,
        bad_images: BadImagePolicy = "error",
        max_bad_share: float = 0.01,
        loader_timeout: float = LOADER_TIMEOUT_SEC,
        source_path: str | None = None,
    ) -> None:
        loading = LoaderSettings(num_workers, pin_memory, num_replicas, rank, drop_last, seed, loader_timeout)
        super().__init__(img_size, batch_size, loading, class_balanced=class_balanced)
        if channels not in (1, 3):
            raise ConfigError(f"channels must be 3 (colour) or 1 (greyscale); got {channels}")
        if decoder not in get_args(Decoder):
            raise ConfigError(f"decoder must be 'exact' or 'fast'; got {decoder!r}")
        if decoder == "fast" and channels != 3:
            raise ConfigError("decoder='fast' reads colour only; leave it at 'exact' with channels=1")
        if not 0 <= val_fraction < 1:
            raise ConfigError(f"val_fraction must lie in [0, 1); got {val_fraction}")
        if bad_images not in get_args(BadImagePolicy):
            raise ConfigError(f"bad_images must be 'error' or 'skip'; got {bad_images!r}")
        check_share(max_bad_share)
        self.data_path = data_path
        self.channels = channels
        self.random_flip = random_flip
        self.decoder = decoder
        self.val_fraction = val_fraction
        self.bad_images = bad_images
        self.max_bad_share = max_bad_share
        self.source_path = source_path

    def prepare_data(self) -> None:
        """Check the folders and list their images, once for all processes.

        Nothing is downloaded.

        Raises:
            MissingFileError: If ``data_path`` does not exist.
            DataError: If it is not laid out as a data set.
        """
        if self._shards() is None:
            self._listings(("train", "val"))
        if self.source_path is not None:
            self._source(self.source_path).prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """List the images.

        Args:
            stage: ``fit`` or None for both sets, ``validate`` for the validation set alone.

        Raises:
            MissingFileError: If ``data_path`` does not exist.
            ConfigError: If it was prepared for another size or number of channels, or the options do not fit together.
            DataError: If a set is empty, has no classes, has a class without images, or if the two sets
                differ in their classes; or if shards are missing.
        """
        wanted = ("val",) if stage == "validate" else ("train", "val")
        shards = self._shards()
        sets = self._folder_sets(wanted) if shards is None else self._shard_sets(shards, wanted)
        if stage in ("fit", None):
            self.dataset_train = sets["train"]
        if stage in ("fit", "validate", None) and "val" in sets:
            self.dataset_val = sets["val"]
        if self.source_path is not None:
            source = self._source(self.source_path)
            source.setup("fit")
            self.source_train = source.dataset_train
            self.source_val = source.dataset_train if source.dataset_val is None else source.dataset_val

    def _source(self, path: str) -> JiTDataModule:
        """Return the data module of the images that paths begin from, which are read as these are."""
        source = copy.copy(self)
        source.data_path, source.source_path = path, None
        return source

    def skipped_images(self) -> list[str]:
        """Return the paths of the images that could not be read so far and were replaced, on this process."""
        bad = [(dataset, getattr(dataset, "bad", None)) for dataset in (self.dataset_train, self.dataset_val)]
        return [dataset.samples[i][0] for dataset, found in bad if found is not None for i in found.indices()]

    def teardown(self, stage: str) -> None:
        """Report how many images were skipped, and which.

        Args:
            stage: What has ended, such as ``fit``.
        """
        skipped = self.skipped_images()
        if skipped:
            more = f" and {len(skipped) - _MAX_LISTED} more" if len(skipped) > _MAX_LISTED else ""
            log.warning("%d images could not be read: %s%s", len(skipped), ", ".join(skipped[:_MAX_LISTED]), more)

    def _get_train_transforms(self) -> Any:
        """Return the transform of training images to tensors; override it for other augmentation."""
        flip = [transforms.RandomHorizontalFlip()] if self.random_flip else []
        return transforms.Compose([self._crop(), *flip, transforms.PILToTensor()])

    def _get_val_transforms(self) -> Any:
        """Return the transform of validation images to tensors."""
        return transforms.Compose([self._crop(), transforms.PILToTensor()])

    def _crop(self) -> transforms.Lambda:
        # A partial, unlike a lambda, can be pickled for a worker that was not forked.
        return transforms.Lambda(functools.partial(center_crop_arr, image_size=self.img_size))

    def _shards(self) -> ShardFolder | None:
        """Open ``data_path`` if it is a folder of prepared shards."""
        if not user_path(self.data_path).is_dir():
            raise MissingFileError(f"data_path {self.data_path!r} is not a folder; {LAYOUT}")
        if not is_shard_folder(self.data_path):
            return None
        shards = open_shard_folder(self.data_path)
        wanted = (height_and_width(self.img_size), self.channels)
        if wanted != (shards.img_size, shards.channels):
            (height, width), channels = wanted
            raise ConfigError(
                f"{self.data_path} was prepared as {shards.img_size[0]} x {shards.img_size[1]} px with "
                f"{shards.channels} channels, and the data module has img_size {height} x {width} and "
                f"channels={channels}; use the same, or prepare the source again"
            )
        return shards

    def _listings(self, wanted: Sequence[str]) -> dict[str, ImageListing]:
        """List the images of the requested splits that exist; a held-out part becomes ``val``."""
        val = user_path(self.data_path) / "val"
        if "train" not in wanted and val.is_dir():
            train = val.with_name("train")
            if train.is_dir():
                check_same_classes(class_folders(train), class_folders(val), self.data_path)
            return {"val": list_images(val)}
        listings = {split: list_images(folder) for split, folder in split_folders(self.data_path).items()}
        log_numeric_order(listings["train"].classes)
        if "val" in listings:
            check_same_classes(listings["train"].classes, listings["val"].classes, self.data_path)
        elif self.val_fraction:
            parts = held_out_split(listings["train"].labels, self.val_fraction)
            listings = {s: listings["train"].take(part) for s, part in zip(("train", "val"), parts, strict=True)}
        return {split: listings[split] for split in wanted if split in listings}

    def _folder_sets(self, wanted: Sequence[str]) -> dict[str, Any]:
        return {split: self._image_folder(listing, split) for split, listing in self._listings(wanted).items()}

    def _image_folder(self, listing: ImageListing, split: str) -> ListedImageFolder:
        bad = None
        if self.bad_images == "skip":
            bad = BadImages(
                len(listing.files), self.max_bad_share, {"train": "training", "val": "validation"}.get(split, split)
            )
        if self.decoder == "exact":
            return ListedImageFolder(
                listing, self._transforms(split), functools.partial(open_image, channels=self.channels), bad
            )
        if self._has_own_transforms(split):
            raise ConfigError(
                f"decoder='fast' crops by itself, and {type(self).__name__} has its own transforms for PIL images; "
                "leave it at 'exact'"
            )
        try:
            from jitflow.apps.images.fast_decoder import load_crop_fast
        except ImportError as error:
            # torchvision has announced that its decoders move to another package.
            raise ConfigError(
                f"decoder='fast' cannot be used, as the torchvision here has no JPEG decoder ({error}); leave it at "
                "'exact', or prepare shards"
            ) from None
        loader = functools.partial(load_crop_fast, img_size=height_and_width(self.img_size))
        return ListedImageFolder(
            listing, transforms.RandomHorizontalFlip() if self._flips(split) else None, loader, bad
        )

    def _shard_sets(self, shards: ShardFolder, wanted: Sequence[str]) -> dict[str, Any]:
        if "val" in shards.splits or not self.val_fraction:
            images = {split: ShardImages(shards, split) for split in wanted if split in shards.splits}
        else:
            labels = ShardImages(shards, "train").targets.numpy()
            parts = dict(zip(("train", "val"), held_out_split(labels, self.val_fraction), strict=True))
            images = {split: ShardImages(shards, "train", parts[split]) for split in wanted}
        return {split: self._transformed(found, split) for split, found in images.items()}

    def _transformed(self, images: ShardImages, split: str) -> Any:
        if self._has_own_transforms(split):
            return TransformedImages(images, self._transforms(split))
        return MirroredImages(images) if self._flips(split) else images

    def _transforms(self, split: str) -> Any:
        return self._get_train_transforms() if split == "train" else self._get_val_transforms()

    def _has_own_transforms(self, split: str) -> bool:
        method = f"_get_{split}_transforms"
        return getattr(type(self), method) is not getattr(JiTDataModule, method)

    def _flips(self, split: str) -> bool:
        return split == "train" and self.random_flip


def create_jit_datamodule(args: Any) -> JiTDataModule:
    """Create the data module from parsed arguments with the release's names.

    Args:
        args: Object with ``data_path``, ``img_size``, ``batch_size``, ``num_workers``, ``pin_mem``, and optionally
            ``world_size``, ``rank`` and ``seed``; without the first two the trainer
                decides.

    Returns:
        The data module.

    Raises:
        ConfigError: If a required one is missing.
    """
    required = ("data_path", "img_size", "batch_size", "num_workers", "pin_mem")
    missing = [name for name in required if not hasattr(args, name)]
    if missing:
        raise ConfigError(f"args lacks {', '.join(missing)}; add it to the argument parser")
    return JiTDataModule(
        data_path=args.data_path,
        img_size=args.img_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        pin_memory=args.pin_mem,
        num_replicas=getattr(args, "world_size", None),
        rank=getattr(args, "rank", None),
        seed=getattr(args, "seed", None),
    )
