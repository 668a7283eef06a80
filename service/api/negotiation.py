"""Which format and which coding of /metrics a scraper accepts."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS

_MOST_RANGES = 32  # of one header


def content_type_of(accept: str) -> str:
    """Return the content type for an Accept header: the best one it names, else plain text 0.0.4.

    OpenMetrics is version 1.0.0, for a header that names no version or at least 1.
    """
    for media, parameters in _by_preference(accept):
        version = parameters.get("version", "")
        if media == "application/openmetrics-text" and _is_at_least_1(version or "1"):
            return f"{OPENMETRICS}; escaping=underscores"
        if media == "text/plain" and _is_at_least_1(version):
            return f"{CONTENT_TYPE_PLAIN_1_0_0}; escaping=underscores"
        if media in ("text/plain", "text/*", "*/*"):
            break
    return CONTENT_TYPE_PLAIN_0_0_4


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header names gzip."""
    return any(coding == "gzip" for coding, _ in _by_preference(accept_encoding))


def _by_preference(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the values of a header with their parameters, without those of quality 0."""
    ranges = []
    for given in header.split(",")[:_MOST_RANGES]:
        value, *rest = given.split(";")
        pairs = (one.partition("=") for one in rest)
        parameters = {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}
        quality = _quality(parameters.get("q", "1"))
        if quality > 0:
            ranges.append((quality, value.strip().lower(), parameters))
    for _, value, parameters in sorted(ranges, key=lambda one: -one[0]):
        yield value, parameters


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _is_at_least_1(version: str) -> bool:
    major = version.partition(".")[0]
    return major.isascii() and major.isdigit() and int(major[:9]) >= 1
