"""Live traffic in interleaved windows with and without a shadow."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from load_tests.client.connection import Response
from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.fuzz import wire
from load_tests.generator.intervals import Interval, latencies
from load_tests.generator.loops import Outcome
from load_tests.generator.statistics import quantiles_ms
from load_tests.rollout.models_folder import Log, ModelsFolder
from load_tests.scenarios.findings import Finding, at_least, at_most, fact, ratio
from load_tests.server.start import Started, send_request

P99_RATIO = 1.05  # with a shadow, to without
GOODPUT_RATIO = 0.98  # the same; less is more than a window's measurement error
REFUSED = "the serving file is refused"  # as the service logs it
LOAD_S = 300.0  # for loading the shadow during traffic
_METRICS_S = 60.0  # two versions of 1,000 classes have many series
_IMAGES = "tidegate_shadow_images_total{"
OUTCOMES = ("compared", "dropped", "failed")


@dataclass
class Arm:
    """All windows under one load, with or without a shadow."""

    windows: list[Sequence[Outcome]] = field(default_factory=list)
    seconds: float = 0.0
    shadowed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))

    def add(self, outcomes: Sequence[Outcome], seconds: float, shadowed: dict[str, int]) -> None:
        """Add a window; `shadowed` is how many images the shadow computed, by outcome."""
        self.windows.append(outcomes)
        self.seconds += seconds
        for name, number in shadowed.items():
            self.shadowed[name] += number

    @property
    def outcomes(self) -> list[Outcome]:
        """Return the requests of all windows."""
        return [outcome for window in self.windows for outcome in window]

    @property
    def failed(self) -> int:
        """Return the number of requests without an answer."""
        return sum(not outcome.answered for outcome in self.outcomes)

    def quantile_ms(self, name: str) -> float | None:
        """Return a quantile of the answered requests' latency."""
        return quantiles_ms([o.latency_s for o in self.outcomes if o.answered]).get(name)

    def goodput(self, deadline_s: float) -> float:
        """Return the answers within a deadline, per second."""
        return sum(self.good(deadline_s)) / self.seconds

    def good(self, deadline_s: float) -> list[int]:
        """Return how many answers within a deadline each window has."""
        return [
            sum(outcome.answered and outcome.latency_s <= deadline_s for outcome in window)
            for window in self.windows
        ]


def order(rounds: int) -> list[bool]:
    """Return whether each window has a shadow; a drift of the machine affects both alike."""
    return [shadowed for number in range(rounds) for shadowed in _pair(number)]


def _pair(number: int) -> tuple[bool, bool]:
    return (False, True) if number % 2 == 0 else (True, False)


async def switch(
    models: ModelsFolder, started: Started, version: str, shadow: str, share: float
) -> None:
    """Serve `version` with a shadow, or none (""), and wait until it is so.

    Raises MeasurementFailed if the service refuses it.
    """
    log = Log(started.log)
    if not models.serve(version, shadow, share):
        return
    os.kill(started.main_pid, signal.SIGHUP)  # it would take some seconds to notice
    message = await log.message(f"reload of {models.model}: ", REFUSED, timeout_s=LOAD_S)
    if "refused" in message:
        raise MeasurementFailed(message)


async def shadowed(target: Target) -> dict[str, int]:
    """Return how many images the shadow has computed, by outcome. Raises MeasurementFailed."""
    response = await send_request(target, wire.get(b"/metrics"), _METRICS_S)
    if response is None or response.status != 200:
        raise MeasurementFailed("the server did not answer /metrics")
    return parse(response)


def parse(response: Response) -> dict[str, int]:
    """Return the counters in the text of /metrics, over all models."""
    found = dict.fromkeys(OUTCOMES, 0)
    for line in response.body.decode("utf-8", "replace").splitlines():
        if not line.startswith(_IMAGES):
            continue
        for name in OUTCOMES:
            if f'outcome="{name}"' in line:
                found[name] += int(float(line.rpartition(" ")[2]))
    return found


def of_latency(name: str, without: Arm, with_one: Arm) -> list[Finding]:
    """Compare the latencies below the capacity."""
    p99, p99_with = without.quantile_ms("p99"), with_one.quantile_ms("p99")
    pairs = zip(without.windows, with_one.windows, strict=True)
    interval = Interval.of_p99([(latencies(a), latencies(b)) for a, b in pairs])
    return [
        fact(f"{name}: p50 without", without.quantile_ms("p50"), "ms"),
        fact(f"{name}: p50 with a shadow", with_one.quantile_ms("p50"), "ms"),
        fact(f"{name}: p99 without", p99, "ms"),
        fact(f"{name}: p99 with a shadow", p99_with, "ms"),
        at_most(f"{name}: p99, ratio", interval.ratio, P99_RATIO, "×"),
        *_ends(f"{name}: p99, ratio", interval),
        at_most(f"{name}: failed, more than without", with_one.failed - without.failed, 0, ""),
        *of_shadow(name, with_one),
    ]


def of_goodput(name: str, without: Arm, with_one: Arm, deadline_s: float) -> list[Finding]:
    """Compare the goodput beyond the capacity."""
    good, good_with = without.goodput(deadline_s), with_one.goodput(deadline_s)
    pairs = list(zip(without.good(deadline_s), with_one.good(deadline_s), strict=True))
    return [
        fact(f"{name}: goodput without", good, "/s"),
        fact(f"{name}: goodput with a shadow", good_with, "/s"),
        at_least(f"{name}: goodput, ratio", ratio(good_with, good), GOODPUT_RATIO, "×"),
        *(_ends(f"{name}: goodput, ratio", Interval.of(pairs)) if all(map(all, pairs)) else ()),
        *of_shadow(name, with_one),
    ]


def of_shadow(name: str, with_one: Arm) -> list[Finding]:
    """Return how many images the shadow computed and dropped."""
    return [
        fact(f"{name}: {outcome} by the shadow", number, "images")
        for outcome, number in with_one.shadowed.items()
    ]


def _ends(quantity: str, interval: Interval) -> list[Finding]:
    return [
        fact(f"{quantity}: lower end of 95 %", interval.low, "×"),
        fact(f"{quantity}: upper end of 95 %", interval.high, "×"),
    ]
