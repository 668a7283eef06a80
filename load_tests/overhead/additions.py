"""The additions whose cost is measured: what is different about the server or its requests."""

import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.client.requests import Target, requests_of
from load_tests.client.synthetic_images import Picture
from load_tests.fuzz import wire
from load_tests.fuzz.server import SERVE, launch
from load_tests.overhead.keys import with_key, write_keys
from load_tests.overhead.scrape_cost import collector
from load_tests.overhead.side_by_side import Side
from load_tests.overhead.v2 import v2_requests
from load_tests.server.start import Started, running

_READY = wire.get(b"/readyz")
_SETTINGS = {"TIDEGATE_LOG_LEVEL": "info", "TIDEGATE_LOG_FORMAT": "json"}
_SHARE = "0.01"  # of the requests that are traced

Requests = Callable[[Sequence[Picture], Target, Path], Sequence[bytes]]


@dataclass(frozen=True)
class Variant:
    """A way to start the server, and the requests that it gets."""

    command: Sequence[str] = SERVE
    env: Mapping[str, str] = field(default_factory=dict)
    requests: Requests = lambda pictures, target, bundle: requests_of(pictures, target, None)

    def side(self, server: Started, pictures: Sequence[Picture], bundle: Path) -> Side:
        """Return a server with its requests.

        All have a key, so that heads are the same with and without keys.
        """
        target = Target.parse(server.url)
        requests = [with_key(one) for one in self.requests(pictures, target, bundle)]
        return Side(target, server.main_pid, requests)


@dataclass(frozen=True)
class Addition:
    """A variant to be compared with the plain server.

    If only the requests differ, `is_of_requests`, each of two servers can get both.
    """

    plain: Variant
    changed: Variant
    exported: Sequence[int] | None = None  # sizes of what the collector of traces got

    @property
    def is_of_requests(self) -> bool:
        """Return whether the servers are the same."""
        return (self.plain.command, self.plain.env) == (self.changed.command, self.changed.env)

    def sides(
        self, servers: tuple[Started, Started], pictures: Sequence[Picture], bundle: Path
    ) -> tuple[Side, Side]:
        """Return both sides; the first server is without the addition."""
        plain, changed = servers
        return (
            self.plain.side(plain, pictures, bundle),
            self.changed.side(changed, pictures, bundle),
        )


@asynccontextmanager
async def addition(name: str, keys: int, before: Sequence[str]) -> AsyncIterator[Addition]:
    """Yield the addition with this name: traces, keys, v2 or change."""
    plain = Variant()
    if name == "traces":
        async with collector() as (url, exported):
            env = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": _SHARE,
            }
            yield Addition(plain, Variant(env=env), exported)
    elif name == "keys":
        with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
            file = write_keys(Path(folder) / "keys", keys)
            yield Addition(plain, Variant(env={"TIDEGATE_KEYS": str(file)}))
    elif name == "v2":
        yield Addition(plain, Variant(requests=v2_requests))
    else:
        yield Addition(Variant(command=before), plain)


def served(
    bundle: Path, command: Sequence[str] = SERVE, env: Mapping[str, str] | None = None
) -> AbstractAsyncContextManager[Started]:
    """Start a server that logs as in production."""
    start = launch(bundle, {**_SETTINGS, **(env or {})}, command=command)
    return running(start.command, start.env, start.url, _READY)


@asynccontextmanager
async def both_served(
    addition: Addition, bundle: Path, rng: random.Random, env: Mapping[str, str]
) -> AsyncIterator[tuple[Started, Started]]:
    """Start the plain and the changed server, both with `env`; which one first is random."""
    variants = [addition.plain, addition.changed]
    async with AsyncExitStack() as stack:
        started: dict[int, Started] = {}
        for index in rng.sample(range(2), 2):
            variant = variants[index]
            server = served(bundle, variant.command, {**env, **variant.env})
            started[index] = await stack.enter_async_context(server)
        yield started[0], started[1]
