"""How each python block of the documents is executed: its kind, and every change made to its text.

Kinds:

- *run*: executed as it stands. Only sizes, paths, devices and epochs may change.
- *signature*: the documented parameters compared with ours by name, order and default.
- *override*: the method bound to a subclass, or the class as printed; one real training and one sampling follow.
- *fragment*: lines that use names from elsewhere; ``before`` supplies them, ``...`` is replaced.
- *alternatives*: lines of which a reader takes one; each is executed alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("run", "signature", "override", "fragment", "alternatives")
DOCUMENTS = {"model_module": 27, "data_module": 12, "callbacks": 11}
_BLOCK = re.compile(r"^## (\d+)\. .*?\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Case:
    """What happens to one block.

    Attributes:
        kind: One of :data:`KINDS`.
        sizes: Replacements of sizes, paths, devices and epochs.
        pseudo: Replacements where the text is no complete program (``...``, a missing ``self``); needs ``why``.
        before: Lines put in front.
        alternatives: For each alternative, the lines that are left out.
        base: Class whose method the block overrides, or ``""`` if the block prints the whole class.
        target: Object whose signature is compared.
        device: ``"meta"`` builds big networks without memory for their weights.
        why: Why the block does not work as written, in one line.
        warning: The warning that the block must give.
    """

    kind: str
    sizes: dict[str, str] = field(default_factory=dict)
    pseudo: dict[str, str] = field(default_factory=dict)
    before: str = ""
    alternatives: tuple[tuple[str, ...], ...] = ()
    base: str = ""
    target: str = ""
    device: str = "cpu"
    why: str = ""
    warning: str = ""


def read_blocks() -> dict[str, str]:
    """Return every stored block by its name, such as ``"model_module 7"``."""
    blocks = {}
    for document in DOCUMENTS:
        text = (Path(__file__).parent / "blocks" / f"{document}.txt").read_text(encoding="utf-8")
        for number, (printed, code) in enumerate(_BLOCK.findall(text), start=1):
            assert int(printed) == number, f"{document}: block {printed} stands where {number} belongs"
            blocks[f"{document} {number}"] = code
    return blocks


def source_of(name: str, *, left_out: tuple[str, ...] = ()) -> str:
    """Return the program that is executed for a block: ``before``, then its text with the declared changes."""
    case, code = CASES[name], read_blocks()[name]
    for line in left_out:
        assert code.count(line) == 1, f"{name}: {line!r} is not in the block once"
        code = code.replace(line, "")
    for old, new in {**case.sizes, **case.pseudo}.items():
        assert old in code, f"{name}: {old!r} is not in the block"
        code = code.replace(old, new)
    return f"{case.before}\n{code}"


IMPORTS = """
import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from datas.datamodule import JiTDataModule
from models.modelmodule import JiTLightningModule
"""
# The documents write the constructor's dots as `JiTLightningModule(...)`.
TINY = "model_name='JiT-N/4', img_size=16, num_classes=5, num_sampling_steps=3"
DOTS = {"JiTLightningModule(...)": f"JiTLightningModule({TINY})"}
TINY_MODEL = f"{IMPORTS}\nmodel = tiny(JiTLightningModule)\n"
TINY_DATA = "datamodule = JiTDataModule(img_size=16, batch_size=4, num_workers=0)\n"
SMALL_IMAGES = {"img_size=256": "img_size=16"}
SMALL_NET = {"model_name='JiT-B/16'": "model_name='JiT-N/4'"}
ONE_CPU = {"accelerator='gpu'": "accelerator='cpu'", "devices=8": "devices=1"}
NO_DDP = {"strategy='ddp'": "strategy='auto'"}
ONE_EPOCH = {"max_epochs=600": "max_epochs=1"}
SMALL_BATCH = {"batch_size=128": "batch_size=4"}
# Parts of a Trainer call that stand for three dots.
TRAINER = "accelerator='cpu', max_epochs=1"
RELEASE_ARGS = """
from argparse import Namespace
args = Namespace(
    model='JiT-N/4', img_size=16, class_num=5, attn_dropout=0.0, proj_dropout=0.0, lr=None, blr=5e-5,
    weight_decay=0.0, ema_decay1=0.9999, ema_decay2=0.9996, P_mean=-0.8, P_std=0.8, noise_scale=1.0, t_eps=5e-2,
    label_drop_prob=0.1, sampling_method='heun', num_sampling_steps=50, cfg=2.9, interval_min=0.1, interval_max=1.0,
    data_path='./data/imagenet', batch_size=4, num_workers=12, pin_mem=True, world_size=1,
    epochs=600, warmup_epochs=5, lr_schedule='constant', output_dir='./output_dir',
    eval_freq=40, num_images=50000, gen_bsz=256, online_eval=False,
)
"""
# A module whose averages differ from its weights and from each other, and the callback that made them.
TRAINED = f"""{TINY_MODEL}
from callbacks import EMACallback
ema_callback = EMACallback(0.9, 0.5)
model.ema_decay1, model.ema_decay2 = 0.9, 0.5
trainer = fit(model, callbacks=[ema_callback])
"""

CASES: dict[str, Case] = {
    # ------------------------------------------------------------------------------------ model_module
    "model_module 1": Case("signature", target="models.modelmodule:JiTLightningModule"),
    "model_module 2": Case("run"),
    "model_module 3": Case(
        "run",
        sizes={
            **SMALL_NET,
            "img_size=256)\n\n": "img_size=16, batch_size=4, num_workers=0)\n\n",
            "img_size=256)\ndata": "img_size=16)\ndata",
            **ONE_CPU,
            **NO_DDP,
            **ONE_EPOCH,
        },
    ),
    "model_module 4": Case("fragment", before=RELEASE_ARGS),
    "model_module 5": Case(
        "fragment",
        before=f"{TINY_MODEL}from callbacks import EMACallback, JiTModelCheckpoint\n"
        "trained = model\nfit(trained, callbacks=[EMACallback(), JiTModelCheckpoint()])\n",
    ),
    "model_module 6": Case("override", base="JiTLightningModule"),
    "model_module 7": Case("override", base="JiTLightningModule", before=IMPORTS),
    "model_module 8": Case(
        "override",
        base="JiTLightningModule",
        before=IMPORTS,
        pseudo={
            "    optimizer =": "    decay_params = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]\n"
            "    no_decay_params = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]\n"
            "    optimizer ="
        },
        why="decay_params and no_decay_params are described, not defined",
    ),
    "model_module 9": Case(
        "fragment",
        before=IMPORTS,
        sizes={"model.cuda()": "model.cpu()", "device='cuda'": "device='cpu'"},
        pseudo=DOTS,
        why="the constructor's arguments are dots",
        warning="has no EMA yet",
    ),
    "model_module 10": Case(
        "fragment", before=f"{TINY_MODEL}labels = torch.tensor([0, 1])\n", warning="has no EMA yet"
    ),
    "model_module 11": Case(
        "override",
        base="JiTLightningModule",
        pseudo={"_step(z,": "_step(self, z,", "= _forward_sample": "= self._forward_sample"},
        why="printed as a function, without self",
    ),
    "model_module 12": Case(
        "override",
        base="JiTLightningModule",
        pseudo={"_step(z,": "_step(self, z,", "= _forward_sample": "= self._forward_sample"},
        why="printed as a function, without self",
    ),
    "model_module 13": Case("override", before=f"{IMPORTS}\nsome_value = 0.25\n"),
    "model_module 14": Case(
        "override",
        before=f"{IMPORTS}\nsome_factor = 0.5\n",
        pseudo={
            "        for i in": "        z = torch.randn(len(labels), 3, self.img_size, self.img_size)\n"
            "        times = torch.linspace(0, 1, self.num_sampling_steps + 1)\n"
            "        for i in",
            "            z = self": "            t, t_next = times[i], times[i + 1]\n            z = self",
        },
        why="generate uses z, t and t_next without defining them",
    ),
    "model_module 15": Case(
        "alternatives",
        before=TRAINED,
        alternatives=(
            ("ema_callback.load_ema_to_model(model, ema_version=2)",),
            ("ema_callback.load_ema_to_model(model, ema_version=1)",),
        ),
    ),
    "model_module 16": Case(
        "alternatives",
        before=TINY_MODEL + TINY_DATA,
        alternatives=(("    precision='16-mixed',",), ("    precision='bf16-mixed',",)),
        pseudo={"pl.Trainer(": f"pl.Trainer({TRAINER},"},
        why="one keyword twice is no Python; the epochs are not said",
    ),
    "model_module 17": Case("fragment", before=TINY_MODEL + TINY_DATA, sizes={"pl.Trainer(": f"pl.Trainer({TRAINER},"}),
    "model_module 18": Case("fragment", before=TINY_MODEL + TINY_DATA, sizes={"pl.Trainer(": f"pl.Trainer({TRAINER},"}),
    "model_module 19": Case("fragment", before=IMPORTS, why="comments only; what they promise is an option here"),
    "model_module 20": Case(
        "override",
        base="JiTLightningModule",
        before=f"{IMPORTS}\nvalue = 0.25\n",
        pseudo={
            "    loss = ...": "    images, labels = batch\n    x = self.codec.encode(images)\n"
            "    t = self.sample_timestep(len(x)).flatten()\n"
            "    loss = self.flow_loss(x, labels, t, torch.randn_like(x)).mean()"
        },
        why="the loss is dots",
    ),
    "model_module 21": Case("fragment", before=IMPORTS, device="meta"),
    "model_module 22": Case("fragment", before=IMPORTS, device="meta"),
    "model_module 23": Case("fragment", before=IMPORTS, device="meta"),
    "model_module 24": Case("fragment", before=IMPORTS, device="meta"),
    "model_module 25": Case("fragment", before=f"{TRAINED}labels = torch.tensor([0, 1])\n"),
    "model_module 26": Case("run", device="meta"),
    "model_module 27": Case("fragment", pseudo=DOTS, why="the constructor's arguments are dots"),
    # ------------------------------------------------------------------------------------- data_module
    "data_module 1": Case("signature", target="datas.datamodule:JiTDataModule", before="from typing import Optional"),
    "data_module 2": Case(
        "signature",
        target="datas.datamodule:center_crop_arr",
        before="import numpy as np\nfrom PIL import Image",
    ),
    "data_module 3": Case(
        "fragment",
        before="from torchvision import transforms\nfrom datas.datamodule import center_crop_arr\nimg_size = 16\n",
    ),
    "data_module 4": Case("run", sizes={**SMALL_IMAGES, **SMALL_BATCH}),
    "data_module 5": Case(
        "fragment",
        sizes={**SMALL_IMAGES, **SMALL_BATCH, **ONE_CPU, **ONE_EPOCH},
        pseudo=DOTS,
        why="the constructor's arguments are dots",
    ),
    "data_module 6": Case(
        "fragment",
        before="import lightning.pytorch as pl\nlocal_rank = 3\nepochs = 2\n",
        sizes={
            "batch_size=128": "batch_size=2",
            "img_size=256": "img_size=16",
            "devices=8,": "devices=1, accelerator='cpu', max_epochs=1,",
            **NO_DDP,
        },
        pseudo={
            "    # 训练...": "    orders.append(index_order(datamodule))",
            "for epoch in": "orders = []\nfor epoch in",
        },
        why="the body of the loop is a comment",
    ),
    "data_module 7": Case("fragment", before=RELEASE_ARGS),
    "data_module 8": Case(
        "override",
        before="from torchvision import transforms\nfrom datas.datamodule import JiTDataModule, center_crop_arr\n",
    ),
    "data_module 9": Case(
        "override",
        before="import os\nfrom torch.utils.data import DataLoader\nfrom torchvision import datasets, transforms\n"
        "from datas.datamodule import JiTDataModule, center_crop_arr\n",
    ),
    "data_module 10": Case("fragment", before="from datas.datamodule import JiTDataModule\n"),
    "data_module 11": Case("run", device="meta"),
    "data_module 12": Case(
        "fragment",
        pseudo={"JiTDataModule(...)": "JiTDataModule(img_size=512)"},
        why="the constructor's arguments are dots",
    ),
    # --------------------------------------------------------------------------------------- callbacks
    "callbacks 1": Case("run"),
    "callbacks 2": Case("run"),
    "callbacks 3": Case("run"),
    "callbacks 4": Case("run"),
    "callbacks 5": Case("run"),
    "callbacks 6": Case(
        "fragment",
        before=TINY_MODEL + TINY_DATA,
        sizes={"    max_epochs=600,": "    max_epochs=1,", **SMALL_IMAGES},
        pseudo={"    ...\n": "    accelerator='cpu',\n"},
        why="the Trainer's other arguments are dots",
    ),
    "callbacks 7": Case(
        "fragment",
        before=TINY_MODEL + TINY_DATA,
        pseudo={"callbacks=callbacks, ...": f"callbacks=callbacks, {TRAINER}"},
        why="the Trainer's other arguments are dots; the import of pl is left out",
    ),
    "callbacks 8": Case("fragment", before=RELEASE_ARGS),
    "callbacks 9": Case("run", sizes={**SMALL_NET, **SMALL_IMAGES, **SMALL_BATCH, **ONE_CPU, **NO_DDP, **ONE_EPOCH}),
    "callbacks 10": Case("fragment", before=TRAINED),
    "callbacks 11": Case("override", before="from callbacks import FIDEvaluationCallback\n"),
}
