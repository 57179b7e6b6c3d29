"""Every kind of file has one reader, which has its limits: what it calls is called nowhere else."""

from __future__ import annotations

import ast

import pytest
from house_source import ROOT, House

HOUSE = House(ROOT)
# What reads or runs something of a file, and the files of the library that may call it.
RAW_CALLS: dict[str, set[str]] = {
    "torch.load": {"io/files.py"},
    "torch.jit.load": set(),
    "torch.hub.load": set(),
    "torch.package.PackageImporter": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "pickle.Unpickler": set(),
    "shelve.open": set(),
    "marshal.loads": set(),
    "numpy.load": {"io/array_formats.py"},
    "numpy.fromfile": set(),
    "numpy.memmap": {"io/array_file.py"},
    "numpy.lib.format.read_array": {"io/npz_file.py"},
    "json.load": set(),
    # The latter reads what this library sends.
    "json.loads": {"io/json_text.py", "io/hdf5_child.py"},
    "h5py.File": {"io/hdf5_child.py"},
    "json.JSONDecoder": {"io/json_text.py"},
    "yaml.load": {"io/yaml_file.py"},
    "yaml.load_all": set(),
    "yaml.safe_load": set(),
    "yaml.safe_load_all": set(),
    "yaml.full_load": set(),
    "yaml.unsafe_load": set(),
    "yaml.compose": {"io/yaml_file.py"},
    "csv.reader": {"io/csv_file.py", "io/table_file.py"},
    "csv.DictReader": set(),
    "safetensors.safe_open": {"io/safetensors_file.py"},
    "safetensors.torch.load": set(),
    "safetensors.torch.load_file": set(),
    "safetensors.numpy.load_file": set(),
    "PIL.Image.open": {"data/image_file.py", "io/array_formats.py"},
    "torchvision.io.decode_image": set(),
    "torchvision.io.decode_jpeg": {"apps/images/fast_decoder.py"},
    "torchvision.io.decode_png": set(),
    "torchvision.io.read_image": set(),
    "zipfile.ZipFile": {"io/npz_file.py", "io/torch_file.py", "evaluation/image_files.py"},
    "tarfile.open": set(),
    "xml.etree.ElementTree.parse": set(),
    "importlib.import_module": {"applications.py", "cli.py", "__init__.py", "training/methods/registry.py"},
    "eval": set(),
    "exec": set(),
    "__import__": set(),
}
# Runs beside an exported program, without this library.
STANDALONE = "export/standalone_sampler.py"


def full_names(path):
    """Dotted names of what a file calls, with the names that its imports give resolved."""
    known = {}
    for node in HOUSE.nodes(path, ast.Import, ast.ImportFrom):
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            else:
                top = alias.name.partition(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
    for node in HOUSE.nodes(path, ast.Attribute, ast.Name):
        if isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Load):
            root, dot, rest = ast.unparse(node).partition(".")
            yield node.lineno, known.get(root, root) + dot + rest


@pytest.mark.parametrize("path", HOUSE.files, ids=lambda path: str(path.relative_to(HOUSE.package)))
def test_what_reads_files_is_called_in_one_place(path):
    own = str(path.relative_to(HOUSE.package))
    found = [(line, name) for line, name in full_names(path) if own not in RAW_CALLS.get(name, {own})]
    assert own == STANDALONE or not found, "use the reader in jitflow/io or jitflow/data/image_file.py"


def test_the_rule_sees_every_home():
    called = {name: set() for name in RAW_CALLS}
    for path in HOUSE.files:
        for _, name in full_names(path):
            if name in called:
                called[name].add(str(path.relative_to(HOUSE.package)))
    assert {name: homes - {STANDALONE} for name, homes in called.items()} == RAW_CALLS


def test_every_console_prints_text_of_files_as_it_is():
    for path in HOUSE.files:
        for call in [node for node in HOUSE.nodes(path, ast.Call) if ast.unparse(node.func) == "Console"]:
            words = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert words.get("markup") == "False", HOUSE.place(path, call)
