"""Damage that knows the format: values of containers, instructions of pickles, chunks and tags of pictures, ..."""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from array_structures import mutate_hdf5, mutate_mat, mutate_npy, mutate_parquet
from picture_structures import EXTREME, mutate_header_numbers, mutate_jpeg, mutate_png, mutate_tiff

Mutator = Callable[[bytes, random.Random], bytes]

_DEEP = "[" * 3000 + "]" * 3000
_NAMES = (
    b"os\nsystem\n", b"posix\nsystem\n", b"subprocess\nPopen\n", b"__builtin__\neval\n", b"__builtin__\nbytearray\n",
    b"__builtin__\nset\n", b"_codecs\nencode\n", b"collections\nCounter\n", b"collections\nOrderedDict\n",
    b"fuzz_trap\nX\n", b"argparse\nNamespace\n", b"torch\nTensor\n", b"torch\nSize\n", b"torch\nFloatTensor\n",
    b"torch._utils\n_rebuild_sparse_tensor\n", b"torch._utils\n_rebuild_qtensor\n",
    b"torch._tensor\n_rebuild_from_type_v2\n",
    b"torch._utils\n_rebuild_tensor_v2\n", b"torch\ndevice\n", b"torch\nQUInt8Storage\n", b"torch\nLongStorage\n",
)  # fmt: skip
_ODD_YAML = (
    "&a", "*a", "!!python/object:fuzz_trap.X {}", "!!bool maybe", "!!int ''", "!!binary x", "!!set", "<<: *a", "? [a]",
    "~", "1:30:00", "2024-13-45", "0x_", "9" * 5000, "[" * 2000, "{a: 1, a: 2}", "|\n  x", ">-", "%TAG ! x", "---",
    "...", '"\\ud800"', "'", "{class_path: fuzz_trap.X}", "class_path: fuzz_trap.X", "\t", "- - - -", "a: &b [*b]",
)  # fmt: skip
_KINDS = (
    "BPE", "Unigram", "WordPiece", "WordLevel", "ByteLevel", "Sequence", "Precompiled", "Replace", "Split", "Metaspace",
    "TemplateProcessing", "NFC", "Prepend", "Strip", "Digits", "Whitespace", "ByteFallback", "Fuse", "CTC", "None",
)  # fmt: skip


def mutators_of(content: bytes) -> list[Mutator]:
    """Return the mutators that know the format of a file."""
    if content[:2] == b"PK":
        return [_archive, _pickle_in_archive, _hostile_values, _npy_in_archive]
    if content[:2] == b"\x80\x02":
        return [_pickle, _hostile_values]
    if content[8:9] == b"{":
        return [_tensor_header, _tensor_header]
    if content[:4] == b"\x89PNG":
        return [mutate_png]
    if content[:2] == b"\xff\xd8":
        return [mutate_jpeg]
    if content[:4] in (b"II*\0", b"MM\0*"):
        return [mutate_tiff]
    if content[:4] in (b"RIFF", b"GIF8") or content[:2] in (b"BM", b"P6"):
        return [mutate_header_numbers]
    if content[:1] in b"{[":
        return [_json, _json, _tokenizer] if b'"pre_tokenizer"' in content or b"definition" in content else [_json]
    if content[:6] == b"\x93NUMPY":
        return [mutate_npy]
    if content[:4] == b"\x89HDF":
        return [mutate_hdf5]
    if content[:6] == b"MATLAB":
        return [mutate_mat]
    if content[:4] == b"PAR1":
        return [mutate_parquet]
    if b"," in content.partition(b"\n")[0] and (b"step" in content[:40] or content[:5] == b"path,"):
        return [_csv]
    if re.match(rb"[#\w]", content) and b":" in content[:2000]:
        return [_yaml]
    return []


def hostile_value(draws: random.Random) -> Any:
    """Draw a value that is small in a file and large or odd for whoever walks through it."""
    inner: Any = draws.choice((1, "x", b"x", None, 1.5, (), torch.ones(2)))
    kind = draws.randrange(14)
    if kind == 0:
        for _ in range(draws.choice((3, 30, 200))):
            inner = [inner] * draws.choice((1, 2, 10))
    elif kind == 1:
        for _ in range(draws.choice((3, 30))):
            inner = dict.fromkeys("abcdefgh", inner)
    elif kind == 2:
        inner = []
        inner.append(inner)
    else:
        return _odd_leaf(kind, draws)
    return inner


def _odd_leaf(kind: int, draws: random.Random) -> Any:
    makers: list[Callable[[], Any]] = [
        lambda: torch.zeros(1).expand(draws.choice((10, 10**6, 10**10))),
        lambda: torch.sparse_coo_tensor([[0], [1]], [1.0], (9, 9)),
        lambda: torch.empty(3, device="meta"),
        lambda: "\ud800" * draws.choice((1, 100)),
        lambda: draws.choice((1 << 70, -(1 << 200), float("nan"), float("inf"))),
        lambda: {draws.choice((1, (1, 2), None, b"x", 1.5)): 1},
        lambda: torch.zeros([1] * draws.choice((5, 40, 60))),
        lambda: {1, "x", (2, 3)},
        lambda: ["x" * 10**5] * draws.choice((1, 1000)),
        lambda: torch.zeros(0, 5),
        lambda: torch.tensor(draws.choice((1e308, 5, True))),
    ]
    return makers[kind % len(makers)]()


def _replaced(value: Any, draws: random.Random) -> Any:
    """Replace a part of nested values, or add one."""
    if isinstance(value, dict) and value and draws.random() < 0.9:
        key = draws.choice(list(value))
        if draws.random() < 0.1:
            return {**value, draws.choice(("extra", "\ud800", 5)): hostile_value(draws)}
        return {**value, key: _replaced(value[key], draws)}
    if isinstance(value, (list, tuple)) and value and draws.random() < 0.9:
        place = draws.randrange(len(value))
        return type(value)([*value[:place], _replaced(value[place], draws), *value[place + 1 :]])
    return hostile_value(draws)


def _hostile_values(content: bytes, draws: random.Random) -> bytes:
    """Replace a value of a checkpoint, and save it again."""
    try:
        value = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # noqa: BLE001 (a mutation of a mutation, or an archive of arrays)
        return content
    changed = io.BytesIO()
    torch.save(_replaced(value, draws), changed, _use_new_zipfile_serialization=draws.random() < 0.7)
    return changed.getvalue()


def _pickle(content: bytes, draws: random.Random) -> bytes:
    """Change, repeat, remove or exchange instructions of a pickle."""
    try:
        places = [place for _, _, place in pickletools.genops(content)]
    except Exception:  # noqa: BLE001 (damaged before)
        return content
    places.append(len(content))
    ops = [content[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(draws.randrange(1, 4)):
        i, j = sorted(draws.randrange(len(ops)) for _ in range(2))
        kind = draws.randrange(7)
        if kind == 0:
            ops[i] = b"J" + struct.pack("<i", draws.choice([e for e in EXTREME if -(2**31) <= e < 2**31]))
        elif kind == 1:
            names = [k for k, op in enumerate(ops) if op[:1] == b"c"]
            ops[draws.choice(names or [i])] = b"c" + draws.choice(_NAMES)
        elif kind == 2:
            ops[i:i] = [
                draws.choice((b"(", b"]", b"}", b")", b"a", b"e", b"u", b"t", b"\x85", b"R", b"b", b"\x81", b"0", b"."))
            ]
        elif kind == 3:
            ops[i:i] = [b"h" + bytes([draws.randrange(256)])]
        elif kind == 4:
            del ops[i : min(j, i + 4)]
        elif kind == 5:
            ops[i:i] = ops[i : min(j, i + 40)] * draws.choice((1, 2, 200))
        else:
            ops[i] = b"X" + struct.pack("<I", draws.choice((0, 3, 2**31))) + b"abc"
    return b"".join(ops)


def _rewritten(content: bytes, change: Callable[[dict[str, bytes]], None], *, deflate: bool = False) -> bytes:
    """Write an archive anew, with checksums that fit, after a change of its members."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        change(members)
    except Exception:  # noqa: BLE001 (a mutation of a mutation need not be an archive)
        return content
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return changed.getvalue()


def _pickle_in_archive(content: bytes, draws: random.Random) -> bytes:
    def change(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = _pickle(members[name], draws)

    return _rewritten(content, change)


def _npy_in_archive(content: bytes, draws: random.Random) -> bytes:
    """Change the header of an array in an archive."""

    def change(members: dict[str, bytes]) -> None:
        name = draws.choice([name for name in members if members[name][:6] == b"\x93NUMPY"])
        members[name] = mutate_npy(members[name], draws)

    return _rewritten(content, change, deflate=draws.random() < 0.7)


def _archive(content: bytes, draws: random.Random) -> bytes:
    """Compress, rename, repeat or remove members of an archive, or change the numbers of its directory."""

    def change(members: dict[str, bytes]) -> None:
        name = draws.choice(list(members))
        kind = draws.randrange(5)
        if kind == 0:
            members[draws.choice(("../x", "/x", "a/" * 200 + "x", name + "\0", "archive/data.pkl"))] = members.pop(name)
        elif kind == 1:
            del members[name]
        elif kind == 2:
            members.update({f"archive/data/{i}": b"" for i in range(draws.choice((10, 3000)))})
        elif kind == 3:
            members[name] += bytes(draws.choice((1, 10**6)))
        else:
            members[name] = draws.choice(list(members.values()))

    if draws.random() < 0.6:
        return _rewritten(content, change, deflate=draws.random() < 0.5)
    places = [match.start() for match in re.finditer(rb"PK\x01\x02|PK\x05\x06|PK\x03\x04", content)]
    if not places:
        return content
    place = draws.choice(places) + draws.choice((6, 8, 10, 16, 20, 24, 28, 30, 42))
    return content[:place] + struct.pack("<I", draws.choice(EXTREME) & 0xFFFFFFFF) + content[place + 4 :]


def _odd_json(draws: random.Random) -> str:
    odd = (
        "1e999",
        "NaN",
        "-0",
        "9" * 5000,
        _DEEP,
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        "[]",
        "{}",
        '{"a": 1, "a": 2}',
        '"\\u0000"',
    )
    return draws.choice((*odd, "[" + "[]," * 2000 + "[]]", '"' + "x" * 10**5 + '"', "1e308", "-1", "null", "true"))


def _json(content: bytes, draws: random.Random) -> bytes:
    """Replace a value in the text of a JSON file by what no library would write."""
    values = list(re.finditer(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null', content))
    if not values:
        return content
    chosen = draws.choice(values)
    return content[: chosen.start()] + _odd_json(draws).encode() + content[chosen.end() :]


def _tensor_header(content: bytes, draws: random.Random) -> bytes:
    """Change an entry of a safetensors header: shape, offsets, type, name, or a text of the metadata."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
        name = draws.choice(list(header))
        entry = header[name]
        kind = draws.randrange(8)
        if name == "__metadata__":
            entry[draws.choice(list(entry) or ["x"])] = draws.choice((_odd_json(draws), "x", "", _DEEP))
        elif kind < 3:
            shapes: tuple[Any, ...] = ([1] * 40, [0], [], [2**40], [2**63, 2], [-1], ["x"], None, {}, [1.5], [True])
            entry["shape"] = draws.choice(shapes)
        elif kind < 5:
            offsets: tuple[Any, ...] = (
                [0, 0],
                [4, 0],
                [0, 2**62],
                [0],
                [0, 4, 8],
                None,
                ["0", "4"],
                [-4, 4],
                [0, 10**30],
            )
            entry["data_offsets"] = draws.choice(offsets)
        elif kind == 5:
            entry["dtype"] = draws.choice(
                ("F4", "F8_E4M3", "BF16", "C64", "U64", "X", "", None, "BOOL", "I8", "F6_E2M3")
            )
        elif kind == 6:
            header[draws.choice(("", "x" * 10**5, "a\0b", "..", "net.x"))] = header.pop(name)
        else:
            header[f"more{draws.randrange(9)}"] = dict(entry)
        text = json.dumps(header).encode()
    except Exception:  # noqa: BLE001 (damaged before)
        return content
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _yaml(content: bytes, draws: random.Random) -> bytes:
    """Replace a value of a YAML text, or add a line: anchors, aliases, tags, depth, long numbers."""
    lines = content.decode("utf-8", "replace").split("\n")
    i = draws.randrange(len(lines))
    odd = draws.choice(_ODD_YAML)
    kind = draws.randrange(4)
    if kind == 0:
        lines[i] = re.sub(r":\s.*", lambda m: f": {odd}", lines[i]) or odd
    elif kind == 1:
        lines.insert(i, " " * draws.choice((0, 2, 4)) + odd)
    elif kind == 2:
        levels = [f"x{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 9) if k else 'y'}]" for k in range(draws.choice((2, 12)))]
        lines[i:i] = levels
    else:
        lines[i] = lines[i].replace(":", draws.choice((": &a", ": *a", "::", " :", ": !!str", ": !x", ": {<<: *a}")), 1)
    return "\n".join(lines).encode("utf-8", "replace")


def _csv(content: bytes, draws: random.Random) -> bytes:
    """Change a cell or the columns of a CSV log."""
    rows = [row.split(b",") for row in content.split(b"\n")]
    # A log that is large already only changes in a cell.
    kind = draws.random() if len(content) < 10_000 else 1
    if kind < 0.15:
        rows[0] = rows[0] * draws.choice((2, 1000, 20_000))
    elif kind < 0.3:
        rows += [rows[-2 if len(rows) > 1 else 0][:100]] * draws.choice((10, 20_000))
    else:
        row = draws.choice(rows)
        names = (b"$\\frac{$", b"<b>", b"", b"\xff", b"\0", b'"', b'"a\nb"')
        numbers = (b"1e308", b"-1e308", b"nan", b"inf", b"1e400", b"9" * 200_000)
        row[draws.randrange(len(row))] = draws.choice((*names, *numbers))
    return b"\n".join(b",".join(row) for row in rows)


def _tokenizer(content: bytes, draws: random.Random) -> bytes:
    """Change the kind or a number of a part of a tokenizer's definition, which may be a text inside JSON."""
    text = content.decode("utf-8", "replace")
    quote = '\\"' if '\\"type\\"' in text else '"'
    kinds = list(re.finditer(re.escape(f"{quote}type{quote}: {quote}") + r"(\w+)", text))
    if kinds and draws.random() < 0.7:
        chosen = draws.choice(kinds)
        text = text[: chosen.start(1)] + draws.choice(_KINDS) + text[chosen.end(1) :]
    else:
        part = draws.choice(
            ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "truncation", "padding")
        )
        kind = json.dumps(
            {"type": draws.choice(_KINDS), "pattern": {"String": ""}, "content": "x", "vocab": {}, "merges": []}
        )
        value = kind if quote == '"' else json.dumps(kind)[1:-1]
        text = re.sub(re.escape(f"{quote}{part}{quote}: ") + r"null", lambda m: m[0][:-4] + value, text, count=1)
    return text.encode("utf-8", "replace")
