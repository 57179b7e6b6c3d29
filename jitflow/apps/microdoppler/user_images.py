"""Find the images of numbered users on disk, and split them into training and validation images."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jitflow.core.seeding import mix_seeds
from jitflow.data.crop import height_and_width
from jitflow.data.image_file import open_image
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.file_tree import list_tree
from jitflow.io.file_tree import subfolders as list_subfolders
from jitflow.io.files import user_path

log = logging.getLogger(__name__)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LAYOUT = (
    "expected train/ and val/ (or one folder and --val_fraction) with a folder for each user whose name ends in the "
    "user's number (ID_1/, user01/, 1/), or images named user_01_sample_001.png"
)
_FOLDER = re.compile(r"(\d+)$")
_FILE = re.compile(r"(?:^|[_-])user[_-]?(\d+)(?=[_.-])", re.IGNORECASE)
_SHOWN = 5
# Bytes at the end of a compressed image that distinguish it from others of the same size.
_TAIL_BYTES = 1024


@dataclass(frozen=True)
class UserImage:
    """An image of a user.

    Attributes:
        path: The file.
        user_id: Number of the user, from 1.
        label: Label of the user: its index among all users, from 0.
    """

    path: Path
    user_id: int
    label: int


@dataclass(frozen=True)
class UserImages:
    """The training and validation images of a data set of users.

    Attributes:
        root: Its folder.
        user_ids: Numbers of the users, ascending; a user's label is the index in this list.
        train: Training images, sorted by user and name.
        val: Held-out images, sorted by user and name; every user has some.
    """

    root: Path
    user_ids: tuple[int, ...]
    train: tuple[UserImage, ...]
    val: tuple[UserImage, ...]

    def of_split(self, split: str) -> tuple[UserImage, ...]:
        """Return the pictures of ``"train"`` or ``"val"``."""
        return self.train if split == "train" else self.val

    def fingerprint(self) -> str:
        """Return the SHA-256 of the data set: labels, names, sizes and last bytes of the files, and their split.

        It does not depend on the folder's location, and costs one small read per file.
        """
        digest = hashlib.sha256()
        for split, images in (("train", self.train), ("val", self.val)):
            for image in images:
                size = image.path.stat().st_size
                with image.path.open("rb") as file:
                    file.seek(max(0, size - _TAIL_BYTES))
                    tail = file.read()
                name = image.path.relative_to(self.root).as_posix()
                digest.update(f"{split}\0{name}\0{image.user_id}\0{image.label}\0{size}\0".encode())
                digest.update(tail)
        return digest.hexdigest()


def spread_indices(num: int, most: int) -> list[int]:
    """Choose at most ``most`` indices of ``num`` images, evenly spread from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, num - 1, min(num, most)).tolist()})


def find_user_images(data_dir: str | Path, *, val_fraction: float | None = None, seed: int = 42) -> UserImages:
    """Find the images of a data set and their users.

    Args:
        data_dir: Folder with ``train/`` and ``val/``, or one folder that is split here.
        val_fraction: Share of each user's images to hold out if there is no ``val/``, in (0, 1); at least one image for
            validation and one for training.
        seed: Seed of the split; a user's share does not depend on the other users.

    Returns:
        The images. Other files are skipped, and their number is logged.

    Raises:
        MissingFileError: If the folder does not exist.
        ConfigError: If ``val_fraction`` is missing, out of range, or given although there is a ``val/``.
        DataError: If there are no images, the layout differs, or a user lacks training or validation images.
    """
    root = user_path(data_dir)
    if not root.is_dir():
        raise MissingFileError(f"data_dir {root} is not a folder; {LAYOUT}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction must lie in (0, 1); got {val_fraction}")
    has_train, has_val = (root / "train").is_dir(), (root / "val").is_dir()
    if has_val and not has_train:
        raise DataError(f"data_dir {root} has val/ but no train/; {LAYOUT}")
    if has_val:
        if val_fraction is not None:
            raise ConfigError(f"{root} has val/ already; leave out --val_fraction")
        train, val = _find_files(root / "train"), _find_files(root / "val")
        _check_same_users(root, train, val)
    else:
        folder = root / "train" if has_train else root
        found = _find_files(folder)
        if val_fraction is None:
            raise ConfigError(f"{root} has no val/; add it, or pass --val_fraction 0.2 to hold out a part of {folder}")
        train, val = _split(found, val_fraction, seed)
    user_ids = tuple(sorted(train))
    return UserImages(root, user_ids, _in_order(train, user_ids), _in_order(val, user_ids))


def read_user_image(path: str | Path, img_size: int | tuple[int, int] = 256) -> np.ndarray:
    """Read an image and resize it, without crop or mirroring, since its axes have a meaning.

    Args:
        path: The file; grey, palette, 16-bit, CMYK and transparent images become RGB.
        img_size: Side in pixels, or (height, width).

    Returns:
        Shape ``(3, H, W)``, uint8.

    Raises:
        DataError: If the file is damaged; the message names it.
    """
    height, width = height_and_width(img_size)
    image = open_image(str(path), channels=3)
    if image.size != (width, height):
        # Pillow widens the filter when it shrinks an image, which avoids aliasing.
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _find_files(folder: Path) -> dict[int, list[Path]]:
    """Find the images of each user below a folder of either layout, sorted by name."""
    tree = list_tree(folder)
    tree.log_left_out(EXTENSIONS)
    names, _ = list_subfolders(folder)
    subfolders = [folder / name for name in names]
    here = [path for path in tree.files() if path.parent == folder]
    other = [p for p in here if p.suffix.lower() not in EXTENSIONS]
    flat = [p for p in here if p.suffix.lower() in EXTENSIONS]
    in_folders: dict[Path, list[Path]] = {}
    for subfolder in subfolders:
        files = list_tree(subfolder).files()
        other += [p for p in files if p.suffix.lower() not in EXTENSIONS]
        in_folders[subfolder] = [p for p in files if p.suffix.lower() in EXTENSIONS]

    filled = [subfolder for subfolder, files in in_folders.items() if files]
    if flat and filled:
        raise DataError(
            f"{folder} has images both in it ({_list(p.name for p in flat)}) and in folders "
            f"({_list(p.name for p in filled)}); {LAYOUT}"
        )
    if not flat and not filled:
        found = _list(p.name for p in [*subfolders, *here]) if subfolders or here else "nothing"
        raise DataError(f"there are no images in {folder} ({', '.join(EXTENSIONS)}); found {found}; {LAYOUT}")
    users = _by_name(folder, flat) if flat else _by_folder(folder, in_folders)
    if other:
        log.info("passed over %d files that are no images: %s", len(other), _list(p.name for p in other))
    return users


def _by_folder(folder: Path, in_folders: Mapping[Path, list[Path]]) -> dict[int, list[Path]]:
    users: dict[int, list[Path]] = {}
    names: dict[int, str] = {}
    unmatched = []
    for subfolder, files in in_folders.items():
        number = _FOLDER.search(subfolder.name)
        if number is None:
            unmatched += [subfolder.name] if files else []
            continue
        user_id = _user_id(number[1], subfolder)
        if user_id in users:
            raise DataError(f"{folder}: the folders {names[user_id]} and {subfolder.name} are both of user {user_id}")
        names[user_id] = subfolder.name
        users[user_id] = files
    if unmatched:
        raise DataError(f"{folder}: no user's number at the end of the folder name {_list(unmatched)}; {LAYOUT}")
    empty = [names[user_id] for user_id, files in users.items() if not files]
    if empty:
        raise DataError(f"no images in {folder} for {_list(empty)}; add some or remove the folder")
    return users


def _by_name(folder: Path, files: Iterable[Path]) -> dict[int, list[Path]]:
    users: dict[int, list[Path]] = defaultdict(list)
    unmatched = []
    for path in files:
        number = _FILE.search(path.name)
        if number is None:
            unmatched.append(path.name)
        else:
            users[_user_id(number[1], path)].append(path)
    if unmatched:
        raise DataError(f"{folder}: no user's number in the name of {_list(unmatched)}; {LAYOUT}")
    return dict(users)


def _user_id(digits: str, path: Path) -> int:
    if int(digits) < 1:
        raise DataError(f"{path}: users are numbered from 1; rename user 0")
    return int(digits)


def _check_same_users(root: Path, train: Mapping[int, Sequence[Path]], val: Mapping[int, Sequence[Path]]) -> None:
    for missing, there in (("val", "train"), ("train", "val")):
        users = sorted(set(train) - set(val) if missing == "val" else set(val) - set(train))
        if users:
            raise DataError(
                f"{root}: user {_list(map(str, users))} has images in {there}/ and none in {missing}/; add some, or "
                "remove val/ and pass --val_fraction"
            )


def _split(users: Mapping[int, list[Path]], fraction: float, seed: int) -> tuple[dict[int, list[Path]], ...]:
    single = sorted(user_id for user_id, files in users.items() if len(files) < 2)
    if single:
        raise DataError(
            f"user {_list(map(str, single))} has a single image, and needs one to train and one to validate on; add "
            "some, or remove the user"
        )
    train, val = {}, {}
    for user_id, files in users.items():
        num_val = min(max(1, round(len(files) * fraction)), len(files) - 1)
        order = np.random.default_rng(mix_seeds(seed, user_id)).permutation(len(files))
        held_out = set(order[:num_val].tolist())
        train[user_id] = [path for i, path in enumerate(files) if i not in held_out]
        val[user_id] = [path for i, path in enumerate(files) if i in held_out]
    return train, val


def _in_order(users: Mapping[int, Sequence[Path]], user_ids: Sequence[int]) -> tuple[UserImage, ...]:
    return tuple(UserImage(path, user_id, label) for label, user_id in enumerate(user_ids) for path in users[user_id])


def _list(names: Iterable[str]) -> str:
    counted = list(Counter(names))
    more = f" and {len(counted) - _SHOWN} more" if len(counted) > _SHOWN else ""
    return ", ".join(counted[:_SHOWN]) + more
