"""README.md and the pages of ``docs/``: every block runs from its text, every table of arguments is true."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import page_runner
import pytest
from pages import NAMES, PAGES, README, ROOT, Page, all_blocks, blocks_of, stale, text_of

from jitflow.applications import get_application, load_object
from jitflow.cli import VERBS, main
from jitflow.run.arguments import arguments_of
from jitflow.run.recipe import flatten, read_recipe
from jitflow.run.settings import complete
from jitflow.verbs.commandline import option_kinds


def _pages_to_run():
    for name in NAMES:
        if any(not block.reason for block in blocks_of(name)):
            yield pytest.param(name, id=name, marks=[pytest.mark.slow] if PAGES.get(name, Page()).slow else [])


@pytest.mark.parametrize("name", list(_pages_to_run()))
def test_page(name, names, monkeypatch, request):
    code = "".join(block.code for block in blocks_of(name) if not block.reason)
    uses_demo = "runs/demo/images" in code or "jitflow demo images" in code
    case = PAGES.get(name, Page())
    page_runner.make_checkout(Path.cwd(), case, request.getfixturevalue("quick_demo") if uses_demo else None)
    page_runner.quicken(monkeypatch, case)
    for block in blocks_of(name):
        if not block.reason:
            page_runner.execute(block, case, names)
    missing = [path for path in case.leaves if not Path(path).exists()]
    assert not missing


_NOT_RUN = [pytest.param(b.reason, id=str(b)) for b in all_blocks() if b.reason]


@pytest.mark.parametrize("reason", _NOT_RUN)
def test_a_block_that_is_not_run_says_why(reason):
    """With ``-v`` this lists them all."""
    assert len(reason.split()) >= 3, "give the reason in words"


def test_most_blocks_run():
    assert len(_NOT_RUN) <= len(all_blocks()) // 4


def test_no_block_escapes():
    for name in NAMES:
        opened = re.findall(r"^ *```(\w+)", text_of(name), re.MULTILINE)
        assert opened == [block.language for block in blocks_of(name)], name


@pytest.mark.parametrize("name", sorted(PAGES))
def test_declared_changes_meet_the_text(name):
    assert name in NAMES
    assert not stale(name), f"{name}: these parts are no longer there; change them in pages.py"


def test_commands_name_verbs_that_exist():
    for block in all_blocks():
        lines = block.code.replace("\\\n", " ").splitlines() if block.language == "bash" else []
        for words in (line.split() for line in lines if line.startswith("jitflow ")):
            assert words[1] in VERBS or words[1].startswith("-"), f"{block}: {' '.join(words)}"


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
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text_of(name), re.MULTILINE | re.DOTALL).group(1)
    module, _, attribute = target.partition(":")
    takes = arguments_of(getattr(importlib.import_module(module), attribute))
    printed = {k: eval(v) for k, v in arguments_in(section).items()}
    assert printed == takes.defaults
    assert list(printed) == takes.names


@pytest.mark.parametrize("name", ["coming_from_jit.md", "coming_from_diffusers.md", "how_to.md", "large_runs.md"])
def test_options_of_training_exist(name, capfd):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--config", "images/jit_b16_256", "--print_config"])
    text = capfd.readouterr().out
    flags = re.findall(r"--((?:model|data|schedule|checkpoint|trainer)\.\w+)", text_of(name))
    assert len(flags) > (25 if name == "coming_from_jit.md" else 2)
    for flag in set(flags) - {"trainer.callbacks"}:
        section, _, key = flag.partition(".")
        body = re.search(rf"^{section}:\n((?:  .*\n?)+)", text, re.MULTILINE).group(1)
        assert re.search(rf"^ +{key}:", body, re.MULTILINE), flag


def test_options_of_microdoppler_exist():
    application = get_application("microdoppler")
    kinds = [option_kinds(load_object(path)) for path in application.commands.values()]
    known = {name.rpartition(".")[2] for names in kinds for name in names} | set(application.documented.options)
    recipe = complete(read_recipe(application.documented.recipe))
    flags = re.findall(r"`--([\w.]+)", text_of("coming_from_lightningdit.md"))
    assert len(flags) > 15
    assert not set(flags) - known - set(flatten(recipe)) - {"init_from"}


def headings_of(name):
    """Return the anchors of a page's headings, as the site makes them."""
    lines = re.sub(r"^```.*?^```", "", text_of(name), flags=re.MULTILINE | re.DOTALL).splitlines()
    titles = [re.sub(r"[`*]", "", line.lstrip("# ")) for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_pages_link_to_headings_that_exist():
    checked = 0
    for name in NAMES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text_of(name)):
            page = name if not target else Path(target).name
            assert page in NAMES and anchor in headings_of(page), f"{name}: {target}#{anchor}"
            checked += 1
    assert checked > 10


def test_pages_link_to_what_exists():
    for name in NAMES:
        folder = ROOT if name == README else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(name)):
            assert (folder / target).exists(), f"{name}: {target}"
            # The site holds nothing else; a file of the checkout is named, not linked.
            assert (folder / target).resolve().is_relative_to(folder), f"{name}: {target} lies outside docs/"
        for path in re.findall(r"`(jitflow/[\w/.]+)`", text_of(name)):
            assert (ROOT / path).exists(), f"{name}: {path}"
