"""Every python block of the three documents, executed from the text kept in ``blocks/``."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

# Each of these registers the checks of one document.
import callbacks_checks  # noqa: F401
import data_module_checks  # noqa: F401
import model_module_checks  # noqa: F401
import pytest
import torch
from documented_cases import CASES, DOCUMENTS, KINDS, read_blocks, source_of
from documented_checks import CHECKS, samples
from forked_python import forked_python

ROOT = Path(__file__).parents[2]
RUNS = [(name, i) for name, case in CASES.items() for i in range(max(1, len(case.alternatives)))]


def test_no_block_is_missing():
    blocks = read_blocks()
    fences = sum(
        (Path(__file__).parent / "blocks" / f"{d}.txt").read_text(encoding="utf-8").count("```python")
        for d in DOCUMENTS
    )
    assert fences == len(blocks) == 50
    assert list(blocks) == [f"{d} {i + 1}" for d, count in DOCUMENTS.items() for i in range(count)]
    # In the order of the documents, each with a way to execute it and something that must be true afterwards.
    assert list(CASES) == list(blocks)
    assert CHECKS.keys() == blocks.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_declaration_is_honest(name):
    case = CASES[name]
    assert case.kind in KINDS
    assert bool(case.alternatives) == (case.kind == "alternatives")
    assert bool(case.target) == (case.kind == "signature")
    if case.kind == "run":
        assert not case.before
        assert not case.pseudo
    if case.pseudo:
        assert case.why, "say why the block does not work as written"


def execute(name, names, *, left_out=()):
    code = compile(source_of(name, left_out=left_out), f"<{name}>", "exec")
    case = CASES[name]
    with (
        torch.device("meta") if case.device == "meta" else nullcontext(),
        pytest.warns(UserWarning, match=case.warning) if case.warning else nullcontext(),
    ):
        exec(code, names)
    return names


@pytest.mark.parametrize(("name", "alternative"), RUNS)
def test_block(name, alternative, names):
    case = CASES[name]
    if case.kind == "signature":
        compare_signature(name, names)
    elif case.kind == "alternatives":
        execute(name, names, left_out=case.alternatives[alternative])
        names["alternative"] = alternative
    else:
        before = set(names)
        execute(name, names)
        if case.kind == "override":
            cls, kind = documented_class(case, names, before)
            OVERRIDES[kind](names, cls)
    CHECKS[name](names)


def compare_signature(name, names):
    case, source = CASES[name], source_of(name)
    module, _, attribute = case.target.partition(":")
    ours = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters.values()
    # A constructor is printed like a call; as a function head it says the same.
    if "def " not in source:
        source = source.replace(f"{attribute}(", f"def {attribute}(", 1).rstrip() + ": pass"
    exec(compile(source, f"<{name}>", "exec"), names)
    printed = inspect.signature(names[attribute]).parameters.values()
    assert printed
    positional = [(p.name, p.default) for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [(p.name, p.default) for p in printed]
    # What is ours comes behind and never has to be given.
    assert all(p.default is not p.empty for p in ours if p.kind is p.KEYWORD_ONLY)
    assert inspect.Parameter.VAR_POSITIONAL not in {p.kind for p in ours}


def documented_class(case, names, before):
    """Return the class that a block prints, or a subclass with the functions it prints; and its kind."""
    from callbacks import FIDEvaluationCallback
    from datas.datamodule import JiTDataModule
    from models.modelmodule import JiTLightningModule

    bases = {c.__name__: c for c in (JiTLightningModule, JiTDataModule, FIDEvaluationCallback)}
    printed = {k: v for k, v in names.items() if k not in before and getattr(v, "__module__", "") == "documented"}
    if case.base:
        functions = {k: v for k, v in printed.items() if inspect.isfunction(v)}
        assert functions
        cls = type("Documented", (bases[case.base],), functions)
    else:
        (cls,) = (v for v in printed.values() if inspect.isclass(v))
    (kind,) = (k for k, base in bases.items() if issubclass(cls, base))
    return cls, kind


def use_module(names, cls):
    """Train with the documented class and sample from it, and train the class that it derives from."""
    from models.modelmodule import JiTLightningModule

    names["model"] = names["tiny"](cls)
    names["trainer"] = names["fit"](names["model"])
    assert names["trainer"].global_step == 8
    drawn = samples(names["model"], use_ema=False)
    assert drawn.shape == (2, 3, 16, 16)
    assert torch.isfinite(drawn).all()
    names["trained_plain"] = names["tiny"](JiTLightningModule)
    names["fit"](names["trained_plain"])


def use_data(names, cls):
    from models.modelmodule import JiTLightningModule

    names["datamodule"] = cls(img_size=16, batch_size=4, num_workers=0)
    names["trainer"] = names["fit"](names["tiny"](JiTLightningModule), names["datamodule"])
    assert names["trainer"].global_step == 8


def use_evaluation(names, cls):
    from callbacks import EMACallback
    from jitflow.evaluation.features import PixelExtractor
    from models.modelmodule import JiTLightningModule

    names["callback"] = cls(1, 20, 8, 5, 16, extractor=PixelExtractor(side=2), reference=(torch.zeros(4), torch.eye(4)))
    module = names["tiny"](JiTLightningModule)
    names["trainer"] = names["fit"](module, callbacks=[EMACallback(), names["callback"]])


OVERRIDES = {
    "JiTLightningModule": use_module,
    "JiTDataModule": use_data,
    "FIDEvaluationCallback": use_evaluation,
}


def import_lines():
    """Every import that the documents print, once."""
    lines = {}
    for name, case in CASES.items():
        if case.kind == "signature":
            continue
        printed = source_of(name, left_out=case.alternatives[0] if case.alternatives else ())[len(case.before) :]
        for node in ast.parse(printed).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                lines[ast.unparse(node)] = None
    return list(lines)


def test_every_import_works_from_an_uninstalled_checkout(tmp_path):
    lines = import_lines()
    assert "from callbacks import EMACallback, JiTModelCheckpoint, LearningRateSchedulerCallback" in lines
    done = run_uninstalled("\n".join(lines), "import jitflow, datas, models, callbacks, sys")
    assert [Path(line).parent.parent for line in done.stdout.splitlines()] == [ROOT] * 4


def run_uninstalled(*lines):
    # -S leaves out site-packages with its .pth files, and so an editable install; the libraries come back by path.
    packages = [p for p in sys.path if "site-packages" in p]
    code = "\n".join(
        [
            "import sys",
            f"sys.path[:0] = [{str(ROOT)!r}]",
            f"sys.path += {packages!r}",
            *lines,
            "print(jitflow.__file__, datas.__file__, models.__file__, callbacks.__file__, sep='\\n')",
            "sys.exit(int(globals().get('status', 0)))",
        ]
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [forked_python(), "-S", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_every_block_works_from_an_uninstalled_checkout():
    tests = [f"{Path(__file__).relative_to(ROOT)}", "-k", "test_block", "-p", "no:cacheprovider"]
    run_uninstalled("import pytest", f"status = pytest.main({tests!r})", "import jitflow, datas, models, callbacks")
