"""The parameters of a classify request: what the answer shall contain, and the timeout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from tidegate.service.errors import BadRequest

TOP_K, MAX_TOP_K = 5, 10_000
MAX_TIMEOUT_MS = 2**63 - 1  # clients without a deadline send this; it is capped, not rejected
_MAX_QUERY_FIELDS = 64

FeatureForm = Literal["", "list", "base64"]
FEATURE_FORMS: dict[str, FeatureForm] = {
    "": "",
    "false": "",
    "true": "list",
    "base64": "base64",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the answer shall contain."""

    top_k: int = TOP_K
    min_probability: float = 0.0
    features: FeatureForm = ""  # "" for none


USUAL = Wanted()  # of a request without a query


def parse_wanted(query: bytes) -> Wanted:
    """Return what a query string asks for; unknown fields are ignored. Raises BadRequest."""
    fields = query_fields(query, ("top_k", "min_probability", "features"))
    forms = FEATURE_FORMS.get(fields.get("features", ""))
    if forms is None:
        raise BadRequest("features must be true, base64 or false.")
    return Wanted(_top_k(fields), _min_probability(fields), forms)


def parse_top_k(query: bytes) -> int:
    """Return the `top_k` of a query string; other fields are ignored. Raises BadRequest."""
    return _top_k(query_fields(query, ("top_k",)))


def parse_timeout_s(timeout_ms: str) -> float:
    """Return the value of X-Request-Timeout-Ms in seconds. Raises BadRequest."""
    return positive_int("X-Request-Timeout-Ms", timeout_ms, MAX_TIMEOUT_MS) / 1000


def query_fields(query: bytes, names: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a query string that have one of these names.

    Raises BadRequest if one is repeated, or if there are too many fields.
    """
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS
        )
    except ValueError:
        raise BadRequest(f"The query has more than {_MAX_QUERY_FIELDS} fields.") from None
    known = [(name, value) for name, value in pairs if name in names]
    fields = dict(known)
    if len(fields) < len(known):
        repeated = next(name for name in names if sum(n == name for n, _ in known) > 1)
        raise BadRequest(f"{repeated} is given more than once.")
    return fields


def positive_int(name: str, text: str, maximum: int) -> int:
    """Return a whole number from 1 to `maximum`. Raises BadRequest."""
    return whole_number(name, text, 1, maximum)


def whole_number(name: str, text: str, minimum: int, maximum: int) -> int:
    """Return a whole number from `minimum` to `maximum`, in ASCII digits. Raises BadRequest."""
    if text.isascii() and text.isdigit() and len(text) < 20 and minimum <= int(text) <= maximum:
        return int(text)
    raise BadRequest(f"{name} must be a whole number from {minimum} to {maximum}.")


def _top_k(fields: dict[str, str]) -> int:
    return positive_int("top_k", fields["top_k"], MAX_TOP_K) if "top_k" in fields else TOP_K


def _min_probability(fields: dict[str, str]) -> float:
    try:
        value = float(fields.get("min_probability", "0"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # also if it is NaN
        raise BadRequest("min_probability must be a number from 0 to 1.")
    return value
