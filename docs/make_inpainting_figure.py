"""Draw docs/images/digits_inpainted.png with the demo's checkpoint, and print its classification accuracy.

python docs/make_inpainting_figure.py [runs/demo/images/checkpoints/last.ckpt]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import jitflow
from jitflow import pictures
from jitflow.apps.images.digit_judge import DigitJudge
from jitflow.core.condition import Condition
from jitflow.core.seeding import use_seeds
from jitflow.data.digits import DigitsDataModule

NUM, SHOWN = 200, 16


def main(checkpoint: str = "runs/demo/images/checkpoints/last.ckpt") -> None:
    """Inpaint the lower half of held-out scans."""
    model = jitflow.load(checkpoint, device="cpu").module
    data = DigitsDataModule(img_size=16)
    data.setup("fit")
    pixels, labels = map(
        torch.stack, zip(*[map(torch.as_tensor, data.dataset_val[i]) for i in range(NUM)], strict=True)
    )
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8, :] = True
    condition = Condition(label=labels, known=model.codec.encode(pixels), mask=mask)
    with use_seeds(range(NUM)):
        drawn = model.codec.decode(model.generate_condition(condition))
    judge = DigitJudge()
    for name, images in (("scans", pixels), ("lower half drawn", drawn)):
        right = (torch.as_tensor(judge.read(images)) == labels).double().mean()
        sys.stdout.write(f"{name}: {right:.1%} of {NUM} read as their digit\n")
    given = torch.where(mask, pixels, torch.tensor(96, dtype=torch.uint8))
    rows = torch.cat([part[:SHOWN] for part in (pixels, given, drawn)])
    target = Path(__file__).parent / "images" / "digits_inpainted.png"
    pictures.save_image(pictures.grid(rows.numpy(), columns=SHOWN, scale=3), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
