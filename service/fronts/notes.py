"""An observation as bytes, for the note of a slot. Its features are in the slot already. Pure."""

from __future__ import annotations

import hashlib
import struct
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
    scores = struct.pack(f"<{len(seen.scores)}d", *seen.scores)
    return b"".join([head, seen.fingerprint.cells.tobytes(), scores, *texts])


def unpack_note(note: memoryview, features: Float32) -> Observation:
    """Return an observation; `features` are those of the image, [D], which are copied.

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
    values = struct.unpack_from(f"<{scores}d", note, at)
    at += 8 * scores
    image_id, key, client = (
        bytes(note[at + start : at + start + length]).decode("utf-8", "surrogatepass")
        for start, length in ((0, i), (i, j), (i + j, k))
    )
    received, moment, probability, p_value, total_s, queue_s, decode_s, engine_s, gates_s = numbers
    return Observation(
        tag=Tag(image_id, key if flags & _JUDGED else None, bool(flags & _SHADOWED)),
        client=client,
        received=received,
        time=moment,
        class_id=class_id,
        probability=probability,
        decision=_DECISIONS[decision],
        p_value=p_value,
        scores=values,
        fingerprint=Fingerprint(pixels, cells, contrast),
        features=features.copy(),
        total_s=total_s,
        queue_s=queue_s,
        decode_s=decode_s,
        engine_s=engine_s,
        gates_s=gates_s,
    )


def _short(text: str) -> bytes:
    """Return a text's bytes, or the hash of a long one, which is only compared with others."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_TEXT:
        return encoded
    return hashlib.blake2b(encoded, digest_size=16).hexdigest().encode()
