"""Content negotiation between two media types (RFC 9110, 12.5.1)."""

from __future__ import annotations


def prefers(accept: str, offered: str, usual: str) -> bool:
    """Return whether an Accept header names `offered`, and does not weigh `usual` more.

    A wildcard asks for neither: such a client gets the usual type.
    """
    weights = dict(map(_media_range, accept.lower().split(",")))
    return weights.get(offered, 0.0) > 0 and weights[offered] >= weights.get(usual, 0.0)


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, _weight(value)
    return name, 1.0


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
