"""The command ``invert``: find the noise of images, and make the images again from it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jitflow.errors import ConfigError, check_count
from jitflow.training.sections import ComputeOptions, SamplingOptions
from jitflow.verbs.commandline import run_command

# Largest error of a step, root mean square in the model space, that counts as converged.
_CONVERGED = 1e-3


def invert(args: list[str]) -> None:
    """Invert images, ``jitflow invert``."""
    run_command("invert", _invert, args)


def _invert(
    checkpoint: str,
    folder: str,
    labels: str | None = None,
    iterations: int = 20,
    out: str = "outputs/inverted",
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 (frozen)
    compute: ComputeOptions = ComputeOptions(),  # noqa: B008 (frozen)
) -> None:
    """Find the noise that a model's solver carries to given images, and make the images again from it.

    The solver runs backwards, each step by a fixed-point iteration, on a path clamped at both ends. Writes the images
    made again, a grid of image, noise and image, the noise as noise.safetensors, and inversion.json with the errors.

    Args:
        checkpoint: File to load, or a run's folder for its best checkpoint, else its last.
        folder: Folder of images; their centres are cropped to the model's size.
        labels: Class of the images, one for all or one for each in the order of their names, such as cat or 0,3,7-9;
            "any class" by default.
        iterations: Most fixed-point iterations of a step.
        out: Folder of the results; a numbered one beside it, such as inverted-2, if it holds pictures already.
        sampling: The solver and its steps; the model's own by default, with guidance 1, and heun in place of multistep
            and consistency.
        compute: Device and batch size.
    """
    check_count("--iterations", iterations)
    check_count("--batch_size", compute.batch_size)
    settings = sampling.settings()

    import torch

    from jitflow.evaluation.image_inversion import check_invertible, invert_images
    from jitflow.evaluation.reference import ImageFiles
    from jitflow.io.files import writable_folder
    from jitflow.io.progress import meter
    from jitflow.io.results_folder import free_folder, holds_pictures
    from jitflow.model import load

    model = load(checkpoint, device=compute.device)
    check_invertible(model)
    channels, *size = model.module.codec.shape
    files = ImageFiles(folder, (size[0], size[1]), channels)
    any_class = [model.module.num_classes]
    chosen = any_class if labels is None else model.ask(labels).labels
    if len(chosen) not in (1, len(files)):
        raise ConfigError(f"{len(chosen)} labels were given for {len(files)} images; give one, or one for each")
    chosen = chosen * len(files) if len(chosen) == 1 else chosen
    target = writable_folder(free_folder(out, holds_pictures))
    pixels = torch.stack([files[i] for i in range(len(files))])
    with meter("inverting", len(files)) as progress:
        found = invert_images(
            model,
            pixels,
            torch.tensor(chosen),
            batch_size=compute.batch_size,
            iterations=iterations,
            on_progress=progress.update_share,
            **settings,
        )
    names = [f"{i:06d}_{Path(file).stem}" for i, file in enumerate(files.files)]
    found.save(target, names)
    table = Table("image", "error of the round (rms, pixels from -1 to 1)", "largest error of a step")
    for name, error, residual in zip(names, found.errors, found.residuals, strict=True):
        table.add_row(name, f"{error:.2e}", f"{residual:.2e}")
    Console(markup=False, soft_wrap=True).print(table)
    messages = Console(markup=False, stderr=True, soft_wrap=True)
    unfinished = sum(residual > _CONVERGED for residual in found.residuals)
    if unfinished:
        messages.print(
            f"{unfinished} of {len(files)} inversions did not converge; take more --steps, more --iterations, or "
            "guidance 1",
            markup=False,
        )
    messages.print(f"{len(files)} images in {target} (see {target / 'grid.png'})", markup=False)
