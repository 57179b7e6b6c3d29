"""Images of noise in a folder, and the data module over them."""

import numpy as np
from PIL import Image

from datas.datamodule import JiTDataModule


def write_image(path, seed, size=(20, 14)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def make(path, **options):
    return JiTDataModule(str(path), **{"img_size": 8, "batch_size": 4, "num_workers": 0, "seed": 0, **options})
