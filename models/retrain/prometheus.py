"""A client for Prometheus's instant queries."""

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
    """One series of a result; its value may be NaN."""

    labels: dict[str, str]
    value: float


class RunQuery(Protocol):
    """Runs one instant query."""

    def __call__(self, query: str, at_s: float) -> list[Sample]:
        """Return the vector at a Unix time.

        Raises QueryRefused, or PrometheusUnavailable if further queries would fail too.
        """


def until_down(run_query: RunQuery) -> RunQuery:
    """Wrap `run_query` for one notification: after an outage it raises at once, without waiting."""
    outage: list[PrometheusUnavailable] = []

    def asking(query: str, at_s: float) -> list[Sample]:
        if outage:
            raise PrometheusUnavailable(str(outage[0]))
        try:
            return run_query(query, at_s)
        except PrometheusUnavailable as error:
            outage.append(error)
            raise

    return asking


class Prometheus:
    """The HTTP API of one server."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Raises OptionRefused if `url` is not an http(s) address."""
        self.url, self._timeout_s = _checked(url), timeout_s
        # Ignore proxies in the environment: Prometheus is on the same network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __call__(self, query: str, at_s: float) -> list[Sample]:
        """Run the query."""
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
            raise QueryRefused(f"the result is larger than {_MAX_ANSWER_BYTES} bytes")
        return _vector(body, self.url)


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        sound = sound and not (parts.query or parts.fragment) and url.isascii() and " " not in url
    except ValueError:
        sound = False
    if not sound:
        raise OptionRefused(f"--prometheus {url}: use the form http://HOST:PORT.")
    return url.rstrip("/")


def _refusal(error: urllib.error.HTTPError) -> QueryRefused | PrometheusUnavailable:
    if error.code in {400, 422}:  # only this query failed
        try:
            reason = json.loads(error.read(4096))["error"]
        except (OSError, ValueError, KeyError, TypeError):
            reason = f"HTTP {error.code}"
        return QueryRefused(str(reason))
    return PrometheusUnavailable(f"Prometheus answered HTTP {error.code}")


def _reason(error: OSError | http.client.HTTPException) -> str:
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)


def _vector(body: bytes, url: str) -> list[Sample]:
    try:
        data: Any = json.loads(body)["data"]
        if data["resultType"] != "vector":
            raise QueryRefused(f"the result is a {data['resultType']}, not a vector")
        return [Sample(dict(s["metric"]), float(s["value"][1])) for s in data["result"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise PrometheusUnavailable(f"the answer of {url} is not Prometheus's") from error


def finite(value: float) -> float | None:
    """Return the value for JSON: None for NaN and infinities."""
    return value if math.isfinite(value) else None
