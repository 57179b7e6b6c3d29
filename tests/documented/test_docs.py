"""The pages of ``docs/``: every python block runs, every command works, every table of arguments is true."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest

from jitflow.cli import VERBS, main

ROOT = Path(__file__).parents[2]
PAGES = sorted(p.name for p in (ROOT / "docs").glob("*.md"))
WRITTEN = {
    "callbacks.md",
    "coming_from_jit.md",
    "data_module.md",
    "exporting.md",
    "model_module.md",
    "quick_start.md",
    "time_conventions.md",
    "troubleshooting.md",
}
# Pages whose blocks are not executed from their text: every block says so itself, or here is what does its work.
ELSEWHERE = {
    "evaluation.md": "tests/integration/test_evaluate.py",
    "gait_simulator.md": "tests/unit/data/test_gait_dataset.py",
    "microdoppler.md": "tests/integration/test_microdoppler.py",
    "preparing_data.md": "tests/integration/test_data_prepare.py",
    "text_as_colour.md": "tests/integration/test_text_train.py",
}
# A block with this comment on the line above is shown to readers and not executed.
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def fenced(name, language):
    """Return the blocks of a page that are to be executed."""
    found = _BLOCK.finditer(page(name))
    return [block["code"] for block in found if block["language"] == language and not block["reason"]]


def marked():
    """Every block that carries a marker: page, its first line, the reason."""
    for name in PAGES:
        for block in _BLOCK.finditer(page(name)):
            if block["reason"]:
                yield pytest.param(name, block["reason"], id=f"{name}: {block['code'].splitlines()[0]}")


@pytest.mark.parametrize(("name", "reason"), list(marked()))
def test_a_block_that_is_not_run_says_why(name, reason):
    """With ``-v`` this lists them all."""
    assert len(reason.split()) >= 3, f"{name}: give the reason in words"


@pytest.mark.parametrize("name", sorted(set(PAGES) - WRITTEN))
def test_every_other_page_is_marked_or_run_elsewhere(name):
    if name in ELSEWHERE:
        assert (ROOT / ELSEWHERE[name]).is_file()
        return
    unmarked = [block["code"].splitlines()[0] for block in _BLOCK.finditer(page(name)) if not block["reason"]]
    assert not unmarked, f"{name}: add it to WRITTEN, or a line above the block: <!-- not run: reason -->"


@pytest.mark.parametrize("name", PAGES)
def test_commands_name_verbs_that_exist(name):
    for block in _BLOCK.finditer(page(name)):
        lines = block["code"].replace("\\\n", " ").splitlines() if block["language"] == "bash" else []
        for words in (line.split() for line in lines if line.startswith("jitflow ")):
            assert words[1] in VERBS or words[1].startswith("-"), f"{name}: {' '.join(words)}"


def commands(name):
    return [line for block in fenced(name, "bash") for line in block.splitlines() if line.startswith("jitflow ")]


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_python_of_a_page(name, names, monkeypatch):
    # Nothing but silence is changed: a bar for each of many short runs would only fill the log.
    monkeypatch.setattr("lightning.pytorch.trainer.trainer.Trainer.__init__", silent(pl.Trainer.__init__))
    shutil.copy(ROOT / "tests" / "reference" / "jit_tiny_checkpoint-last.pth", "checkpoint-last.pth")
    blocks = fenced(name, "python")
    assert blocks or any(block["language"] == "python" or commands(name) for block in _BLOCK.finditer(page(name)))
    # One namespace, as for a reader who follows the page.
    for number, code in enumerate(blocks, start=1):
        exec(compile(code, f"<{name} {number}>", "exec"), names)


def silent(init):
    def quiet(self, *args, **kwargs):
        init(self, *args, **{"enable_progress_bar": False, "enable_model_summary": False, **kwargs})

    return quiet


def test_commands_of_the_pages(names, capfd):
    shutil.copy(ROOT / "tests" / "reference" / "jit_tiny_checkpoint-last.pth", "checkpoint-last.pth")
    tried = [command for name in sorted(WRITTEN) for command in commands(name)]
    assert len(tried) >= 8
    for command in tried:
        words = shlex.split(command)[1:]
        if words[0] == "train":
            # The folder of the test holds 32 images.
            words += ["--data.batch_size", "8"] + ["--dry_run"] * ("--dry_run" not in words)
        assert main(words) == 0, f"{command}: {capfd.readouterr().err}"
    assert len(list(Path("outputs/samples").glob("*_class*_seed*.png"))) == 10
    assert all(Path(p).is_file() for p in ("run.ckpt", "back.pth", "model.safetensors", "fid_stats/mine.npz"))
    assert Path("outputs/evaluation/report.json").is_file()
    assert Path("outputs/exported_weights/model.safetensors").is_file()
    assert Path("outputs/exported_program/velocity.pt2").is_file()


def arguments_in(text):
    """Rows of the tables of arguments: name and default, several in one row taken apart."""
    found = {}
    for names, defaults in re.findall(
        r"^\| ((?:`\w+`(?:, )?)+)(?: \(by name\))? \| ((?:`[^|]*`)) \|", text, re.MULTILINE
    ):
        names, defaults = re.findall(r"`(\w+)`", names), re.findall(r"`([^`]*)`", defaults)
        assert len(names) == len(defaults), names
        found.update(zip(names, defaults, strict=True))
    return found


@pytest.mark.parametrize(
    ("name", "heading", "target"),
    [
        ("model_module.md", "Make one", "models.modelmodule:JiTLightningModule"),
        ("data_module.md", "Make one", "datas.datamodule:JiTDataModule"),
        ("callbacks.md", "All of them in one call", "callbacks:create_default_callbacks"),
        ("callbacks.md", "EMACallback", "callbacks:EMACallback"),
        ("callbacks.md", "JiTModelCheckpoint", "callbacks:JiTModelCheckpoint"),
        ("callbacks.md", "LearningRateSchedulerCallback", "callbacks:LearningRateSchedulerCallback"),
        ("callbacks.md", "MetricLoggerCallback", "callbacks:MetricLoggerCallback"),
        ("callbacks.md", "FIDEvaluationCallback", "callbacks:FIDEvaluationCallback"),
    ],
)
def test_tables_name_every_argument_with_its_default(name, heading, target):
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page(name), re.MULTILINE | re.DOTALL).group(1)
    module, _, attribute = target.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    printed = {k: eval(v) for k, v in arguments_in(section).items()}
    assert printed == {k: p.default for k, p in parameters.items()}
    assert list(printed) == list(parameters)


def test_the_flags_of_the_release_exist_here(names, capfd):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--config", "images/jit_b16_256", "--print_config"])
    text = capfd.readouterr().out
    flags = re.findall(r"`--((?:model|data|schedule|checkpoint|trainer)\.\w+)", page("coming_from_jit.md"))
    assert len(flags) > 25
    for flag in set(flags):
        section, _, key = flag.partition(".")
        body = re.search(rf"^{section}:\n((?:  .*\n?)+)", text, re.MULTILINE).group(1)
        assert re.search(rf"^ +{key}:", body, re.MULTILINE), flag


def test_pages_link_to_what_exists():
    assert set(PAGES) >= WRITTEN
    for name in WRITTEN:
        for target in re.findall(r"\]\(([^)#:]+)\)", page(name)):
            assert (ROOT / "docs" / target).exists(), f"{name}: {target}"
        for path in re.findall(r"`(jitflow/[\w/.]+)`", page(name)):
            assert (ROOT / path).exists(), f"{name}: {path}"
