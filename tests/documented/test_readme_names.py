"""What the README imports works for an installed package, away from the checkout."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

from forked_python import forked_python

ROOT = Path(__file__).parents[2]


def test_the_names_that_the_readme_imports_need_no_checkout(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    imports = [
        ast.unparse(node)
        for block in blocks
        for node in ast.parse(block).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert any("create_default_callbacks" in line for line in imports)
    # As if installed: the package alone is on the path, not the folder that holds the documented names.
    (tmp_path / "jitflow").symlink_to(ROOT / "jitflow")
    run = subprocess.run(
        [forked_python(), "-c", "\n".join(imports)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_names_of_the_package_are_those_of_the_documents():
    import jitflow
    from callbacks import create_default_callbacks
    from datas.datamodule import JiTDataModule
    from models.modelmodule import JiTLightningModule

    assert jitflow.create_default_callbacks is create_default_callbacks
    assert jitflow.JiTDataModule is JiTDataModule and jitflow.JiTLightningModule is JiTLightningModule
