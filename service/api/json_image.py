"""Images as base64 text in JSON: `{"image": "…"}`, and the text's decoding.

Bodies are decoded by msgspec into declared types. A general parser would create an object for each
value of a hostile document, which takes more than thirty times the memory of its text.
"""

from __future__ import annotations

import asyncio
import binascii
from typing import TypeVar

import msgspec

from tidegate.service.api.uploads import Reservation
from tidegate.service.errors import BadRequest

T = TypeVar("T")

_STEP = 64 * 1024  # characters between two turns of other requests; a multiple of four
_COPIES = 4  # in memory at once: the body, its text and, while they grow, the decoded bytes
_DATA_URL = "data:"
_STARTS = (b"{", b" ", b"\t", b"\r", b"\n")


class ImageBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON body of POST /classify."""

    image: str


_IMAGE = msgspec.json.Decoder(ImageBody)


def is_json_object(body: bytes) -> bool:
    """Return whether a body begins as a JSON object does, as no image format does."""
    return body.startswith(_STARTS) and body.lstrip()[:1] == b"{"


async def image_of(body: bytes, reservation: Reservation) -> bytes:
    """Return the image of a JSON body. Raises BadRequest, or Overloaded without memory for it."""
    return await decode_base64(parse(_IMAGE, body, reservation).image, "image")


def parse(decoder: msgspec.json.Decoder[T], body: bytes, reservation: Reservation) -> T:
    """Return a JSON body as the decoder's type, and reserve the memory that its texts take.

    Raises BadRequest with the place of the first error, or Overloaded.
    """
    reservation.grow_to(_COPIES * len(body))
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The JSON body is not as expected: {error}.") from None


async def decode_base64(text: str, name: str) -> bytes:
    """Return the bytes of standard base64, with or without padding or a `data:` URL's prefix.

    Other requests are handled in between. Raises BadRequest with the `name` of the field.
    """
    if text.startswith(_DATA_URL):
        text = text.partition(",")[2]
    decoded = bytearray()
    try:
        for start in range(0, len(text), _STEP):
            step = text[start : start + _STEP]
            if start + _STEP < len(text):
                if "=" in step:
                    raise BadRequest(f"{name} is not base64: it has padding before its end.")
                await asyncio.sleep(0)
            else:
                step += "=" * (-len(step) % 4)
            decoded += binascii.a2b_base64(step, strict_mode=True)
    except ValueError:  # binascii.Error is one; so is text outside ASCII
        raise BadRequest(f"{name} is not base64 (RFC 4648, section 4).") from None
    return bytes(decoded)
