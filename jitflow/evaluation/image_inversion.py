"""Invert images of a model: image, noise, and the image that the noise leads back to, with the error of the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from jitflow import pictures
from jitflow.codec.pixel import PixelCodec
from jitflow.core.inversion import clamp_times, invert
from jitflow.core.solver import integrate
from jitflow.core.times import time_grid
from jitflow.errors import ConfigError
from jitflow.io.files import atomic_path, write_json
from jitflow.model import Model, OnProgress

GRID_NAME, NOISE_NAME, RECORD_NAME = "grid.png", "noise.safetensors", "inversion.json"
_MOST_IN_GRID = 8


@dataclass(frozen=True)
class Inversion:
    """Images, their noise, and the images that it leads back to.

    Attributes:
        pixels: The images, shape ``(N, C, H, W)``, uint8.
        noise: States at the first time of the path, shape ``(N, C, H, W)``, float32.
        again: Images that the solver makes of them, shape ``(N, C, H, W)``, uint8.
        errors: Error of each image after the round in the model space, root mean square; the range of pixels is 2.
        residuals: Largest error of a single step, root mean square; above 0.001 its iteration has not converged.
        record: Settings, plain values.
    """

    pixels: Tensor
    noise: Tensor
    again: Tensor
    errors: list[float]
    residuals: list[float]
    record: dict[str, Any]

    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Write the images made again, a grid of some rounds, the noise, and the errors.

        Args:
            folder: Target folder; created if missing.
            names: Name of each image, without suffix.
        """
        for name, image in zip(names, self.again.numpy(), strict=True):
            pictures.save_image(pictures.to_image(image), folder / f"{name}.png")
        shown = slice(_MOST_IN_GRID)
        rows = [self.pixels[shown], self.noise_pixels()[shown], self.again[shown]]
        scale = pictures.display_scale(min(self.pixels.shape[2:]))
        columns = len(rows[0])
        captions = [caption for caption in ("image", "noise", "made again") for _ in range(columns)]
        grid = pictures.grid(torch.cat(rows).numpy(), columns=columns, scale=scale, captions=captions)
        pictures.save_image(grid, folder / GRID_NAME)
        with atomic_path(folder / NOISE_NAME) as temporary:
            save_file({"noise": self.noise.contiguous()}, temporary)
        each = {
            name: {"error": error, "residual": residual}
            for name, error, residual in zip(names, self.errors, self.residuals, strict=True)
        }
        write_json(folder / RECORD_NAME, {**self.record, "images": each})

    def noise_pixels(self) -> Tensor:
        """Return the noise as pictures, three standard deviations for the range of pixels, ``(N, C, H, W)``, uint8."""
        return PixelCodec((self.noise.shape[2], self.noise.shape[3]), self.noise.shape[1]).decode(self.noise / 3)


def check_invertible(model: Model) -> None:
    """Raise ConfigError if the model has latents, or a velocity that depends on earlier steps."""
    if not isinstance(model.module.codec, PixelCodec):
        raise ConfigError("jitflow invert takes models of pixels; this one has a codec of its own")
    if model.module.takes_hints:
        raise ConfigError("a self-conditioned network depends on earlier steps, so that a step has no inverse")


@torch.no_grad()
def invert_images(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    iterations: int = 20,
    batch_size: int = 64,
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> Inversion:
    """Find the noise of images by the solver's steps backwards, and make the images again from it.

    The path is clamped to ``[t_eps, 1 - t_eps]``: the image counts as the state at its end. The network runs in
    float32, since the iteration converges no further than its rounding.

    Args:
        model: A model of pixels; its first average of the weights is used, if it has one.
        pixels: Images, shape ``(N, C, H, W)``, uint8.
        labels: Label of each, shape ``(N,)``; ``num_classes`` means "any class".
        iterations: Most fixed-point iterations of a step.
        batch_size: Images at a time.
        on_progress: Called with (steps back done, total).
        settings: Sampling settings of :meth:`jitflow.model.Model.sample`; guidance is 1 by default, and the solver the
            model's own, but heun in place of multistep and consistency.

    Returns:
        Images, noise, images made again, and their errors.

    Raises:
        ConfigError: If the model has latents or a self-conditioned network, whose velocity depends on the steps before,
            or a setting is out of range or makes sampling stochastic.
    """
    check_invertible(model)
    module = model.module
    labels = module.check_labels(labels)
    ema = 1 if module.ema_params1 else 0
    ends = (module.t_eps, 1 - module.t_eps)
    batches = list(zip(pixels.split(batch_size), labels.split(batch_size), strict=True))
    parts: list[tuple[Tensor, ...]] = []
    # These have no inverse; a model that samples with one is inverted with the usual solver.
    own = {"solver": "heun"} if module.sampling_method in ("multistep", "consistency") else {}
    with module.sampling(**model.check_settings(**{"guidance": 1.0, **own, **settings})), model.use_weights(ema):
        if module.churn or module.sde:
            raise ConfigError("churn and sde make sampling random, so that it has no inverse; set both to 0")
        times = clamp_times(time_grid(module.num_sampling_steps, shift=module.time_shift), *ends)
        record = {**model.describe_sampling(), "ema": ema, "ends": list(ends), "iterations": iterations}
        for number, (images, classes) in enumerate(batches):

            def velocity(x: Tensor, t: Tensor, classes: Tensor = classes) -> Tensor:
                return module._forward_sample(x, t, classes)

            def on_step(done: int, total: int, t: float, x: Tensor, number: int = number) -> None:
                if on_progress is not None:
                    on_progress(number * total + done, len(batches) * total)

            x1 = module.codec.encode(images).to(module.device)
            found = invert(velocity, x1, times, solver=module.sampling_method, iterations=iterations, on_step=on_step)
            back = integrate(velocity, found.x, times, solver=module.sampling_method)
            error = (back - x1).flatten(1).square().mean(1).sqrt()
            parts.append((found.x, module.codec.decode(back), error, found.residual))
    noise, again, errors, residuals = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    return Inversion(pixels, noise, again, errors.tolist(), residuals.tolist(), record)
