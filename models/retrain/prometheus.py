"""Instant queries to Prometheus, and nothing of what they mean."""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Protocol

from tidegate.models.retrain.errors import OptionRefused, PrometheusUnavailable, QueryRefused

_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 8 << 20  # a thousand classes are 0.2 MiB


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer; its value may be NaN."""

    labels: dict[str, str]
    value: float


class Ask(Protocol):
    """Asks one instant query."""

    def __call__(self, query: str, at_s: float) -> list[Sample]:
        """Return the vector at a Unix time.

        Raises QueryRefused, or PrometheusUnavailable when asking on is no use.
        """


def until_down(ask: Ask) -> Ask:
    """Return `ask` for one notification: after an outage it raises at once, and waits no more."""
    outage: list[PrometheusUnavailable] = []

    def asking(query: str, at_s: float) -> list[Sample]:
        if outage:
            raise PrometheusUnavailable(str(outage[0]))
        try:
            return ask(query, at_s)
        except PrometheusUnavailable as error:
            outage.append(error)
            raise

    return asking


class Prometheus:
    """The HTTP API of one server."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Raises OptionRefused when `url` is none."""
        self.url, self._timeout_s = _checked(url), timeout_s
        # No proxy from the environment: Prometheus is a neighbour.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __call__(self, query: str, at_s: float) -> list[Sample]:
        """Ask it."""
        words = urllib.parse.urlencode({"query": query, "time": f"{at_s:.3f}"})
        try:
            with self._opener.open(
                f"{self.url}/api/v1/query?{words}", timeout=self._timeout_s
            ) as answer:
                body = answer.read(_MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise PrometheusUnavailable(f"Prometheus at {self.url}: {_reason(error)}") from error
        if len(body) > _MAX_ANSWER_BYTES:
            raise QueryRefused(f"the answer is larger than {_MAX_ANSWER_BYTES} bytes")
        return _vector(body, self.url)


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        sound = sound and not (parts.query or parts.fragment) and url.isascii() and " " not in url
    except ValueError:
        sound = False
    if not sound:
        raise OptionRefused(f"--prometheus {url}: give the address as http://HOST:PORT.")
    return url.rstrip("/")


def _refusal(error: urllib.error.HTTPError) -> QueryRefused | PrometheusUnavailable:
    if error.code in {400, 422}:  # the query is at fault; another may be answered
        try:
            reason = json.loads(error.read(4096))["error"]
        except (OSError, ValueError, KeyError, TypeError):
            reason = f"HTTP {error.code}"
        return QueryRefused(str(reason))
    return PrometheusUnavailable(f"Prometheus answers HTTP {error.code}")


def _reason(error: OSError | http.client.HTTPException) -> str:
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)


def _vector(body: bytes, url: str) -> list[Sample]:
    try:
        data: Any = json.loads(body)["data"]
        if data["resultType"] != "vector":
            raise QueryRefused(f"a {data['resultType']}, not a vector")
        return [Sample(dict(s["metric"]), float(s["value"][1])) for s in data["result"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise PrometheusUnavailable(f"{url} does not answer as Prometheus does") from error


def finite(value: float) -> float | None:
    """Return what JSON can say of a value: NaN and infinities are null."""
    return value if math.isfinite(value) else None
