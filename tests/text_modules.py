"""Small modules of text as colour, and token ids for them."""

from __future__ import annotations

import torch

from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.tokenizer import ByteTokenizer
from jitflow.data.batch import ImageBatch

TINY = {"depth": 2, "hidden_size": 32, "num_heads": 2, "bottleneck_dim": 16}
MAPPINGS = ("codebook", "lattice", "base256")
WORDS = ByteTokenizer()


def make(**settings):
    torch.manual_seed(0)
    given = {"img_size": 16, "model_name": "JiT-N/4", "net_settings": TINY, **settings}
    return TextLightningModule(given.pop("tokenizer", "bytes"), **given)


def shaken(module):
    with torch.no_grad():
        for p in module.net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return module


def text_ids(module, num=3, pad_from=None, seed=0):
    ids = torch.randint(256, (num, module.colours.num_tokens), generator=torch.Generator().manual_seed(seed))
    if pad_from is not None:
        ids[:, pad_from] = WORDS.end_id
        ids[:, pad_from + 1 :] = WORDS.pad_id
    return ids


def begin_batch(module, index, epoch=0):
    """Tell a module which texts come next, as its trainer does."""
    batch = ImageBatch(torch.zeros(len(index)), torch.zeros(len(index), dtype=torch.int64), index, epoch)
    module.on_train_batch_start(batch, 1)
