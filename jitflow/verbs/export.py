"""The command ``export``: write a model to a folder, and upload it to a model hub."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from jitflow.verbs.commandline import run_command


@dataclass(frozen=True)
class CardOptions:
    """Report and licence for the model card.

    Attributes:
        report: Report of `jitflow evaluate` for the card; reports beside the checkpoint by default.
        license: Identifier of the weights' licence, such as cc-by-4.0.
    """

    report: str | None = None
    license: str = "unknown"


@dataclass(frozen=True)
class HubOptions:
    """Repository of a model hub to upload the model to.

    Attributes:
        push_to: Also upload the folder to this repository of a model hub, user/name; needs `hf auth login`.
        public: Make a newly created repository public.
    """

    push_to: str | None = None
    public: bool = False


def export(args: list[str]) -> None:
    """Export a checkpoint, ``jitflow export``."""
    run_command("export", _export, args)


def _export(
    checkpoint: str,
    target: str,
    format: Literal["safetensors", "torch_export", "diffusers"] = "safetensors",
    ema: Literal["0", "1", "2", "all"] = "1",
    vavae_path: str | None = None,
    dry_run: bool = False,
    card: CardOptions = CardOptions(),
    hub: HubOptions = HubOptions(),
) -> None:
    """Export a model with a model card: its weights, programs that need only torch, or a diffusers pipeline.

    Args:
        checkpoint: File to export, a run's folder, or hf://user/name for the model.safetensors of a model hub.
        target: Folder to create.
        format: safetensors for the weights, torch_export for programs, diffusers for a pipeline.
        ema: Average to export, 1 or 2; 0 for the weights themselves; all for every one of them in safetensors.
        vavae_path: File of the autoencoder that made the latents, if the checkpoint does not hold its codec.
        dry_run: Check and print what would be written, and write nothing.
        card: Report and licence for the model card.
        hub: Repository to upload the folder to.
    """
    from jitflow.export.export import export as export_model
    from jitflow.export.hub import PREFIX, check_repository, pull, push

    if hub.push_to is not None:
        check_repository(hub.push_to)
    console = Console(markup=False, stderr=True, soft_wrap=True)
    with tempfile.TemporaryDirectory() as scratch, console.status(f"exporting {checkpoint} as {format}"):
        source = pull(checkpoint, scratch) if checkpoint.startswith(PREFIX) else checkpoint
        folder = export_model(
            source,
            target,
            format=format,
            ema=ema if ema == "all" else int(ema),
            vavae_path=vavae_path,
            report=card.report,
            license=card.license,
            dry_run=dry_run,
        )
    console.print(f"would export to {folder}" if dry_run else f"{folder}: see its README.md")
    if hub.push_to is not None:
        if dry_run:
            console.print(f"would upload it to {hub.push_to}")
            return
        with console.status(f"uploading to {hub.push_to}"):
            address = push(folder, hub.push_to, private=not hub.public)
        console.print(f"uploaded to {address}; jitflow export {address} FOLDER fetches it")
