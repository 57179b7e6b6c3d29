"""Training on a folder of images with one sub-folder per class."""

from __future__ import annotations

import functools
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision import datasets, transforms

from jitflow.data.base import ImageDataModule
from jitflow.data.crop import center_crop_arr
from jitflow.data.errors import SampleError
from jitflow.errors import ConfigError, DataError, MissingFileError

_log = logging.getLogger(__name__)

_LAYOUT = "expected train/<class>/<image>, and optionally val/<class>/<image>"
# What Pillow raises on damaged files, depending on the format and the place of the damage.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class JiTDataModule(ImageDataModule):
    """Images in ``data_path/train/<class>/`` and optionally ``data_path/val/<class>/``, centre-cropped.

    A folder without ``train/`` whose sub-folders are the classes is taken as the training set. Creating the
    object does not touch the disk.

    Args:
        data_path: Folder of the data set.
        img_size: Side of a square, or ``(height, width)``, in pixels.
        batch_size: Images per batch and process.
        num_workers: Loader processes; 0 loads in the training process.
        pin_memory: Page-locked batches, which a GPU fetches faster.
        num_replicas: How many processes share the data; None asks the trainer.
        rank: Which of them this one is; None asks the trainer.
        channels: 3 for colour, 1 for greyscale.
        random_flip: Mirror each training image with probability one half.
        drop_last: Leave out the last, smaller training batch.
        seed: Seed of order and flips; None is the one of Lightning's ``seed_everything``, or 0.

    Raises:
        ConfigError: If a number is out of range.
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
    ) -> None:
        super().__init__(
            img_size, batch_size, num_workers, pin_memory, num_replicas, rank, drop_last=drop_last, seed=seed
        )
        if channels not in (1, 3):
            raise ConfigError(f"channels must be 3 (colour) or 1 (greyscale); got {channels}")
        self.data_path = data_path
        self.channels = channels
        self.random_flip = random_flip

    def prepare_data(self) -> None:
        """Check the folders before anything else starts; nothing is downloaded.

        Raises:
            MissingFileError: If ``data_path`` does not exist.
            DataError: If it is not laid out as a data set.
        """
        self._train_folder()

    def setup(self, stage: str | None = None) -> None:
        """List the images.

        Args:
            stage: ``fit`` or None for both sets, ``validate`` for the validation set alone.

        Raises:
            MissingFileError: If ``data_path`` does not exist.
            DataError: If a set is empty, has no classes, has a class without images, or if the two sets
                differ in their classes.
        """
        if stage in ("fit", None):
            self.dataset_train = self._image_folder(self._train_folder(), self._get_train_transforms())
        val_folder = Path(self.data_path) / "val"
        if stage in ("fit", "validate", None) and val_folder.is_dir():
            self._check_same_classes(val_folder)
            self.dataset_val = self._image_folder(val_folder, self._get_val_transforms())

    def _get_train_transforms(self) -> Any:
        """Return what turns a training image into a tensor; override it for other augmentation."""
        flip = [transforms.RandomHorizontalFlip()] if self.random_flip else []
        return transforms.Compose([self._crop(), *flip, transforms.PILToTensor()])

    def _get_val_transforms(self) -> Any:
        """Return what turns a validation image into a tensor."""
        return transforms.Compose([self._crop(), transforms.PILToTensor()])

    def _crop(self) -> transforms.Lambda:
        # A partial, unlike a lambda, can be sent to a worker that was not forked.
        return transforms.Lambda(functools.partial(center_crop_arr, image_size=self.img_size))

    def _train_folder(self) -> Path:
        root = Path(self.data_path)
        if not root.is_dir():
            raise MissingFileError(f"data_path {self.data_path!r} is not a folder; {_LAYOUT}")
        if (root / "train").is_dir():
            return root / "train"
        classes = _class_folders(root)
        if not classes:
            content = "has no class sub-folders" if any(root.iterdir()) else "is empty"
            raise DataError(f"data_path {self.data_path!r} {content}; {_LAYOUT}")
        if "val" in classes:
            raise DataError(f"data_path {self.data_path!r} has val/ but no train/; {_LAYOUT}")
        _log.info("%s has no train/; its %d sub-folders are taken as the training classes", root, len(classes))
        return root

    def _image_folder(self, folder: Path, transform: Any) -> datasets.ImageFolder:
        classes = _class_folders(folder)
        if not classes:
            content = "has no class sub-folders" if any(folder.iterdir()) else "is empty"
            raise DataError(f"{folder} {content}; {_LAYOUT}")
        loader = functools.partial(open_image, channels=self.channels)
        dataset = datasets.ImageFolder(str(folder), transform=transform, loader=loader, allow_empty=True)
        empty = sorted(set(range(len(dataset.classes))) - set(dataset.targets))
        if empty:
            names = ", ".join(dataset.classes[label] for label in empty[:5])
            more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            raise DataError(f"no images in {folder} for the class {names}{more}; add some or remove the folder")
        return dataset

    def _check_same_classes(self, val_folder: Path) -> None:
        # Labels are positions in the sorted list of names, so that one name more or less shifts them all.
        root = Path(self.data_path)
        if not (root / "train").is_dir():
            return
        differing = set(_class_folders(root / "train")) ^ set(_class_folders(val_folder))
        if differing:
            names = ", ".join(sorted(differing)[:5])
            raise DataError(f"train/ and val/ of {self.data_path!r} must have the same classes; they differ in {names}")


def open_image(path: str, *, channels: int) -> Image.Image:
    """Read and decode one image file.

    Args:
        path: The file.
        channels: 3 for colour, 1 for greyscale.

    Returns:
        The image, mode ``RGB`` or ``L``.

    Raises:
        DataError: If the file is damaged; the message names it.
    """
    try:
        with Image.open(path) as image:
            mode = "RGB" if channels == 3 else "L"
            if image.mode.startswith("I"):
                # Sixteen bits: Pillow would cut off everything above 255 and leave a white picture.
                eight_bits = np.asarray(image, dtype=np.float64) * (255 / 65535)
                return Image.fromarray(eight_bits.clip(0, 255).round().astype(np.uint8)).convert(mode)
            return image.convert(mode)
    except _UNREADABLE as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise SampleError(f"cannot read the image {path} ({reason}); replace or remove it") from error


def create_jit_datamodule(args: Any) -> JiTDataModule:
    """Create the data module from parsed arguments with the release's names.

    Args:
        args: Object with ``data_path``, ``img_size``, ``batch_size``, ``num_workers``, ``pin_mem``, and optionally
            ``world_size``, ``rank`` and ``seed``; without the first two the trainer tells.

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


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
