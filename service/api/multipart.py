"""Files out of a multipart body that is already in memory and already bounded."""

from __future__ import annotations

from collections.abc import Iterator

from multipart import MultipartError, PushMultipartParser, parse_options_header

from service.errors import BadRequest


def is_multipart(content_type: str) -> bool:
    """Tell whether a body must be taken apart to find its image."""
    return content_type.lower().lstrip().startswith("multipart/")


def files(body: bytes, content_type: str, field: str, max_files: int) -> list[bytes]:
    """Return the contents of the parts named `field`, in order.

    Raises BadRequest when the body is malformed, or has none or more than `max_files` of them.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if kind.lower() != "multipart/form-data" or not boundary:
        raise BadRequest("Multipart uploads are multipart/form-data with a boundary.")
    try:
        found = [content for name, content in _parts(body, boundary, max_files) if name == field]
    except MultipartError as error:
        raise BadRequest(f"The multipart body is malformed: {error}.") from error
    if not found:
        raise BadRequest(f"The multipart body has no part named {field!r}.")
    if len(found) > max_files:
        raise BadRequest(f"At most {max_files} parts named {field!r}.")
    if not all(found):
        raise BadRequest(f"A part named {field!r} is empty; send the bytes of an image.")
    return found


def _parts(body: bytes, boundary: str, max_files: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each part; a few more than are wanted may be there, not many."""
    name, chunks = "", list[bytes]()
    with PushMultipartParser(
        boundary, content_length=len(body), max_segment_count=max_files + 16, strict=True
    ) as parser:
        for event in parser.parse(body):
            if event is None:
                yield name, b"".join(chunks)
            elif isinstance(event, bytearray | bytes):
                chunks.append(bytes(event))
            else:
                name, chunks = event.name, []
