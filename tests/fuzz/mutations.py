"""Damage a file in one of many ways: its bytes, the numbers in it, the members of an archive, what its format knows."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

from structures import mutators_of

_EXTREME = (
    b"0",
    b"-1",
    b"1",
    b"255",
    b"65536",
    b"2147483648",
    b"9223372036854775807",
    b"99999999999999999999",
    b"1e309",
)
# A file that a mutation has made large is left as it is.
_MOST_BYTES = 5_000_000
_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**6,
    2**40,
    2**63,
    10**25,
    0.5,
    float("inf"),
    "",
    "x",
    "../../x",
    [],
    {},
    [[]],
)


def mutate(content: bytes, draws: random.Random) -> bytes:
    """Damage a file in one of many ways."""
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_flip, _bytes, _cut, _splice, _numbers]
    if content[:2] == b"PK":
        kinds += [_member] * 4
    if content[8:9] == b"{" or content[:1] in b"{[":
        kinds += [_json] * 4
    kinds += mutators_of(content) * 5
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        if len(content) < _MOST_BYTES:
            content = draws.choice(kinds)(content, draws)
    return content


def _flip(content: bytes, draws: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draws.randrange(1, 9) if changed else 0):
        changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
    return bytes(changed)


def _bytes(content: bytes, draws: random.Random) -> bytes:
    if not content:
        return draws.randbytes(8)
    place = draws.randrange(len(content))
    piece = draws.choice((draws.randbytes(draws.randrange(1, 9)), b"\xff" * 8, b"\0" * 8))
    return content[:place] + piece + content[place + len(piece) :]


def _cut(content: bytes, draws: random.Random) -> bytes:
    return content[: draws.randrange(len(content) + 1)]


def _splice(content: bytes, draws: random.Random) -> bytes:
    begin, end = sorted(draws.randrange(len(content) + 1) for _ in range(2))
    place = draws.randrange(len(content) + 1)
    piece = content[begin : min(end, begin + 200)]
    return content[:place] + piece + content[place + draws.choice((0, len(piece))) :]


def _numbers(content: bytes, draws: random.Random) -> bytes:
    found = list(re.finditer(rb"[0-9]+", content))
    if not found:
        return _bytes(content, draws)
    chosen = draws.choice(found)
    return content[: chosen.start()] + draws.choice(_EXTREME) + content[chosen.end() :]


def _member(content: bytes, draws: random.Random) -> bytes:
    """Change a member of an archive, and write the archive anew with checksums that fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:  # noqa: BLE001 (a mutation of a mutation need not be an archive)
        return _flip(content, draws)
    if not members:
        return content
    # The smallest are the most telling: data.pkl, version, byteorder.
    chosen = min(draws.sample(range(len(members)), min(3, len(members))), key=lambda i: len(members[i][1]))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for place, (info, member) in enumerate(members):
            if place == chosen:
                action = draws.choice((_flip, _bytes, _cut, _splice, _numbers))
                member = action(member, draws)
            name = info.filename
            if place == chosen and draws.random() < 0.1:
                name = draws.choice(("../" + name, "/" + name, name[:-1], name + "x"))
            archive.writestr(zipfile.ZipInfo(name), member)
    return changed.getvalue()


def _json(content: bytes, draws: random.Random) -> bytes:
    """Change a value in a JSON text, or in the header of a safetensors file, whose length is corrected."""
    header = content[8:9] == b"{" and content[:1] not in b"{["
    text, rest = content, b""
    if header:
        size = int.from_bytes(content[:8], "little")
        text, rest = content[8 : 8 + size], content[8 + size :]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _flip(content, draws)
    changed = json.dumps(_change(value, draws)).encode()
    if not header:
        return changed
    changed = changed.ljust(-(-len(changed) // 8) * 8)
    return len(changed).to_bytes(8, "little") + changed + rest


def _change(value: Any, draws: random.Random) -> Any:
    if isinstance(value, dict) and value and draws.random() < 0.85:
        key = draws.choice(list(value))
        if draws.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _change(value[key], draws)}
    if isinstance(value, list) and value and draws.random() < 0.85:
        place = draws.randrange(len(value))
        return [*value[:place], _change(value[place], draws), *value[place + 1 :]]
    if isinstance(value, str) and value[:1] in ("{", "[") and draws.random() < 0.85:
        try:
            # Settings in metadata are JSON in a string.
            return json.dumps(_change(json.loads(value), draws))
        except (ValueError, RecursionError):
            return value[:-1]
    return draws.choice(_ODD)
