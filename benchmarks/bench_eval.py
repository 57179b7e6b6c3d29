"""Time of an evaluation outside the networks: tensors and streamed moments against PNG files.

Run: ``python benchmarks/bench_eval.py``. The release writes every image as a PNG file and a second program reads the
folder; here the pixels stay in memory, and only features are written. Both times are for 50,000 images of
256 px, scaled from fewer, and exclude the networks (sampler, Inception).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from _timing import CLOCKS, Report, add_common_options
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from torch import Tensor

from jitflow.codec.pixel import PixelCodec
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.moments import Moments

NUM_IMAGES = 50_000
SIDE = 256


def photographs(num: int) -> Tensor:
    """Crop scikit-learn's two photographs, in the model space, shape ``(N, 3, 256, 256)``."""
    photos = [torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for i in range(num):
        photo = photos[i % len(photos)]
        top, left = (int(torch.randint(0, s - SIDE + 1, (), generator=generator)) for s in photo.shape[1:])
        crops.append(photo[:, top : top + SIDE, left : left + SIDE])
    return PixelCodec((SIDE, SIDE), 3).encode(torch.stack(crops))


def release_pixels(x: Tensor, folder: Path) -> Tensor:
    """Write a batch as the release does, one PNG file per image, and read it back as its scorer does."""
    try:
        import cv2
    except ImportError:
        cv2 = None
    images = ((x + 1) / 2).detach().cpu()
    for i, image in enumerate(images):
        array = np.round(np.clip(image.numpy().transpose([1, 2, 0]) * 255, 0, 255)).astype(np.uint8)
        path = folder / f"{i:05d}.png"
        if cv2 is not None:
            cv2.imwrite(str(path), array[:, :, ::-1])
        else:
            # OpenCV's default compression level.
            Image.fromarray(array).save(path, compress_level=1)
    return torch.stack([torch.from_numpy(np.array(Image.open(p).convert("RGB"))) for p in sorted(folder.iterdir())])


def our_pixels(x: Tensor, outputs: dict[str, Tensor], folder: Path) -> Tensor:
    """Convert a batch to uint8 and move it back to its device; save its features and read them again."""
    pixels = PixelCodec((SIDE, SIDE), 3).decode(x).cpu()
    save_file(outputs, folder / "part.safetensors")
    load_file(folder / "part.safetensors")
    return pixels.to(x.device)


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, repeats=3)
    parser.add_argument("--images", type=int, default=128, help="images in a turn; the times are scaled to 50,000")
    parser.add_argument("--dim", type=int, default=2048, help="length of a feature vector")
    args = parser.parse_args()
    clock = CLOCKS[args.clock]
    report = Report(device=args.device, out=args.out)
    x = photographs(args.images).to(args.device)
    outputs = {"features": torch.randn(args.images, args.dim), "logits": torch.randn(args.images, 1008)}

    def per_image(function: Callable[[Path], object]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = clock()
            function(Path(folder))
            return (clock() - start) / args.images

    taken = [
        (per_image(lambda f: our_pixels(x, outputs, f)), per_image(lambda f: release_pixels(x, f)))
        for _ in range(args.repeats + 1)
    ][1:]
    pixels = [float(np.median([pair[side] for pair in taken])) * NUM_IMAGES for side in (0, 1)]
    more = {"clock": args.clock, "images": args.images}
    report.add("evaluation of 50,000 images, pixels to the extractor, memory / PNG files", *pixels, "s", **more)
    statistics = [time_statistics(args.dim, clock), time_release_statistics(args.dim, clock)]
    name = f"evaluation of 50,000 images, statistics and distance of {args.dim} features, ours / numpy and scipy"
    report.add(name, *statistics, "s", clock=args.clock)
    both = [sum(side) for side in zip(pixels, statistics, strict=True)]
    report.add("evaluation of 50,000 images, all outside the networks, ours / PNG files", *both, "s", **more)
    print(f"rows are in {report.out}")


def time_statistics(dim: int, clock: Callable[[], float]) -> float:
    """Time from the features of 50,000 images to their distance, in seconds."""
    part = torch.randn(1000, dim)
    moments = Moments(dim)
    for _ in range(3):
        moments.update(part + torch.randn_like(part))
    start = clock()
    moments.update(part)
    updating = (clock() - start) * NUM_IMAGES / len(part)
    start = clock()
    statistics = (moments.mean, moments.covariance)
    frechet_distance(*statistics, *statistics)
    return updating + clock() - start


def time_release_statistics(dim: int, clock: Callable[[], float]) -> float:
    """The same time with the usual method: numpy's covariance, scipy's square root of the product."""
    part = np.random.default_rng(0).standard_normal((2 * dim, dim))
    start = clock()
    covariance = np.cov(part, rowvar=False)
    covering = (clock() - start) * NUM_IMAGES / len(part)
    start = clock()
    np.trace(scipy.linalg.sqrtm(covariance @ covariance).real)
    return covering + clock() - start


if __name__ == "__main__":
    main()
