"""A Locust file that imports nothing else of this package, for an environment with Locust.

    LOAD_IMAGES=DIR locust -f load_tests/locustfile.py --host http://127.0.0.1:8000

`LOAD_IMAGES` is a folder, searched recursively; `LOAD_DEADLINE_MS`, if set, is sent as
`X-Request-Timeout-Ms`. A 200 and a 422 `out-of-distribution` count as answered, because both cost
an inference. Every other response is a failure, grouped by status, problem code, and for a 503 by
whether it has a Retry-After header.

Locust's users wait for an answer before they send the next request (a closed loop). A server that
stalls therefore receives fewer requests while it stalls, and the missing requests are in no
percentile (coordinated omission): latencies under load look better than real ones, and a rate
above the capacity cannot be offered. Use it to measure a capacity or to try a scenario. For
latency, goodput and overload use `python -m load_tests run --rate` or `python -m load_tests sweep`,
which send on a schedule and measure from the intended time.
"""

from __future__ import annotations

import json
import mimetypes
import os
import random
from collections.abc import Mapping
from pathlib import Path

from locust import FastHttpUser, constant, events, task

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_requests: list[tuple[bytes, dict[str, str]]] = []  # global, because Locust creates the users


class Classifier(FastHttpUser):  # type: ignore[misc]  # untyped: locust is not installed here
    """A user who posts one image after the other, without a pause, even after a rejection."""

    wait_time = constant(0)

    @task  # type: ignore[untyped-decorator]  # as above
    def classify(self) -> None:
        """Post an image and check the response."""
        body, headers = random.choice(_requests)
        with self.client.post(
            "/classify", data=body, headers=headers, catch_response=True
        ) as response:
            if not response.status_code:
                return  # no response: Locust records the failure with its reason
            failure = verdict(response.status_code, response.headers, response.content or b"")
            if failure is None:
                response.success()
            else:
                response.failure(failure)


@events.init.add_listener  # type: ignore[untyped-decorator]  # as above
def prepare(**_: object) -> None:
    """Read the images before the first user starts; exits with a message if there are none."""
    _requests[:] = read_requests(os.environ)


def read_requests(environment: Mapping[str, str]) -> list[tuple[bytes, dict[str, str]]]:
    """Return body and headers per image; raises SystemExit with the reason if there is none."""
    folder = environment.get("LOAD_IMAGES")
    if not folder:
        raise SystemExit("LOAD_IMAGES is not set: name a folder of images")
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"no image below {folder} (LOAD_IMAGES)")
    deadline = environment.get("LOAD_DEADLINE_MS")
    timeout = {"X-Request-Timeout-Ms": deadline} if deadline else {}
    return [(path.read_bytes(), {"Content-Type": _type(path), **timeout}) for path in paths]


def verdict(status: int, headers: Mapping[str, str], body: bytes) -> str | None:
    """Return None for an answer, otherwise the kind of failure, by which Locust groups."""
    code = problem_code(body) if status != 200 else None
    if status == 200 or (status == 422 and code == "out-of-distribution"):
        return None
    kind = f"{status} {code}" if code else str(status)
    if status == 503:
        return f"{kind}, {'with' if headers.get('Retry-After') else 'without'} Retry-After"
    return kind


def problem_code(body: bytes) -> str | None:
    """Return the last segment of a problem's `type` (RFC 9457); None if the body is no problem."""
    try:
        problem = json.loads(body)
    except ValueError:
        return None
    kind = problem.get("type") if isinstance(problem, dict) else None
    return kind.rsplit("/", 1)[-1].rsplit(":", 1)[-1] if isinstance(kind, str) else None


def _type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"
