"""A kept image's sidecar: its content, and how to read one safely from an untrusted folder."""

from __future__ import annotations

import json
import os
import stat
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT = "tidegate-review/1"  # marks a file as the store's own
MAX_BYTES = 65_536
STEM = r"[0-9a-f]{24}"
IMAGE_FORMATS = "bmp|gif|jpeg|png|tiff|webp"

_ClassId = Annotated[int, Field(ge=0, lt=10_000_000)]


class Sidecar(BaseModel):
    """The fields that the export uses; the others are informational."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    file: Annotated[str, Field(pattern=r"^[^/\x00.][^/\x00]*$", max_length=200)]
    class_id: _ClassId
    label: str
    true_class: _ClassId | None = None


class OwnSidecar(Sidecar):
    """A sidecar with the store's mark, which the store may therefore delete."""

    format: Literal["tidegate-review/1"]
    file: Annotated[str, Field(pattern=rf"^{STEM}\.({IMAGE_FORMATS})$")]


S = TypeVar("S", bound=Sidecar)


def written(fields: dict[str, Any]) -> bytes:
    """Return a sidecar's bytes, with the mark of the format."""
    return (json.dumps({"format": FORMAT, **fields}, ensure_ascii=False) + "\n").encode()


def read(kind: type[S], name: str, day: int) -> S:
    """Return the sidecar `name` in the folder open as `day`.

    Raises OSError if it cannot be read, and ValueError if it is not of this kind.
    """
    with open(open_regular(name, day), "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "the content"
        raise ValueError(f"{field}: {first['msg']}") from error


def open_regular(name: str, day: int | None = None) -> int:
    """Return a descriptor of a regular file, without waiting for a pipe or following a link.

    `name` is a file in the folder open as `day`, or a path. Raises OSError, or ValueError if the
    file is not a regular one.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=day)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is not a regular file")
    return descriptor
