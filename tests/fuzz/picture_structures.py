"""Damage that knows the formats of pictures: chunks of PNG, segments of JPEG, tags of TIFF, numbers of headers."""

from __future__ import annotations

import contextlib
import random
import re
import struct
import zlib

EXTREME = (0, 1, -1, 2, 7, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**32 - 1)


def mutate_png(content: bytes, draws: random.Random) -> bytes:
    """Change a chunk of a PNG file, with a checksum that fits."""
    chunks, place = [], 8
    while place + 8 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return content
    i = draws.randrange(len(chunks))
    kind, data = chunks[i]
    if kind == b"IHDR" or draws.random() < 0.4:
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1][:13].ljust(13, b"\0")))
        field = draws.randrange(7)
        fields[field] = draws.choice((0, 1, 2, 3, 4, 6, 16, 17)) if field > 1 else draws.choice(EXTREME) & 0x7FFFFFFF
        chunks[0] = (chunks[0][0], struct.pack(">IIBBBBB", *fields))
    elif draws.random() < 0.5:
        packed = zlib.compress(bytes(draws.choice((10, 10**5, 3 * 10**7))), 1)
        odd = draws.choice(
            ((b"iCCP", b"x\0\0"), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0"), (b"eXIf", b"MM\0*"), (b"tRNS", b""))
        )
        chunks.insert(draws.randrange(1, len(chunks) + 1), (odd[0], odd[1] + packed))
    elif draws.random() < 0.5:
        chunks[i] = (draws.choice((b"PLTE", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND", b"pHYs", b"gAMA")), data)
    else:
        chunks.insert(i, chunks[draws.randrange(len(chunks))])
    whole = b"".join(len(d).to_bytes(4, "big") + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return content[:8] + whole


def mutate_jpeg(content: bytes, draws: random.Random) -> bytes:
    """Change the size, the components or the length of a segment of a JPEG file."""
    places = [m.start() for m in re.finditer(rb"\xff[\xc0-\xcf\xda\xdb\xdd\xe0\xe1\xe2\xee]", content[:2000])]
    if not places:
        return content
    place = draws.choice(places)
    number = draws.choice(EXTREME) & 0xFFFF
    offset = draws.choice((2, 4, 5, 7, 9, 11))
    if offset in (4, 9, 11):
        return content[: place + offset] + bytes([number & 0xFF]) + content[place + offset + 1 :]
    return content[: place + offset] + number.to_bytes(2, "big") + content[place + offset + 2 :]


def mutate_tiff(content: bytes, draws: random.Random) -> bytes:
    """Change an entry of the directory of a TIFF file: tag, type, count or value."""
    order = "<" if content[:2] == b"II" else ">"
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack(order + "I", content[4:8])
        (count,) = struct.unpack(order + "H", content[start : start + 2])
        place = start + 2 + 12 * draws.randrange(max(1, count))
        field = draws.randrange(4)
        if field == 0:
            tag = draws.choice(
                (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 324, 338, 339, 34675, 65000)
            )
            return content[:place] + struct.pack(order + "H", tag) + content[place + 2 :]
        if field == 1:
            return content[: place + 2] + struct.pack(order + "H", draws.randrange(20)) + content[place + 4 :]
        number = struct.pack(order + "I", draws.choice(EXTREME) & 0xFFFFFFFF)
        return content[: place + 4 * field - 4] + number + content[place + 4 * field :]
    return content


def mutate_header_numbers(content: bytes, draws: random.Random) -> bytes:
    """Change a number among the first bytes of a picture."""
    size = draws.choice((1, 2, 4))
    place = draws.randrange(2, min(60, max(3, len(content) - 4)))
    number = (draws.choice(EXTREME) & 0xFFFFFFFF).to_bytes(4, "little")
    if content[:2] == b"P6":
        text = re.sub(
            rb"[0-9]+", lambda m: str(draws.choice(EXTREME)).encode() if draws.random() < 0.5 else m[0], content[:20]
        )
        return text + content[20:]
    return content[:place] + number[:size] + content[place + size :]
