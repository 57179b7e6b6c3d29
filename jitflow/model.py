"""Load a trained model of any application and sample from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow.applications import get_application, load_object
from jitflow.checkpoint.find import find_model
from jitflow.checkpoint.load import load_module
from jitflow.checkpoint.weaker import load_weaker_model
from jitflow.core.condition import Condition
from jitflow.core.path import interpolate
from jitflow.core.seeding import noise_from_seeds, use_seeds
from jitflow.core.solver import get_solver
from jitflow.errors import CheckpointError, ConfigError, DataError, check_count
from jitflow.host import allow_tf32
from jitflow.layers.fusion import runs_kernels
from jitflow.layers.transformer import AdaLNTransformer
from jitflow.training.application import Application
from jitflow.training.asked import Asked, Labels
from jitflow.training.compiled import is_launch_bound
from jitflow.training.module import FlowModule
from jitflow.training.posthoc_ema import reconstruct_ema
from jitflow.training.precision import AUTO, autocast, resolve_precision
from jitflow.training.samples import Samples
from jitflow.training.sampling_settings import FURTHER_WORDS, settings_from_words
from jitflow.training.trained_on import spaces_entry

log = logging.getLogger(__name__)
OnProgress = Callable[[int, int], None]
BUILTIN = "builtin"
# Evaluations of a small network whose launches take about as long as compiling it, by an estimate.
_MANY_EVALUATIONS = 3000
# Settings that a record of samples has only where they differ from these.
_UNUSUAL = {
    "sde": 0.0,
    "guidance_rule": "cfg",
    "apg_eta": 0.0,
    "apg_norm": 0.0,
    "apg_momentum": 0.0,
    "internal_guidance": 1.0,
    "guide_by": "all",
}


class Model:
    """A trained model, ready to sample.

    Args:
        module: The module with its weights.
        source: Origin of the model, for the settings file.
    """

    def __init__(self, module: FlowModule, *, source: str | Path | None = None) -> None:
        self.module = module
        self.source = str(source) if source is not None else None
        # Whether the network is compiled; None if it is not, but may be.
        self._compiled: bool | None = None
        self._weaker: dict[str, FlowModule] = {}
        self.snapshots = _find_snapshots(Path(source)) if source is not None else None

    @cached_property
    def application(self) -> Application:
        """The application of the module's class; for a user's own class, a generic one from labels to pixels."""
        name = self.module.application
        return get_application(name) if name else Application(name="", module=type(self.module))

    def to(self, device: str | torch.device) -> Model:
        """Move the model to a device and return it; raise ConfigError if this machine has no such device.

        On CUDA the float32 matrix products of this process then run in TF32 (:func:`jitflow.host.allow_tf32`).
        """
        try:
            self.module.to(device)
            self.module.codec.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device {device} cannot be used here ({str(error).splitlines()[0]})") from None
        if self.module.device.type == "cuda":
            allow_tf32()
        return self

    def compile(self, whole: bool = True) -> Model:
        """Compile the network for sampling with ``torch.compile``, and return the model.

        The first samples wait for the compiler; then a step has fewer and larger kernels. Another batch size compiles
        again; samples agree with the plain network's up to rounding.

        Args:
            whole: False compiles nothing, whatever would be worth it.
        """
        self._compiled = whole
        if whole:
            net = self.module.net
            if isinstance(net, AdaLNTransformer):
                # Else its blocks would be compiled by themselves as well.
                net.compile_parts(False)
            net.compile(dynamic=False)
        return self

    def compile_for(self, num: int, batch_size: int) -> Model:
        """Compile the network if drawing so many samples repays it, and return the model.

        That is where a GPU waits for launches: there a CUDA graph is several times faster. A large network keeps the
        GPU busy without one. Nothing happens on a CPU, or after :meth:`compile`.

        Args:
            num: Samples to draw, with the model's own solver and steps.
            batch_size: Samples at a time.
        """
        module = self.module
        evaluations = get_solver(module.sampling_method).num_evaluations(module.num_sampling_steps)
        is_long = evaluations * -(-num // batch_size) >= _MANY_EVALUATIONS
        if self._compiled is None and module.device.type == "cuda" and is_long:
            is_worth = runs_kernels() and is_launch_bound(module.net, batch_size, passes=1)
            return self.compile() if is_worth else self
        return self

    def ask(self, labels: Labels | None = None, **asked: Any) -> Asked:
        """Validate a call of :meth:`sample` and return the samples it asks for, without generating them.

        Args:
            labels: As in :meth:`sample`.
            asked: As in :meth:`sample`.

        Raises:
            ConfigError: If the application does not take an argument, or the model cannot generate these samples.
        """
        found: Asked = load_object(self.application.condition)(self.module, labels=labels, **asked)
        return found

    def sample(
        self,
        labels: Labels | None = None,
        seeds: Sequence[int] | int = 0,
        *,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
        solver: str | None = None,
        steps: int | None = None,
        time_shift: float | None = None,
        churn: float | None = None,
        temperature: float | None = None,
        ema: float | None = None,
        batch_size: int = 64,
        precision: str = AUTO,
        on_progress: OnProgress | None = None,
        **asked: Any,
    ) -> Samples:
        """Generate samples. A setting that is ``None`` takes the model's own. Threads may share a model.

        Args:
            labels: Label of each sample, as number or name, or text such as ``"0,3,7-9"``, ``"cat,dog"`` or ``"all"``;
                None for every class.
            seeds: A seed for each sample, or the first of consecutive ones. A seed determines a
                sample whatever the batch size.
            guidance: Guidance scale; 1 for none.
            interval: Times (low, high) between which guidance acts.
            solver: ``euler``, ``heun``, ``midpoint``, ``multistep`` or ``consistency``.
            steps: Steps of the solver.
            time_shift: Above 1 puts more steps near the noise, below 1 near the data; 1 spaces them evenly.
            churn: Amount of noise re-added before each step, in steps; 0 is deterministic.
            temperature: Divides log-probabilities; below 1 favours likely tokens. Only for models that have
                probabilities.
            ema: Which average of the weights to use, 1 or 2; 0 for the weights themselves; between 0 and 1 a
                relative width, such as 0.1, for an average reconstructed from the run's snapshots. None takes 1 if
                    there is one.
            batch_size: Samples per batch.
            precision: ``"32"``, ``"bf16"`` or ``"16"`` inside the network; the state stays in float32. ``"auto"`` is
                bf16 on a GPU that computes in bfloat16, and 32 elsewhere.
            on_progress: Called with (sample steps done, total sample steps).
            asked: Further settings of sampling, such as ``sde``; ``num``, samples of each label; and the application's
                own arguments: for images ``source``, a folder or pixels to carry over; ``users`` for micro-Doppler;
                ``conditions`` by name, such as ``{"activity": "run", "speed": 1.4}``, for a model that has them;
                ``prompt``, or ``texts`` with ``start_time``, for text.

        Returns:
            The samples, with methods to save them.

        Raises:
            ConfigError: If a setting is out of range, or the application does not take an argument.
            DataError: If a sample is not finite.
        """
        further = {name: asked.pop(name) for name in FURTHER_WORDS if name in asked}
        wanted = self.ask(labels, **asked)
        chosen = _seeds_of(seeds, len(wanted), wanted.unit)
        check_count("batch_size", batch_size)
        module = self.module
        precision = resolve_precision(precision, module.device)
        if ema is None and not module.ema_params1:
            log.warning("this model has no EMA; sampling from its weights")
        ema = (1 if module.ema_params1 else 0) if ema is None else ema
        self.check_ema(ema)
        named = {"guidance": guidance, "interval": interval, "solver": solver, "steps": steps, "time_shift": time_shift}
        given = self.check_settings(**named, churn=churn, temperature=temperature, **further)
        parts: list[Samples] = []
        with module.sampling(**given), self.use_weights(ema):
            settings = {**self.describe_sampling(), **wanted.record, "ema": ema, "precision": precision}
            if "autoguide" in further:
                settings["autoguide"] = str(further["autoguide"])
            for start in range(0, len(wanted), batch_size):
                part = slice(start, start + batch_size)
                x = self._sample_batch(wanted, chosen, part, precision, on_progress)
                parts.append(load_object(self.application.present)(module, x, wanted.part(part), chosen[part]))
        return type(parts[0]).join(parts, settings)

    def check_settings(self, **words: Any) -> dict[str, Any]:
        """Validate sampling settings and return them by the module's names.

        Args:
            words: ``guidance`` to ``temperature`` of :meth:`sample`, and its further settings.

        Raises:
            ConfigError: If one is out of range, or does not apply to the model.
        """
        weak = words.pop("autoguide", None)
        given = settings_from_words(**words)
        if weak is not None:
            if str(weak) not in self._weaker:
                self._weaker[str(weak)] = load_weaker_model(weak, self.module)
            given["weak"] = self._weaker[str(weak)]
        with self.module.sampling(**given):
            self.module.check_guidance()
            return given

    def check_ema(self, ema: float) -> None:
        """Raise ConfigError unless the model has this average of the weights; a score must not silently use another.

        After the training, an average that still holds much of the weights that it started from is logged.
        """
        if ema in (1, 2):
            self.module.ema_parameters(int(ema))
            if not self.module.is_in_training:
                self.module.warn_of_start(int(ema))
        elif not 0 <= ema < 1:
            raise ConfigError(f"ema must be 0, 1, 2, or a width between 0 and 1; got {ema:g}")
        elif ema and self.snapshots is None:
            raise ConfigError(
                f"ema={ema:g} asks for an average made after training, but there is no ema_snapshots folder"
            )

    @contextmanager
    def use_weights(self, ema: float) -> Iterator[None]:
        """Use an average of the weights inside the ``with`` block; for ``ema`` see :meth:`sample`."""
        if ema == 0:
            with self.module.present_weights():
                yield
        elif 0 < ema < 1 and self.snapshots is not None:
            with self.module.other_weights(reconstruct_ema(self.snapshots, ema)):
                yield
        else:
            with self.module.ema_weights(int(ema)):
                yield

    def describe_sampling(self) -> dict[str, Any]:
        """Return the sampling settings of the current call as plain values, by the argument names of :meth:`sample`."""
        module = self.module
        described = {
            "checkpoint": self.source,
            "guidance": module.cfg_scale,
            "interval": list(module.cfg_interval),
            "solver": module.sampling_method,
            "steps": module.num_sampling_steps,
            "time_shift": module.time_shift,
            "churn": module.churn,
            **{name: getattr(module, name) for name, usual in _UNUSUAL.items() if getattr(module, name) != usual},
            "network_evaluations": get_solver(module.sampling_method).num_evaluations(module.num_sampling_steps),
            "device": module.device.type,
            "torch": torch.__version__,
            **spaces_entry(module.trained_on),
        }
        return {**described, "temperature": module.temperature} if module.takes_temperature else described

    def _sample_batch(
        self, wanted: Asked, seeds: list[int], index: slice, precision: str, on_progress: OnProgress | None
    ) -> Tensor:
        """Generate a batch of samples in the model space, shape ``(B, *S)``."""
        module, part = self.module, wanted.part(index)
        size = len(part)

        def on_step(done: int, total: int, t: float, x: Tensor) -> None:
            if on_progress is not None:
                on_progress(index.start * total + size * done, len(wanted) * total)

        asked, start = _on_device(part.condition, module.device), None
        if part.start is not None:
            noise = module.noise_scale * noise_from_seeds(module.codec.shape, seeds[index])
            clean, t = part.start
            start = interpolate(noise, clean.to(noise), torch.full((size,), t)), t
        elif part.origin is not None:
            start = part.origin.to(module.device), 0.0
        with use_seeds(seeds[index]), module.watch_sampling(on_step), autocast(precision, module.device):
            if asked.known is None and start is None:
                assert asked.label is not None
                # A smaller last batch is filled up, so that a compiled network has no other shape to compile.
                fill = index.stop - len(wanted) if self._compiled and index.start else 0
                x = self._generate(asked.label, seeds[index], fill=max(0, fill))
            else:
                x = module.generate_condition(asked, use_ema=False, start=start)
        wrong = int((~x.flatten(1).isfinite().all(dim=1)).sum())
        if wrong:
            # In uint8, NaN would look like ordinary pixels.
            raise DataError(f"{wrong} of {size} samples hold NaN or infinity; the model has diverged")
        return x

    def _generate(self, labels: Tensor, seeds: Sequence[int], *, fill: int) -> Tensor:
        """Call the method that users override, with ``fill`` further samples that are left out of the result."""
        with use_seeds([*seeds, *[seeds[-1]] * fill]):
            filled = torch.cat([labels, labels[-1:].expand(fill, *labels.shape[1:])])
            x = self.module.generate(filled, use_ema=False)
        return x[: len(labels)]


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    module_class: type[FlowModule] | None = None,
    application: str | None = None,
    vavae_path: str | Path = BUILTIN,
) -> Model:
    """Load a trained model of any application.

    Args:
        path: A checkpoint file, or a run's folder for its best checkpoint, else its last.
        device: Device of the model; by default a GPU if there is one.
        module_class: Class of the module, if you trained your own subclass. By default that of the application in the
            file; no other class is loaded from a file, which could name any code.
        application: Name of the application that the model must have; any by default.
        vavae_path: The autoencoder that made the latents of a latent model, a file or the folder of a diffusers one;
            ``builtin`` for the codec inside the checkpoint.

    Returns:
        The model; ``load(path).sample(labels=[3, 7], seeds=[0, 1], guidance=2.0, steps=50).images()``.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be loaded completely, or is of another application.
        ConfigError: If the autoencoder is not the one that made the latents, or the model takes none.
    """
    path = find_model(path)
    module = load_module(path, module_class=module_class)
    if application is not None and module.application != application:
        raise CheckpointError(
            f"{path} is not a model of {application}; it is of {module.application or 'another class'} "
            f"({type(module).__name__})"
        )
    if str(vavae_path) != BUILTIN:
        module.load_codec(vavae_path)
    return Model(module, source=path).to(device or default_device())


def _find_snapshots(checkpoint: Path) -> Path | None:
    """Find the folder of a run's EMA snapshots: beside its checkpoint, or beside the checkpoint folder."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / "ema_snapshots").is_dir():
            return folder / "ema_snapshots"
    return None


def default_device() -> str:
    """Return the name of this machine's fastest device: ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _seeds_of(seeds: Sequence[int] | int, num: int, unit: str) -> list[int]:
    chosen = list(range(seeds, seeds + num)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if len(chosen) != num:
        raise ConfigError(f"{len(chosen)} seeds were given for {num} {unit}; give one for each, or a number")
    return chosen


def _on_device(condition: Condition, device: torch.device) -> Condition:
    parts = (condition.label, condition.known, condition.mask)
    return Condition(*(None if part is None else part.to(device) for part in parts))
