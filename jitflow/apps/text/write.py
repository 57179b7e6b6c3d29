"""Write text with a trained model: from nothing, after a prompt, or back from a noisy image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from jitflow import pictures
from jitflow.apps.text.module import TextLightningModule
from jitflow.core.condition import Condition
from jitflow.core.path import interpolate
from jitflow.core.seeding import noise_from_seeds, use_seeds
from jitflow.errors import CheckpointError, ConfigError, DataError
from jitflow.io.files import write_json, write_text
from jitflow.model import load
from jitflow.training.sampling_settings import settings_from_words

OnProgress = Callable[[int, int], None]
Precision = Literal["32", "bf16", "16"]
_PRECISIONS: dict[str, torch.dtype] = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
_COLUMNS = 8
TEXTS_NAME = "samples.txt"
RECORD_NAME = "samples.json"
GRID_NAME = "grid.png"


@dataclass
class TextSamples:
    """Texts with the images they were read from, and everything that names them.

    Attributes:
        texts: What each image says, up to its first end token.
        ids: Token ids of the whole images, shape ``(N, num_tokens)``, int64, on the CPU.
        pixels: The images, shape ``(N, 3, H, W)``, uint8, on the CPU.
        seeds: Seed of each.
        settings: Settings of the sampling, plain values.
        states: The images as they left the sampler, shape ``(N, 3, H, W)``, float32, on the CPU.
    """

    texts: list[str]
    ids: Tensor
    pixels: Tensor
    seeds: list[int]
    settings: dict[str, Any] = field(default_factory=dict)
    states: Tensor = field(default_factory=lambda: torch.empty(0))

    def __len__(self) -> int:
        return len(self.texts)

    def images(self) -> list[Image.Image]:
        """Return the images as PIL images."""
        return [pictures.to_image(p) for p in self.pixels.numpy()]

    def grid(self, *, columns: int = _COLUMNS) -> Image.Image:
        """Lay the images out in one picture."""
        scale = pictures.display_scale(self.pixels.shape[-1], target_px=128)
        return pictures.grid(self.pixels.numpy(), columns=columns, scale=scale)

    def save(self, folder: str | Path) -> Path:
        """Write ``samples.txt``, ``samples.json`` (texts, seeds, settings), a PNG of each, a grid; return the folder.

        Args:
            folder: Where to; it is made.
        """
        folder = Path(folder)
        names = [f"{i:06d}_seed{seed}.png" for i, seed in enumerate(self.seeds)]
        for name, image in zip(names, self.images(), strict=True):
            pictures.save_image(image, folder / name)
        pictures.save_image(self.grid(), folder / GRID_NAME)
        listed = list(zip(self.seeds, names, self.texts, strict=True))
        write_text(folder / TEXTS_NAME, "".join(f"--- seed {seed}\n{text}\n\n" for seed, _, text in listed))
        records = [{"seed": seed, "file": name, "text": text} for seed, name, text in listed]
        write_json(folder / RECORD_NAME, {"settings": self.settings, "samples": records})
        return folder


def load_text_model(path: str | Path, *, device: str | None = None) -> TextLightningModule:
    """Load a model of text as colour.

    Args:
        path: A checkpoint of any of our formats.
        device: Where to put it; the fastest there is by default.

    Returns:
        The module, in evaluation mode.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged or another application's.
    """
    module = load(path, device=device).module
    if not isinstance(module, TextLightningModule):
        raise CheckpointError(f"{path} is no model of text as colour (it is a {type(module).__name__})")
    return module


def write_texts(
    module: TextLightningModule,
    num: int,
    *,
    prompt: str | None = None,
    seeds: Sequence[int] | int = 0,
    steps: int | None = None,
    solver: str | None = None,
    churn: float | None = None,
    temperature: float | None = None,
    ema: int | None = None,
    batch_size: int = 64,
    precision: Precision = "32",
    on_progress: OnProgress | None = None,
) -> TextSamples:
    """Write texts. A setting that is ``None`` is the model's own.

    Args:
        module: The model.
        num: How many texts.
        prompt: Their common beginning; it comes first in each image and stays as it is.
        seeds: A seed for each text, or the first of consecutive ones. A seed names a text whatever the batch size.
        steps: Steps of the solver.
        solver: ``euler``, ``heun``, ``midpoint`` or ``multistep``.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        temperature: Divides the log-probabilities of codewords; below 1 it writes what is likeliest. Only for models
            of the decoder ``expected``.
        ema: Average of the weights, 1 or 2; 0 for the weights themselves; by default 1 where there is one.
        batch_size: Images at a time.
        precision: ``"32"``, ``"bf16"`` or ``"16"`` inside the network.
        on_progress: Called with (steps of texts done, steps of texts in all).

    Returns:
        The texts, prompt included.

    Raises:
        ConfigError: If a setting is out of range, or the prompt fills the image.
        DataError: If a sample is not finite.
    """
    if num < 1:
        raise ConfigError(f"the number of texts must be at least 1; got {num}")
    prompt_ids = prompt_tokens(module, prompt) if prompt else []
    with _sampling_settings(module, steps, solver, churn, temperature):
        sampler = _Sampler(module, _seeds_of(seeds, num), ema, batch_size, precision, on_progress)
        known = mask = None
        if prompt_ids:
            padded = prompt_ids + [module.tokenizer.pad_id] * (module.colours.num_tokens - len(prompt_ids))
            known = module.colours.encode(torch.tensor([padded])).to(module.device)
            mask = module.prompt_mask(torch.tensor([len(prompt_ids)], device=module.device))
        return sampler.run(lambda part: (Condition(known=known, mask=mask), None), {"prompt": prompt})


def recover(
    module: TextLightningModule,
    texts: Sequence[str] | Tensor,
    t: float,
    *,
    seeds: Sequence[int] | int = 0,
    steps: int | None = None,
    solver: str | None = None,
    churn: float | None = None,
    temperature: float | None = None,
    ema: int | None = None,
    batch_size: int = 64,
    precision: Precision = "32",
    on_progress: OnProgress | None = None,
) -> TextSamples:
    """Cover texts with noise and sample from there to the end. A setting that is ``None`` is the model's own.

    Args:
        module: The model.
        texts: Texts, each with room for an end token; or token ids of whole images, shape ``(N, num_tokens)``.
        t: Time of the noisy images, in ``[0, 1)``: 0 leaves nothing of the text. The steps of the solver are those
            of a whole sampling that lie behind it.
        seeds: As in :func:`write_texts`; a seed names the noise.
        steps: As in :func:`write_texts`, as are all further arguments.
        solver: See there.
        churn: See there.
        temperature: See there.
        ema: See there.
        batch_size: See there.
        precision: See there.
        on_progress: See there.

    Returns:
        What came back.

    Raises:
        ConfigError: If a setting is out of range or a text does not fit into an image.
        DataError: If a sample is not finite.
    """
    if not 0 <= t < 1:
        raise ConfigError(f"the time of the noisy images must lie in [0, 1); got {t}")
    ids = texts if isinstance(texts, Tensor) else torch.tensor([_whole_image(module, text) for text in texts])
    if not len(ids):
        raise ConfigError("there is nothing to recover: texts is empty")
    x1 = module.colours.encode(ids)
    chosen = _seeds_of(seeds, len(ids))

    def begin(part: slice) -> tuple[Condition, tuple[Tensor, float]]:
        noise = module.noise_scale * noise_from_seeds(module.codec.shape, chosen[part])
        time = torch.full((len(noise),), t)
        return Condition(), (interpolate(noise, x1[part].to(noise), time).to(module.device), t)

    with _sampling_settings(module, steps, solver, churn, temperature):
        sampler = _Sampler(module, chosen, ema, batch_size, precision, on_progress)
        return sampler.run(begin, {"start_time": t})


def prompt_tokens(module: TextLightningModule, prompt: str) -> list[int]:
    """Return the ids of a prompt; raise ConfigError if it leaves no room in the image."""
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


class _Sampler:
    """One call's worth of sampling, batch by batch."""

    def __init__(
        self,
        module: TextLightningModule,
        seeds: list[int],
        ema: int | None,
        batch_size: int,
        precision: str,
        on_progress: OnProgress | None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {batch_size}")
        if precision not in _PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(_PRECISIONS)}; got {precision!r}")
        self.module = module
        self.seeds = seeds
        self.ema = (1 if module.ema_params1 else 0) if ema is None else ema
        if self.ema:
            module.ema_parameters(self.ema)
        self.batch_size = batch_size
        self.precision = precision
        self.on_progress = on_progress

    def run(
        self,
        begin: Callable[[slice], tuple[Condition, tuple[Tensor, float] | None]],
        settings: dict[str, Any],
    ) -> TextSamples:
        """Sample; ``begin`` says for a part of the seeds what is known and where to start."""
        module = self.module
        autocast = (
            nullcontext()
            if self.precision == "32"
            else torch.autocast(module.device.type, dtype=_PRECISIONS[self.precision])
        )
        pieces = []
        with module.ema_weights(self.ema) if self.ema else module.present_weights(), autocast:
            for first in range(0, len(self.seeds), self.batch_size):
                part = slice(first, first + self.batch_size)
                pieces.append(self._batch(part, *begin(part)).cpu())
        x = torch.cat(pieces)
        ids = torch.cat([module.colours.tokens(piece) for piece in pieces])
        return TextSamples(
            [read_text(module, row) for row in ids.tolist()],
            ids,
            module.colours.decode(x),
            self.seeds,
            {**settings, **self._describe()},
            x,
        )

    def _batch(self, part: slice, condition: Condition, start: tuple[Tensor, float] | None) -> Tensor:
        module, seeds = self.module, self.seeds[part]
        labels = torch.zeros(len(seeds), dtype=torch.int64, device=module.device)

        def on_step(done: int, in_all: int, t: float, x: Tensor) -> None:
            if self.on_progress is not None:
                self.on_progress(part.start * in_all + len(seeds) * done, len(self.seeds) * in_all)

        asked = Condition(label=labels, known=condition.known, mask=condition.mask)
        with use_seeds(seeds), module.watch_sampling(on_step):
            x = module.generate_condition(asked, use_ema=False, start=start)
        wrong = int((~x.flatten(1).isfinite().all(dim=1)).sum())
        if wrong:
            # As colours they would look like ordinary tokens.
            raise DataError(f"{wrong} of {len(seeds)} samples hold NaN or infinity; the model has diverged")
        return x

    def _describe(self) -> dict[str, Any]:
        module = self.module
        return {
            "solver": module.sampling_method,
            "steps": module.num_sampling_steps,
            "churn": module.churn,
            "temperature": module.temperature,
            "time_shift": module.time_shift,
            "ema": self.ema,
            "precision": self.precision,
            "mapping": module.colours.mapping,
            "tokenizer": module.tokenizer.name,
            "device": module.device.type,
            "torch": torch.__version__,
        }


@contextmanager
def _sampling_settings(
    module: TextLightningModule,
    steps: int | None,
    solver: str | None,
    churn: float | None,
    temperature: float | None,
) -> Iterator[None]:
    """Replace the module's sampling settings where given, inside the block."""
    given = settings_from_words(steps=steps, solver=solver, churn=churn, temperature=temperature)
    with module.sampling(**given):
        yield


def _seeds_of(seeds: Sequence[int] | int, num: int) -> list[int]:
    chosen = list(range(seeds, seeds + num)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if len(chosen) != num:
        raise ConfigError(f"{len(chosen)} seeds were given for {num} texts; give one for each, or a number")
    return chosen


def _whole_image(module: TextLightningModule, text: str) -> list[int]:
    """Token ids of a text, its end and padding, as many as an image holds."""
    ids, room = [*module.tokenizer.encode(text), module.tokenizer.end_id], module.colours.num_tokens
    if len(ids) > room:
        raise ConfigError(f"a text has {len(ids)} tokens with its end and an image holds {room}; cut it into pieces")
    return ids + [module.tokenizer.pad_id] * (room - len(ids))
