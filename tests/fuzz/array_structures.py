"""Damage that knows the formats of arrays and tables: headers of NumPy, MATLAB and HDF5, the footer of Parquet."""

from __future__ import annotations

import random
import re
import struct
import zlib

from picture_structures import EXTREME

_SHAPES = (
    *("(-1,)", "(1099511627776,)", "()", "(0, 5)", f"({'1, ' * 70})", "(2, 4611686018427387904)", "('a',)", "[1]"),
    *("(True, 8)", "(6.0, 8)", "(6, 8, 0)", "(281474976710656, 0)"),
)
_TYPES = ("'<f8'", "'|O'", "'<U9999999'", "'<M8[s]'", "[('a', '<f8')]", "'>c16'", "'|V8'", "''", "'<f3'")
_MAT_HEADER_BYTES = 128
# Names of the parts of an HDF5 file: superblock, trees, heaps, tables of symbols, chunks, fill values, links.
_HDF5_PARTS = rb"\x89HDF|TREE|HEAP|SNOD|GCOL|FRHP|BTHD|BTLF|FADB|EAHD|OHDR|OCHK|level|time_sec|deflate"


def mutate_npy(content: bytes, draws: random.Random) -> bytes:
    """Change shape, type, version or length of a NumPy array."""
    if draws.random() < 0.5:
        content = re.sub(rb"'shape': \([^)]*\)", f"'shape': {draws.choice(_SHAPES)}".encode(), content, count=1)
    if draws.random() < 0.5:
        content = re.sub(rb"'descr': '[^']*'", f"'descr': {draws.choice(_TYPES)}".encode(), content, count=1)
    if draws.random() < 0.2:
        content = content[:6] + bytes([draws.choice((1, 2, 3, 9))]) + content[7:]
    if draws.random() < 0.2:
        content += bytes(draws.choice((10, 10**6, 2 * 10**7)))
    end = content.find(b"}")
    start = content[:8] + (end + 2 - 10).to_bytes(2, "little") if draws.random() < 0.8 and end > 8 else content[:10]
    return start + content[10 : end + 1] + b"\n" + content[end + 2 :]


def mutate_mat(content: bytes, draws: random.Random) -> bytes:
    """Change a number of an array in a MATLAB file (tags, flags, dimensions), decompressed if it is compressed."""
    elements, place = [], _MAT_HEADER_BYTES
    while place + 8 <= len(content):
        kind, size = struct.unpack("<2I", content[place : place + 8])
        elements.append([kind, content[place + 8 : place + 8 + size]])
        place += 8 + size
    if not elements or draws.random() < 0.1:
        return content[:124] + draws.choice((b"\0\2IM", b"MI\1\0", b"\1\0MI", b"\0\0\0\0")) + content[128:]
    chosen = draws.choice(elements)
    packed = chosen[0] == 15
    try:
        body = zlib.decompress(chosen[1]) if packed else chosen[1]
    except zlib.error:
        body, packed = chosen[1], False
    if draws.random() < 0.15:
        body += bytes(draws.choice((8, 10**6, 3 * 10**7)))
    # Tags, flags, dimensions and name come first.
    at = 4 * draws.randrange(max(1, min(len(body), 96) // 4))
    number = draws.choice((*EXTREME, *range(1, 18), 0x0806, 0x0201, 0x0404, 0x00010006))
    body = body[:at] + struct.pack("<I", number & 0xFFFFFFFF) + body[at + 4 :]
    chosen[1] = zlib.compress(body) if packed else body
    if draws.random() < 0.1 and len(chosen[1]) < 1000:
        elements += [chosen] * draws.choice((1, 2000))
    if draws.random() < 0.1:
        chosen[0] = draws.choice((14, 15, 1, 9))
    return content[:_MAT_HEADER_BYTES] + b"".join(struct.pack("<2I", kind, len(b)) + b for kind, b in elements)


def mutate_hdf5(content: bytes, draws: random.Random) -> bytes:
    """Change a number in or behind the start of a part of an HDF5 file: version, address, size, count, class, rank."""
    places = [match.start() for match in re.finditer(_HDF5_PARTS, content)]
    if not places:
        return content
    place = draws.choice(places) + draws.randrange(4, 120)
    width = draws.choice((1, 2, 4, 8))
    place -= place % width if draws.random() < 0.8 else 0
    if draws.random() < 0.3 and len(places) > 1:
        # The address of another part: a tree that holds itself, a heap that is a table.
        number, width = draws.choice(places), 8
    else:
        number = draws.choice((*EXTREME, 2**62, len(content), len(content) - 1, 3, 4, 5, 6, 8, 9, 32, 33))
    return content[:place] + (number % 256**width).to_bytes(width, "little") + content[place + width :]


def mutate_parquet(content: bytes, draws: random.Random) -> bytes:
    """Change numbers, types or texts in the footer of a Parquet file, whose length fits or not, or the first page."""
    size = int.from_bytes(content[-8:-4], "little")
    if draws.random() < 0.1 or not 0 < size < len(content) - 12:
        return content[:-8] + (draws.choice(EXTREME) & 0xFFFFFFFF).to_bytes(4, "little") + content[-4:]
    body, footer = content[: -8 - size], bytearray(content[-8 - size : -8])
    if draws.random() < 0.3:
        start = bytearray(body)
        start[draws.randrange(4, min(len(start), 120))] = draws.randrange(256)
        body = bytes(start)
    else:
        at = draws.randrange(len(footer))
        # Varints: many continued bytes make one large number; 0x15 and 0x16 are fields of 32 and 64 bits.
        piece = draws.choice(
            (b"\xff" * 4 + b"\x0f", b"\xff" * 9 + b"\x01", b"\x00", b"\x15", b"\x16", b"\x19\xfc", b"\x7f")
        )
        footer[at : at + draws.choice((0, 1, len(piece)))] = piece
    return body + bytes(footer) + len(footer).to_bytes(4, "little") + b"PAR1"
