"""W3C Trace Context: the caller's `traceparent` and `tracestate`.

A service that exports no span passes both on as they came: an invented span id would be a hole in
the trace. A higher version is read as far as this version defines it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SAMPLED = 0x01
_KNOWN_FLAGS = 0x03  # sampled, random trace id; others must be sent as 0
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER = re.compile(rf"(?:{_KEY})=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")
_MOST_MEMBERS, _MOST_CHARACTERS = 32, 512


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A span that a request belongs to: the caller's, or the one that is exported for it."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16
    flags: int

    @property
    def sampled(self) -> bool:
        """Return whether its trace is recorded."""
        return bool(self.flags & SAMPLED)

    def header(self) -> bytes:
        """Return it as the value of a `traceparent` header."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags & _KNOWN_FLAGS:02x}".encode()


def parse_traceparent(value: bytes) -> TraceParent | None:
    """Return the caller's span; None if the value is invalid."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    trace_id, span_id, flags = (part.decode("ascii") for part in match.group(2, 3, 4))
    return TraceParent(trace_id, span_id, int(flags, 16))


def parse_tracestate(value: bytes) -> str:
    """Return the list of a `tracestate` header, at most 512 characters; "" if it is invalid."""
    members = [member.strip(" \t") for member in value.decode("latin-1").split(",")]
    members = [member for member in members if member]
    if len(members) > _MOST_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    while len(state := ",".join(members)) > _MOST_CHARACTERS:
        members.pop()  # the oldest
    return state
