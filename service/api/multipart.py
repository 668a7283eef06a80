"""Extract files from a multipart body as it arrives; other parts are dropped."""

from __future__ import annotations

import re

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from tidegate.service.api.body import Pieces
from tidegate.service.errors import BadRequest

_OTHER_PARTS = 16  # form fields that are allowed and ignored
_MAX_CONTENT_TYPE = 1024
_MAX_BOUNDARY = 256  # RFC 2046 allows 70
# Clients send unquoted boundaries with characters that a token does not allow: "/", ":", "=", …
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_AS_IT_IS = {"7bit", "8bit", "binary"}


def is_multipart(content_type: str) -> bool:
    """Return whether a body with this Content-Type is multipart."""
    return content_type.lower().lstrip().startswith("multipart/")


class FormFiles:
    """The parts named `field` of a multipart/form-data body, at most `max_files` of them.

    If no part has that name, the parts with a file name are taken instead.
    """

    def __init__(self, content_type: str, field: str, max_files: int) -> None:
        """Raises BadRequest if the Content-Type is not multipart/form-data with a boundary."""
        self._parser = PushMultipartParser(
            _boundary(content_type),
            max_segment_count=max_files + _OTHER_PARTS,
            header_charset="latin-1",  # accepts any bytes; the file name is not used
        )
        self._field = field
        self._max_files = max_files
        self._named: list[bytes] = []
        self._others: list[bytes] = []  # files with other names, until the first named part
        self._part: Pieces | None = None  # of the file that is being parsed
        self._is_named = False  # whether that part has the name

    def add(self, chunk: bytes) -> None:
        """Parse the next piece of the body. Raises BadRequest if it is malformed."""
        try:
            for event in self._parser.parse(chunk):
                self._on(event)
        except MultipartError as error:
            raise _malformed(error) from None

    def files(self) -> list[bytes]:
        """Return the files' contents in order. Raises BadRequest if there are no files."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise _malformed(error) from None
        files = self._named or self._others
        if not files:
            raise BadRequest(f'The multipart body has no part named "{self._field}", and no file.')
        if len(files) > self._max_files:
            raise BadRequest(
                f'The multipart body has {len(files)} files and none is named "{self._field}"; '
                f"at most {self._max_files} can be sent."
            )
        return files

    def _on(self, event: MultipartSegment | bytes | None) -> None:
        if isinstance(event, MultipartSegment):
            self._part = self._start(event)
        elif self._part is not None:
            if event is None:
                (self._named if self._is_named else self._others).append(self._part.joined())
                self._part = None
            else:
                self._part.add(event)

    def _start(self, segment: MultipartSegment) -> Pieces | None:
        if not segment.name:
            raise BadRequest("A part of the multipart body has no name.")
        self._is_named = segment.name == self._field
        if self._is_named:
            self._others.clear()
        elif segment.filename is None or self._named:
            return None
        if len(self._named) == self._max_files:
            parts = "part" if self._max_files == 1 else "parts"
            raise BadRequest(f'At most {self._max_files} {parts} named "{self._field}".')
        encoding = segment.header("Content-Transfer-Encoding", "binary").strip().lower()
        if encoding not in _AS_IT_IS:
            raise BadRequest(
                "Parts with a Content-Transfer-Encoding are not supported; send the raw bytes."
            )
        return Pieces()


def _boundary(content_type: str) -> bytes:
    kind = content_type[:_MAX_CONTENT_TYPE].partition(";")[0].strip().lower()
    if kind != "multipart/form-data" or len(content_type) > _MAX_CONTENT_TYPE:
        raise BadRequest("Multipart uploads must be multipart/form-data with a boundary.")
    parameters = _PARAMETER.finditer(content_type)  # each is skipped as a whole, with its quotes
    found = next((p for p in parameters if p[1].lower() == "boundary"), None)
    boundary = "" if found is None else found[3] or re.sub(r"\\(.)", r"\1", found[2] or "")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise BadRequest(f"The multipart boundary must have 1 to {_MAX_BOUNDARY} characters.")
    return boundary.encode("latin-1")


def _malformed(error: MultipartError) -> BadRequest:
    # The first argument is the library's message; the others may be Python objects.
    return BadRequest(f"The multipart body is malformed: {error.args[0]}.")
