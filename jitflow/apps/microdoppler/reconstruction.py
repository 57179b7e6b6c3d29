"""Reconstruction of held-out pictures from their latents: what the image codec loses, as a picture and in decibels."""

from __future__ import annotations

import torch
from torch import Tensor

from jitflow.apps.microdoppler.extraction_folder import RECONSTRUCTION_NAME, ExtractionFolder
from jitflow.apps.microdoppler.user_images import ImageReader, UserImage, spread_indices
from jitflow.codec.latent import ImageCodec
from jitflow.codec.linear import Psnr, psnr
from jitflow.io.array_file import open_arrays
from jitflow.io.progress import meter
from jitflow.pictures import grid, save_image

_MOST_DECODED, _MOST_SHOWN = 64, 8


def save_reconstruction(
    folder: ExtractionFolder, images: tuple[UserImage, ...], codec: ImageCodec, read: ImageReader
) -> Psnr:
    """Decode some of the validation latents, draw them below their pictures and compare.

    Args:
        folder: Folder of the latents; ``reconstruction.png`` is written there.
        images: All validation pictures, in the order of their latents.
        codec: The image codec.
        read: Reader of the pictures.

    Returns:
        Peak signal-to-noise ratio of the decoded pictures.
    """
    latents = open_arrays(folder.latents("val"))[0]["latents"]
    rows = spread_indices(len(images), _MOST_DECODED)
    pixels: list[Tensor] = []
    decoded: list[Tensor] = []
    with meter("decoding validation latents", len(rows)) as progress:
        for row in rows:
            pixels.append(read.pixels(images[row].path))
            decoded.append(codec.decode(torch.from_numpy(latents[row : row + 1].copy())))
            progress.update(len(decoded))
    originals, reconstructions = torch.cat(pixels), torch.cat(decoded)
    shown = spread_indices(len(rows), _MOST_SHOWN)
    pairs = torch.cat([originals[shown], reconstructions[shown]])
    save_image(grid(pairs.numpy(), columns=len(shown), gap_px=4), folder.path / RECONSTRUCTION_NAME)
    return psnr(originals, reconstructions)
