"""Diffusers pipeline of an exported model. Only exported folders import it; it needs diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from jitflow import pictures
from jitflow.checkpoint.load import load_module
from jitflow.core.condition import Condition
from jitflow.errors import ConfigError
from jitflow.model import Model
from jitflow.training.module import FlowModule
from jitflow.training.sampling_settings import settings_from_words

WEIGHTS_NAME = "model.safetensors"
CODEC_NAME = "codec.safetensors"
_OUTPUTS = ("pil", "np", "pt")


class JitflowModel(ModelMixin):
    """Diffusers component that wraps a trained module.

    Args:
        module: The module; sampling uses its weights, not an average.
    """

    def __init__(self, module: FlowModule) -> None:
        super().__init__()
        self.module = module

    @classmethod
    def from_pretrained(cls, path: str | Path, *, torch_dtype: torch.dtype | None = None, **_: Any) -> JitflowModel:
        """Load the model component from its folder.

        Args:
            path: Folder with ``model.safetensors`` and, for latents of an autoencoder, ``codec.safetensors``.
            torch_dtype: Precision of the network; the state stays in float32.
            _: Arguments that diffusers passes for its own models; ignored.

        Returns:
            The component, in evaluation mode, on the CPU.
        """
        folder = Path(path)
        module = load_module(folder / WEIGHTS_NAME)
        if module.takes_codec_file and (folder / CODEC_NAME).is_file():
            module.load_codec(folder / CODEC_NAME)
        if torch_dtype is not None:
            module.net.to(torch_dtype)
        return cls(module).eval()


class JitflowPipeline(DiffusionPipeline):
    """Flow-matching sampler with the interface of a diffusers pipeline.

    Args:
        model: The trained model.
    """

    model: JitflowModel

    def __init__(self, model: JitflowModel) -> None:
        super().__init__()
        self.register_modules(model=model)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | Tensor | None = None,
        *,
        user_ids: Sequence[int | str] | None = None,
        conditions: str | Mapping[str, Any] | None = None,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        interval: tuple[float, float] | None = None,
        solver: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate one image for each label. A setting that is None takes the model's own.

        Args:
            class_labels: Classes, as numbers from 0 or names.
            user_ids: User ids of the data set, or names, in place of labels, for a user-conditioned model.
            conditions: Named conditions, such as ``{"activity": "run", "speed": 1.4}``, of a model that has them.
            seeds: A seed for each image; gives the same images as ``jitflow sample``.
            generator: In place of seeds, one for all images or one for each.
            num_inference_steps: Steps of the solver.
            guidance_scale: Guidance scale; 1 for none.
            interval: Times (low, high) between which guidance acts.
            solver: ``euler``, ``heun``, ``midpoint``, ``multistep`` or ``consistency``.
            output_type: ``pil``; ``np``, shape ``(B, H, W, C)`` in [0, 1]; or ``pt``, ``(B, C, H, W)`` in [0, 1].
            return_dict: Return an object with ``images`` instead of a tuple.

        Returns:
            The images.

        Raises:
            ConfigError: If an argument is out of range or two contradict each other.
        """
        if output_type not in _OUTPUTS:
            raise ConfigError(f"output_type must be one of {', '.join(_OUTPUTS)}; got {output_type!r}")
        module = self.model.module
        labels = self._labels(class_labels, user_ids, conditions).to(module.device)
        if seeds is not None:
            if generator is not None:
                raise ConfigError("seeds and generator both name the noise; give one of them")
            if len(seeds) != len(labels):
                raise ConfigError(f"{len(seeds)} seeds were given for {len(labels)} images; give one for each")
            generator = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        noise = randn_tensor((len(labels), *module.codec.shape), generator=generator, device=module.device)
        module.codec.to(module.device)
        given = settings_from_words(
            guidance=guidance_scale, interval=interval, solver=solver, steps=num_inference_steps
        )
        with (
            module.sampling(**given),
            self.progress_bar(total=module.num_sampling_steps) as bar,
            module.watch_sampling(lambda *_: bar.update()),
        ):
            # The weights are already an average.
            x = module.generate_condition(
                Condition(label=labels), use_ema=False, start=(module.noise_scale * noise, 0.0)
            )
        images = _output(module.codec.decode(x).cpu(), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(
        self,
        class_labels: int | str | Sequence[int | str] | Tensor | None,
        user_ids: Sequence[int | str] | None,
        conditions: str | Mapping[str, Any] | None,
    ) -> Tensor:
        if (class_labels is None) == (user_ids is None):
            raise ConfigError("say what to draw: class_labels or user_ids, one of them")
        asked: dict[str, Any] = {} if user_ids is None else {"users": list(user_ids)}
        if class_labels is not None:
            one = isinstance(class_labels, (int, Tensor))
            asked["labels"] = torch.as_tensor(class_labels).reshape(-1) if one else class_labels
        if conditions is not None:
            asked["conditions"] = conditions
        labels = Model(self.model.module).ask(**asked).condition.label
        assert labels is not None
        return labels


def _output(pixels: Tensor, kind: str) -> Any:
    """Convert pixels, shape ``(B, C, H, W)``, uint8, to a diffusers output type."""
    if kind == "pil":
        return [pictures.to_image(p) for p in pixels.numpy()]
    unit = pixels.float() / 255
    return unit if kind == "pt" else np.ascontiguousarray(unit.permute(0, 2, 3, 1).numpy())
