"""Sampling of texts: the request, and the samples read from the colours of images.

A text is generated from pure noise, after a prompt, or from an image of a text that is partly covered with noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from jitflow import pictures
from jitflow.apps.text.module import TextLightningModule
from jitflow.core.condition import Condition
from jitflow.errors import ConfigError
from jitflow.io.files import write_json, write_text
from jitflow.training.asked import Asked, refuse_words, repeat_each
from jitflow.training.samples import Samples

_COLUMNS = 8
TEXTS_NAME = "samples.txt"


@dataclass
class TextSamples(Samples):
    """Texts with the images they were read from.

    Attributes:
        texts: Text of each image, up to its first end token.
        ids: Token ids of the whole images, shape ``(N, num_tokens)``, int64, on the CPU.
        states: The images as they left the sampler, shape ``(N, 3, H, W)``, float32, on the CPU.
    """

    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    states: Tensor = field(default_factory=lambda: torch.empty(0))

    unit: ClassVar[str] = "texts"
    record_name: ClassVar[str] = "samples.json"

    @classmethod
    def read(cls, module: TextLightningModule, x: Tensor, seeds: Sequence[int]) -> TextSamples:
        """Decode the texts of sampled images.

        Args:
            module: The model.
            x: Images in the model space, shape ``(B, 3, H, W)``.
            seeds: Seed of each.
        """
        x = x.cpu()
        ids, empty = module.colours.tokens(x), [""] * len(x)
        return cls(
            pixels=module.colours.decode(x),
            labels=[0] * len(x),
            seeds=list(seeds),
            names=empty,
            captions=empty,
            texts=[read_text(module, row) for row in ids.tolist()],
            ids=ids,
            states=x,
        )

    def grid(self, *, columns: int | None = None) -> Image.Image:
        """Arrange the images in a grid."""
        scale = pictures.display_scale(self.pixels.shape[-1], target_px=128)
        return pictures.grid(self.pixels.numpy(), columns=columns or _COLUMNS, scale=scale)

    def save(self, folder: str | Path) -> Path:
        """Write ``samples.txt``, ``samples.json`` (texts, seeds, settings), a PNG of each, a grid; return the folder.

        Args:
            folder: Output folder, created if missing.
        """
        folder = self._save_images(folder)
        listed = list(zip(self.seeds, self.file_names(), self.texts, strict=True))
        write_text(folder / TEXTS_NAME, "".join(f"--- seed {seed}\n{text}\n\n" for seed, _, text in listed))
        records = [{"seed": seed, "file": name, "text": text} for seed, name, text in listed]
        write_json(folder / self.record_name, {"settings": self.settings, "grid": self.grid_name, "samples": records})
        return folder


def ask_for_texts(
    module: TextLightningModule,
    *,
    labels: None = None,
    num: int | None = None,
    prompt: str | Sequence[str] | None = None,
    texts: Sequence[str] | Tensor | None = None,
    start_time: float | None = None,
    **unknown: Any,
) -> Asked:
    """Build and check a request for texts: from pure noise, after a prompt, or recovered from partial noise.

    Args:
        module: The model.
        labels: Must be left out: text has no classes.
        num: Number of texts, for each prompt or text if several are given; None for one.
        prompt: Prefix of every text, or one prefix for each; it is fixed at the start of the image.
        texts: Texts to recover, each with room for an end token; or token ids of whole images, shape
            ``(N, num_tokens)``.
        start_time: Time in ``[0, 1)`` of the noisy texts to start from; 0 is pure noise. The solver uses the steps
            of the full time grid after it.
        unknown: Arguments of other applications.

    Returns:
        The request: condition, start and names of the samples.

    Raises:
        ConfigError: If a prompt or text does not fit into an image, or an argument is unknown.
    """
    given = unknown if labels is None else {"labels": labels, **unknown}
    refuse_words(given, module.application, takes=("num", "prompt", "texts with start_time"))
    if (texts is None) != (start_time is None):
        raise ConfigError(
            "texts and start_time belong together: texts to recover, and the time up to which they are noisy"
        )
    if texts is not None and prompt is not None:
        raise ConfigError("prompt and texts both set the start of sampling; give one of them")
    record: dict[str, Any] = {"mapping": module.colours.mapping, "tokenizer": module.tokenizer.name}
    if texts is not None and start_time is not None:
        start = _noisy_start(module, texts, num, start_time)
        return _asked(Condition(), len(start[0]), {"start_time": start_time, **record}, start)
    condition, count = _encode_prompts(module, prompt, num)
    return _asked(condition, count, {"prompt": prompt if isinstance(prompt, str | None) else list(prompt), **record})


def present_texts(module: TextLightningModule, x: Tensor, asked: Asked, seeds: list[int]) -> TextSamples:
    """Read images as texts; the presenter of :class:`~jitflow.training.application.Application`."""
    return TextSamples.read(module, x, seeds)


def no_prompt(module: TextLightningModule) -> str:
    """Return the first prompt of a form: none."""
    return ""


def prompt_tokens(module: TextLightningModule, prompt: str) -> list[int]:
    """Return the token ids of a prompt; raise ConfigError if it leaves no room in the image."""
    ids, room = module.tokenizer.encode(prompt), module.colours.num_tokens
    if len(ids) >= room:
        raise ConfigError(
            f"the prompt has {len(ids)} tokens and an image holds {room}; give at most {room - 1}, such as its end"
        )
    return ids


def read_text(module: TextLightningModule, ids: Sequence[int]) -> str:
    """Return the text of token ids up to the first end token."""
    ids, end = list(ids), module.tokenizer.end_id
    return module.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)


def _asked(condition: Condition, num: int, record: dict[str, Any], start: tuple[Tensor, float] | None = None) -> Asked:
    labels = torch.zeros(num, dtype=torch.int64)
    condition = Condition(label=labels, known=condition.known, mask=condition.mask)
    return Asked(condition, [""] * num, [""] * num, start=start, record=record, unit=TextSamples.unit)


def _encode_prompts(
    module: TextLightningModule, prompt: str | Sequence[str] | None, num: int | None
) -> tuple[Condition, int]:
    """Encode prompts as a condition: one for all samples, or one for each."""
    prompts = [prompt or ""] if isinstance(prompt, str | None) else list(prompt)
    repeated = repeat_each(prompts, num, what="prompt")
    if not any(repeated):
        return Condition(), len(repeated)
    of_each = prompts if len(prompts) == 1 else repeated
    tokens = [prompt_tokens(module, text) for text in of_each]
    padded = [ids + [module.tokenizer.pad_id] * (module.colours.num_tokens - len(ids)) for ids in tokens]
    mask = module.prompt_mask(torch.tensor([len(ids) for ids in tokens]))
    return Condition(known=module.colours.encode(torch.tensor(padded)), mask=mask), len(repeated)


def _noisy_start(
    module: TextLightningModule, texts: Sequence[str] | Tensor, num: int | None, t: float
) -> tuple[Tensor, float]:
    """Encode texts as images, and check the start time."""
    if not 0 <= t < 1:
        raise ConfigError(f"the time of the noisy images must lie in [0, 1); got {t}")
    ids = texts if isinstance(texts, Tensor) else [_full_image(module, text) for text in texts]
    rows = repeat_each(list(ids), num, what="texts")
    return module.colours.encode(torch.stack([torch.as_tensor(row) for row in rows])), t


def _full_image(module: TextLightningModule, text: str) -> list[int]:
    """Encode a text with its end and padding: as many token ids as an image holds."""
    ids, room = [*module.tokenizer.encode(text), module.tokenizer.end_id], module.colours.num_tokens
    if len(ids) > room:
        raise ConfigError(f"a text has {len(ids)} tokens with its end and an image holds {room}; split it")
    return ids + [module.tokenizer.pad_id] * (room - len(ids))
