"""An observation as bytes, for the note of a slot. Its features are in the slot already. Pure."""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import get_args

import numpy as np

from tidegate.service.drift.duplicates import Fingerprint
from tidegate.service.observing import Observation, Tag
from tidegate.service.types import Decision, Float32

LONGEST_TEXT = 300  # of each text; a longer one is hashed
_DECISIONS: tuple[Decision, ...] = get_args(Decision)
_JUDGED, _SHADOWED = 1, 2
_HEAD = struct.Struct("<9dQdIBBBHHH")
_CELLS = 64


def pack_note(seen: Observation) -> bytes:
    """Return an observation without its features."""
    tag = seen.tag
    texts = [_short(text) for text in (tag.image_id, tag.key or "", seen.client)]
    flags = _JUDGED * (tag.key is not None) + _SHADOWED * tag.is_shadowed
    head = _HEAD.pack(
        seen.received,
        seen.time,
        seen.probability,
        seen.p_value,
        seen.total_s,
        seen.queue_s,
        seen.decode_s,
        seen.engine_s,
        seen.gates_s,
        seen.fingerprint.pixels,
        seen.fingerprint.contrast,
        seen.class_id,
        _DECISIONS.index(seen.decision),
        flags,
        len(seen.scores),
        *map(len, texts),
    )
    scores = _doubles(len(seen.scores)).pack(*seen.scores)
    return b"".join([head, seen.fingerprint.cells.tobytes(), scores, *texts])


def unpack_note(note: memoryview, features: Float32) -> Observation:
    """Return an observation with the image's `features`, [D].

    Raises ValueError if the note is not one.
    """
    try:
        return _unpack(note, features)
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a note: {error}") from error


def _unpack(note: memoryview, features: Float32) -> Observation:
    *numbers, pixels, contrast, class_id, decision, flags, scores, i, j, k = _HEAD.unpack_from(note)
    at = _HEAD.size
    cells = np.frombuffer(note, np.float32, _CELLS, at).copy()
    at += cells.nbytes
    values = _doubles(scores).unpack_from(note, at)
    at += 8 * scores
    texts = note[at : at + i + j + k].tobytes()
    key = _text(texts[i : i + j]) if flags & _JUDGED else None
    received, moment, probability, p_value, total_s, queue_s, decode_s, engine_s, gates_s = numbers
    return Observation(
        Tag(_text(texts[:i]), key, bool(flags & _SHADOWED)),
        _text(texts[i + j :]),
        received,
        moment,
        class_id,
        probability,
        _DECISIONS[decision],
        p_value,
        values,
        Fingerprint(pixels, cells, contrast),
        features,
        total_s,
        queue_s,
        decode_s,
        engine_s,
        gates_s,
    )


@lru_cache(maxsize=32)
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d")


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "surrogatepass")


def _short(text: str) -> bytes:
    """Return a text's bytes, or the hash of a long one, which is only compared with others."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_TEXT:
        return encoded
    return hashlib.blake2b(encoded, digest_size=16).hexdigest().encode()
