"""Changes to the bytes of an image. Pure: the same random generator gives the same bytes."""

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

from load_tests.fuzz.fields import fields
from load_tests.fuzz.formats import PNG_SIGNATURE

MAX_MUTANT_BYTES = 1 << 20
_MOST_CHANGES = 4
_BLOCK = 64  # most bytes copied, deleted or inserted in seven of eight changes
_REPAIR = 0.7  # share of mutated PNGs whose checksums are recomputed
_EXTREMES = {
    1: (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF),
    2: (0, 1, 2, 0xFF, 0x100, 0x3FFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF),
    4: (0, 1, 2, 0xFFFF, 0x1_0000, 0xFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF),
}
Order = Literal["little", "big"]
Mutator = Callable[[random.Random, bytearray, bytes], None]


def mutate(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, list[str]]:
    """Return `data` after one to four changes, and their names; `other` is spliced in."""
    mutant, names = bytearray(data), []
    for _ in range(min(_MOST_CHANGES, 1 + int(rng.expovariate(1)))):
        change = rng.choice(MUTATORS)
        names.append(change.__name__)
        if len(mutant) > 4:
            change(rng, mutant, other)
    del mutant[MAX_MUTANT_BYTES:]
    if mutant.startswith(PNG_SIGNATURE) and rng.random() < _REPAIR:
        repair_checksums(mutant)
    return bytes(mutant), names


def flip_bits(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Flip one to eight bits."""
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_bytes(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Set one to eight bytes to random values."""
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)


def set_integer(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Write an extreme number of 8, 16 or 32 bits anywhere, mostly near the start."""
    width = rng.choice((1, 2, 2, 4, 4))
    reach = len(data) if rng.random() < 0.3 else min(len(data), 200)
    _put(rng, data, rng.randrange(max(1, reach - width)), width, rng.choice("<>"))


def set_field(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Write an extreme or a close number into a size, a length or a count of the format."""
    if not (found := fields(bytes(data))):
        return
    field = rng.choice(found)
    if rng.random() < 0.6:
        _put(rng, data, field.at, field.width, field.order)
        return
    order = _name(field.order)
    old = int.from_bytes(data[field.at : field.at + field.width], order)
    new = (old + rng.choice((-2, -1, 1, 2, old, -(old // 2)))) % (1 << 8 * field.width)
    data[field.at : field.at + field.width] = new.to_bytes(field.width, order)


def copy_block(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Overwrite a block with another block of the same image."""
    start, size = _block(rng, data)
    to = rng.randrange(len(data))
    data[to : to + size] = data[start : start + size]


def duplicate_block(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Insert a block again, up to 40 times."""
    start, size = _block(rng, data)
    data[start:start] = bytes(data[start : start + size]) * rng.choice((1, 1, 2, 40))


def delete_block(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Remove a block."""
    start, size = _block(rng, data)
    del data[start : start + size]


def insert_block(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Insert random bytes, or one byte repeated."""
    start, size = _block(rng, data)
    same = bytes([rng.choice((0, 0xFF, rng.randrange(256)))]) * size
    data[start:start] = same if rng.random() < 0.5 else rng.randbytes(size)


def truncate(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Remove the end."""
    del data[rng.randrange(1, len(data)) :]


def splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Replace the end by, or insert, a part of another image."""
    if not other:
        return
    start = rng.randrange(len(other))
    if rng.random() < 0.5:
        data[rng.randrange(len(data)) :] = other[start:]
    else:
        at = rng.randrange(len(data))
        data[at:at] = other[start : start + _size(rng)]


MUTATORS: Sequence[Mutator] = (
    flip_bits,
    set_bytes,
    set_integer,
    set_field,
    set_field,  # twice, because it reaches the most code
    copy_block,
    duplicate_block,
    delete_block,
    insert_block,
    truncate,
    splice,
)


def repair_checksums(data: bytearray) -> None:
    """Recompute the checksums of a PNG's chunks, so that a decoder reads their content."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4)
        at = end + 4


def _put(rng: random.Random, data: bytearray, at: int, width: int, order: str) -> None:
    data[at : at + width] = rng.choice(_EXTREMES[width]).to_bytes(width, _name(order))


def _name(order: str) -> Order:
    return "little" if order == "<" else "big"


def _block(rng: random.Random, data: bytearray) -> tuple[int, int]:
    return rng.randrange(len(data)), _size(rng)


def _size(rng: random.Random) -> int:
    return rng.randint(1, _BLOCK if rng.random() < 0.875 else 4096)
