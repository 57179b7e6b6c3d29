"""Data of the zoo, encoders for its methods, and judges that no method saw."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from jitflow.data.digits import DigitsDataModule
from jitflow.evaluation.digits_features import DigitsExtractor
from jitflow.evaluation.features import FeatureExtractor, Features, PixelExtractor, check_images
from jitflow.evaluation.moments import Moments
from jitflow.evaluation.rotation_features import RotationExtractor
from jitflow.io.files import atomic_path

HELD_OUT = "held out"
PHOTOS = ("astronaut", "cat", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
PHOTO_SIDE_PX, CROPS_PER_PHOTO, SHORT_SIDE_PX = 32, 256, 96
_ENCODER_MODEL = "test_resnet"
_NUM_FEATURES = 64


@dataclass(frozen=True)
class ZooData:
    """A data set of the zoo.

    Attributes:
        recipe: Changes to the digits recipe.
        encoder: Arguments that name the encoder of this data set in a loss term.
        judges: Makers of feature extractors by name; the first is held out from all training.
        images: Reads the training images, shape ``(N, C, H, W)``, uint8.
        num_classes: Number of classes.
    """

    recipe: Mapping[str, Any]
    encoder: Mapping[str, Any]
    judges: Mapping[str, Callable[[], FeatureExtractor]]
    images: Callable[[], Tensor]
    num_classes: int

    def references(self) -> dict[str, tuple[FeatureExtractor, Moments]]:
        """Build the judges, and the moments of the training images in their features."""
        images = self.images()
        judges = {name: make() for name, make in self.judges.items()}
        return {name: (judge, moments_of(judge, images)) for name, judge in judges.items()}


def moments_of(judge: FeatureExtractor, images: Tensor) -> Moments:
    """Compute mean and covariance of the features of images ``(N, C, H, W)``."""
    moments = Moments(judge.dim)
    for part in images.split(256):
        moments.update(judge(part).features)
    return moments


def digits(folder: Path, *, img_size: int = 16) -> ZooData:
    """Return the built-in digits.

    Args:
        folder: Folder that caches the judges.
        img_size: Side of the images in pixels.
    """

    def images() -> Tensor:
        data = DigitsDataModule(img_size=img_size)
        data.setup()
        found: Tensor = data.dataset_train.images
        return found

    judges = {
        HELD_OUT: lambda: RotationExtractor(folder),
        "digits-cnn": lambda: DigitsExtractor(folder),
        "pixels": lambda: PixelExtractor(8),
    }
    recipe = {"model.img_size": img_size, "data.img_size": img_size}
    return ZooData(recipe, {"encoder": "digits"}, judges, images, 10)


def photos(folder: Path) -> ZooData:
    """Return colour crops of the photos that scikit-image brings along; the class is the photo.

    Args:
        folder: Folder where crops and trained networks are kept.
    """
    crops = folder / "crops"
    if not crops.exists():
        _write_crops(crops)

    def images() -> Tensor:
        return _read_crops(crops)[0]

    encoder = folder / "encoder.safetensors"
    if not encoder.exists():
        _train_encoder(encoder, *_read_crops(crops))
    recipe = {
        "model.img_size": PHOTO_SIDE_PX,
        "model.in_channels": 3,
        "model.num_classes": len(PHOTOS),
        # As many tokens as a digit has, of 192 numbers each.
        "model.net_settings.patch_size": 8,
        "data": {
            "class_path": "jitflow.apps.images.data.JiTDataModule",
            "init_args": {
                "data_path": str(crops),
                "img_size": PHOTO_SIDE_PX,
                "batch_size": 64,
                "num_workers": 0,
                # A mirrored crop has the same class, but the judge would see turns that the data do not have.
                "random_flip": False,
            },
        },
    }
    judges = {HELD_OUT: lambda: TurnExtractor(images()), "pixels": lambda: PixelExtractor(8, 3)}
    # The third stage of the network: 4 x 4 places, as many as the tokens.
    spec = {"encoder": f"timm:{_ENCODER_MODEL}@{PHOTO_SIDE_PX}:{encoder}", "layer": 2}
    return ZooData(recipe, spec, judges, images, len(PHOTOS))


def crop_photos(names: Iterable[str], num_crops: int, *, side_px: int = PHOTO_SIDE_PX) -> dict[str, np.ndarray]:
    """Cut random crops out of photos, always the same ones.

    Args:
        names: Functions of ``skimage.data``.
        num_crops: Crops of each photo.
        side_px: Their side in pixels.

    Returns:
        Crops of each photo, shape ``(num_crops, side_px, side_px, 3)``, uint8.
    """
    import skimage.data

    found = {}
    for name in names:
        photo = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        scale = SHORT_SIDE_PX / min(photo.size)
        size = (round(photo.width * scale), round(photo.height * scale))
        pixels = np.asarray(photo.resize(size, Image.Resampling.LANCZOS))
        drawn = np.random.default_rng(0)
        tops = drawn.integers(0, pixels.shape[0] - side_px + 1, num_crops)
        lefts = drawn.integers(0, pixels.shape[1] - side_px + 1, num_crops)
        found[name] = np.stack([pixels[y : y + side_px, x : x + side_px] for y, x in zip(tops, lefts, strict=True)])
    return found


def _write_crops(folder: Path) -> None:
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name, crops in crop_photos(PHOTOS, CROPS_PER_PHOTO).items():
        inside = unfinished / "train" / name
        inside.mkdir(parents=True)
        for index, crop in enumerate(crops):
            Image.fromarray(crop).save(inside / f"{index:04d}.png")
    unfinished.rename(folder)


def _read_crops(folder: Path) -> tuple[Tensor, Tensor]:
    """Read crops ``(N, 3, H, W)``, uint8, and the number of the photo of each, ``(N,)``."""
    files = sorted(folder.glob("train/*/*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))
    names = sorted({file.parent.name for file in files})
    return pixels.permute(0, 3, 1, 2).contiguous(), torch.tensor([names.index(file.parent.name) for file in files])


def _train_encoder(path: Path, images: Tensor, labels: Tensor) -> None:
    """Train a tiny network of timm to tell the photos apart, and write its weights."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = timm.create_model(_ENCODER_MODEL, pretrained=False, num_classes=len(PHOTOS))
        _train(net.train(), images.float() / 127.5 - 1, labels, num_epochs=4)
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(net.state_dict(), temporary)


def _train(net: nn.Module, pixels: Tensor, labels: Tensor, *, num_epochs: int, batch_size: int = 64) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(num_epochs):
        for index in torch.randperm(len(pixels)).split(batch_size):
            loss = cross_entropy(net(pixels[index]), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class TurnExtractor:
    """Features of a small network that tells by how many quarter turns a crop was turned; it sees no labels.

    Args:
        images: Crops that it is trained on, shape ``(N, 3, 32, 32)``, uint8.
        num_epochs: Passes over them.
    """

    name = "photos-turn-cnn"
    dim = _NUM_FEATURES
    checksum: str | None = None

    def __init__(self, images: Tensor, *, num_epochs: int = 2) -> None:
        self.preprocessing: dict[str, Any] = {"feature": "input of the last layer", "source": "benchmarks/zoo.py"}
        with torch.random.fork_rng():
            torch.manual_seed(2)
            widths = (3, 24, 48, 64)
            layers: list[nn.Module] = []
            for before, after in itertools.pairwise(widths):
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
            self._features = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(_NUM_FEATURES), nn.GELU())
            self._head = nn.Linear(_NUM_FEATURES, 4)
            pixels = images.float() / 127.5 - 1
            turned = torch.cat([pixels.rot90(turns, (2, 3)) for turns in range(4)])
            net = nn.Sequential(self._features, self._head)
            net(turned[:2])
            _train(net, turned, torch.arange(4).repeat_interleave(len(pixels)), num_epochs=num_epochs)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Extract the features of images ``(B, 3, 32, 32)``, uint8, shape ``(B, 64)``."""
        return Features(self._features(check_images(images).float() / 127.5 - 1))

    def to(self, device: torch.device | str) -> TurnExtractor:
        """Return the extractor itself; it stays on the CPU."""
        return self
