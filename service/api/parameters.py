"""The parameters of a classify request: the number of classes and the timeout."""

from __future__ import annotations

from urllib.parse import parse_qsl

from tidegate.service.errors import BadRequest

TOP_K, MAX_TOP_K = 5, 10_000
MAX_TIMEOUT_MS = 2**63 - 1  # clients without a deadline send this; it is capped, not rejected
_MAX_QUERY_FIELDS = 64


def parse_top_k(query: bytes) -> int:
    """Return the `top_k` of a query string; other fields are ignored. Raises BadRequest."""
    if not query:
        return TOP_K
    try:
        fields = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS
        )
    except ValueError:
        raise BadRequest(f"The query has more than {_MAX_QUERY_FIELDS} fields.") from None
    values = [value for name, value in fields if name == "top_k"]
    if len(values) > 1:
        raise BadRequest("top_k is given more than once.")
    return _positive_int("top_k", values[0], MAX_TOP_K) if values else TOP_K


def parse_timeout_s(timeout_ms: str) -> float:
    """Return the value of X-Request-Timeout-Ms in seconds. Raises BadRequest."""
    return _positive_int("X-Request-Timeout-Ms", timeout_ms, MAX_TIMEOUT_MS) / 1000


def _positive_int(name: str, text: str, maximum: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= maximum:
        return int(text)
    raise BadRequest(f"{name} must be a whole number from 1 to {maximum}.")
