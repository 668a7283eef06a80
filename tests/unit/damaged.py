"""Damaged copies of a file, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damaged(content: bytes, number: int) -> Iterator[bytes]:
    """Yield `number` copies with bits flipped, bytes overwritten, cut, doubled or lost."""
    rng = random.Random(20)  # noqa: S311 - damage, no secret
    for _ in range(number):
        copy = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            if not copy:
                break
            # Headers and the directory lie near the ends, where damage has the most effect.
            near = min(len(copy), rng.choice((len(copy), 300, 1500)))
            at = rng.choice((rng.randrange(near), len(copy) - 1 - rng.randrange(near)))
            match rng.randrange(6):
                case 0 | 1:
                    copy[at] ^= 1 << rng.randrange(8)
                case 2:
                    copy[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 3:
                    copy[at : at + 4] = rng.randbytes(4)
                case 4:
                    copy[at:at] = copy[at : at + rng.randrange(1, 40)]
                case _:
                    del copy[at : at + rng.choice((1, 8, len(copy)))]
        yield bytes(copy)
