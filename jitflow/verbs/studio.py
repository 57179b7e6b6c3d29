"""The command ``studio``: serve a web page on this machine to sample from checkpoints."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from dataclasses import dataclass

from jitflow.errors import ConfigError
from jitflow.verbs.commandline import run_command

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerOptions:
    """Host and port of the studio's web server for sampling from checkpoints.

    Attributes:
        host: Address to listen on; by default only this machine can reach the page.
        port: Port; the first free one from 7860 by default.
    """

    host: str = "127.0.0.1"
    port: int | None = None


def studio(args: list[str]) -> None:
    """Open the studio for checkpoints, ``jitflow studio``."""
    run_command("studio", _studio, args)


def _studio(
    checkpoints: list[str],
    device: str | None = None,
    vavae_path: str = "builtin",
    server: ServerOptions = ServerOptions(),
) -> None:
    """Open a page to sample from checkpoints, on this machine; nothing is sent anywhere. Ctrl-C ends it.

    Checkpoints are named after the verb, such as ``jitflow studio runs/a/checkpoints/last.ckpt b.safetensors``.

    Args:
        checkpoints: Files to choose from.
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
        vavae_path: The autoencoder that latent models need, or builtin for the codec inside the checkpoint.
        server: Host and port of the page.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError('the studio needs gradio, which is not installed; pip install "jitflow[studio]"')
    with tempfile.TemporaryDirectory(prefix="jitflow-studio-") as drawings:
        # gradio reads these when imported: without them it sends usage statistics, checks for newer versions,
        # and keeps every picture.
        os.environ.update(
            GRADIO_ANALYTICS_ENABLED="False",
            GRADIO_TEMP_DIR=drawings,
            HF_HUB_OFFLINE="1",
            HF_HUB_DISABLE_TELEMETRY="1",
        )
        _serve(checkpoints, server.host, server.port, device, vavae_path)


def _serve(checkpoints: list[str], host: str, port: int | None, device: str | None, vavae_path: str) -> None:
    from jitflow.studio.library import Library
    from jitflow.studio.own_host import LOOPBACK
    from jitflow.studio.page import build_page, launch_options
    from jitflow.studio.sessions import Sessions

    sessions = Sessions()
    page = build_page(Library(checkpoints, device=device, vavae_path=vavae_path), sessions)
    if host not in LOOPBACK:
        log.warning("the page listens on %s: everyone who can reach this address can draw samples here", host)
    try:
        _, address, _ = page.launch(**launch_options(host=host, port=port, sessions=sessions), prevent_thread_lock=True)
    except OSError as error:
        raise ConfigError(f"the page cannot listen on {host}:{port or 7860} ({error}); choose another --port") from None
    log.info("studio at %s (Ctrl-C ends it)", address)
    page.block_thread()
