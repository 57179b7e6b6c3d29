"""A folder that looks like a checkout to a reader of the pages, and what executes their blocks in it."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from pages import ROOT, Block, Page, commands_of, replaced

from jitflow.apps.microdoppler.gait import write_dataset
from jitflow.cli import main
from jitflow.run import fit
from jitflow.verbs import demo

# What the pages use of a checkout.
_LINKED = (
    "benchmarks", "docs", "examples", "example_usage.py", "train.py", "train.sh", "run_complete_pipeline.py",
    "stage1_extract_features.py", "stage2_train_dit.py", "stage3_inference.py",
)  # fmt: skip


def make_checkout(folder: Path, page: Page, images: Path | None) -> None:
    """Fill a folder with a checkout's scripts, checkpoints of both releases and, if a page uses it, the demo's run."""
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "tests" / "reference" / "jit_tiny_checkpoint-last.pth", folder / "checkpoint-last.pth")
    shutil.copy(ROOT / "tests" / "reference" / "lightningdit_tiny_ckpt.pt", folder / "lightningdit.pt")
    if page.texts:
        (folder / "data" / "train").mkdir(parents=True)
        for path in sorted((ROOT / "docs").glob("*.md"))[:8]:
            shutil.copy(path, folder / "data" / "train" / f"{path.stem}.txt")
    if page.users:
        write_dataset(folder / "data_split", num_users=2, images_per_user=10, min_cadence_gap=0.1)
    if images is not None:
        shutil.copytree(images, folder / "runs" / "demo" / "images", symlinks=True)


def quicken(patch: pytest.MonkeyPatch, page: Page) -> None:
    """Let the demos train for two epochs, and write the report of a training where the page leaves one.

    What their commands do is the same; what they draw is not readable.
    """
    patch.setattr(demo, "run_demo", partial(demo.run_demo, quick=True))
    if not any(name.endswith("report.html") for name in page.leaves):
        for module in (fit, demo):
            patch.setattr(module, "write_final_report", lambda folder: None)


def execute(block: Block, page: Page, names: dict[str, Any]) -> None:
    """Run a block in the working folder."""
    if any(part in block.code and find_spec(package) is None for part, package in page.needs.items()):
        return
    if block.language == "yaml":
        name = re.match(r"# (\S+\.yaml)\n", block.code)
        assert name, f"{block.page}: the first line of a file must name it, such as `# mine.yaml`"
        Path(name[1]).write_text(replaced(block, page), encoding="utf-8")
        return
    if block.language == "python":
        with _silent_trainers(), pytest.MonkeyPatch.context() as patch:
            if "diffusers" in block.code:
                # It copies the code of a pipeline into the user's cache.
                patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(Path("modules").resolve()))
            exec(compile(replaced(block, page), f"<{block}>", "exec"), names)
        return
    for words in commands_of(block, page):
        with _environment(words, page.variables) as command:
            status = _run(command)
        assert status == 0, f"{block.page}: {' '.join(words)} ended with {status}"


@contextmanager
def _silent_trainers() -> Iterator[None]:
    """Switch bars and summaries of Lightning off: of many short runs they would only fill the log."""
    init = Trainer.__init__

    def quiet(self: Trainer, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **{"enable_progress_bar": False, "enable_model_summary": False, **kwargs})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", quiet)
        yield


def _run(words: list[str]) -> int:
    program, *rest = words
    if program == "jitflow":
        return main(rest)
    if program == "python":
        return _script(rest)
    if program.startswith("./"):
        return subprocess.run(words, timeout=240).returncode
    raise AssertionError(f"{program} is not run here; a block with it needs a line *Not run by the tests: why.*")


def _script(words: list[str]) -> int:
    """Run a script in this process: importing torch again for each would take longer than most of them."""
    before, sys.argv = sys.argv, words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0) if not isinstance(end.code, str) else 1
    finally:
        sys.argv = before
    return 0


@contextmanager
def _environment(words: list[str], variables: dict[str, str]) -> Iterator[list[str]]:
    """Set the page's variables and those in front of a command, as a shell does; yields the command."""
    count = next(i for i, word in enumerate(words) if "=" not in word or word.startswith("-"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, **dict(word.split("=", 1) for word in words[:count])}.items():
            patch.setenv(name, value)
        # Scripts take the first python that they find.
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield words[count:]
