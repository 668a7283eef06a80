"""Windows of servers of several shapes, and what their processes cost. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median

from load_tests.generator.loops import Outcome
from load_tests.generator.statistics import quantiles_ms
from load_tests.scenarios.findings import Finding, at_least, at_most, fact

GAIN, LOOP_US, P50_MORE_MS, FLOOD = 1.6, 60.0, 0.3, 8000.0


@dataclass
class Shape:
    """One number of front ends; 0 is one process that does everything."""

    front_ends: int
    rates: list[float] = field(default_factory=list)  # answers/s, one per window
    engine_ms: list[float] = field(default_factory=list)  # CPU of the first process, per image
    loop_ms: list[float] = field(default_factory=list)  # of its event loop
    fronts_ms: list[float] = field(default_factory=list)  # of all front ends
    alone: list[Outcome] = field(default_factory=list)  # of one client
    failed: int = 0

    @property
    def name(self) -> str:
        """Return its name in the report."""
        if not self.front_ends:
            return "one process"
        return f"{self.front_ends} front end{'s' * (self.front_ends > 1)}"

    @property
    def p50_ms(self) -> float | None:
        """Return the median latency of one client."""
        return quantiles_ms([one.latency_s for one in self.alone if one.answered]).get("p50")

    def add(self, outcomes: Sequence[Outcome], window: "Window") -> None:
        """Add a window under load."""
        answered = sum(one.answered for one in outcomes)
        self.failed += len(outcomes) - answered
        self.rates.append(answered / window.seconds)
        self.engine_ms.append(1e3 * window.engine_s / answered)
        self.loop_ms.append(1e3 * window.loop_s / answered)
        self.fronts_ms.append(1e3 * window.fronts_s / answered)


@dataclass(frozen=True)
class Window:
    """What a window took, and the CPU seconds that the processes used in it."""

    seconds: float
    engine_s: float
    loop_s: float
    fronts_s: float


def findings_of(shapes: Sequence[Shape], what: str) -> list[Finding]:
    """Return the figures of every shape, and whether the aims are met."""
    findings = []
    for shape in shapes:
        named = f"{what}, {shape.name}: "
        findings += [
            fact(f"{named}answers, median of windows", median(shape.rates), "/s"),
            fact(f"{named}CPU per image of the first process", fmean(shape.engine_ms), "ms"),
            fact(f"{named}of which its event loop", fmean(shape.loop_ms), "ms"),
            fact(f"{named}CPU per image of the front ends", fmean(shape.fronts_ms), "ms"),
            fact(f"{named}p50 of one client", shape.p50_ms, "ms"),
            at_most(f"{named}failed", shape.failed, 0, ""),
        ]
    one, last = shapes[0], shapes[-1]
    gain = median(last.rates) / median(one.rates)
    findings.append(at_least(f"{what}: {last.name} against {one.name}", gain, GAIN, "×"))
    if last.p50_ms is not None and one.p50_ms is not None:
        more = last.p50_ms - one.p50_ms
        findings.append(at_most(f"{what}: p50 of one client, more", more, P50_MORE_MS, "ms"))
    return findings


def findings_of_floods(floods: Sequence[Mapping[str, float]], in_flight: int) -> list[Finding]:
    """Return what the process of the engine does without HTTP around it, and without notes."""
    of, named = partial(_median, floods), f"flood, {in_flight} in flight: "
    return [
        at_least(f"{named}images, median", of("images_per_s"), FLOOD, "/s"),
        fact(f"{named}images per batch", of("images_per_batch"), ""),
        fact(f"{named}CPU per image of the engine's process", of("cpu_us_per_image"), "µs"),
        fact(f"{named}of which its event loop", of("loop_us_per_image"), "µs"),
    ]


def findings_of_observed(floods: Sequence[Mapping[str, float]], in_flight: int) -> list[Finding]:
    """Return the same with a note of each image, for metrics, drift and feedback."""
    of, named = partial(_median, floods), f"observed flood, {in_flight} in flight: "
    return [
        fact(f"{named}images, median", of("images_per_s"), "/s"),
        fact(f"{named}images per batch", of("images_per_batch"), ""),
        fact(f"{named}CPU per image of the engine's process", of("cpu_us_per_image"), "µs"),
        at_most(f"{named}of which its event loop", of("loop_us_per_image"), LOOP_US, "µs"),
    ]


def findings_of_parts(
    floods: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
) -> list[Finding]:
    """Return the parts of the event loop's CPU time per image, of floods and their profiles."""
    loop_us = _median([flood for flood, _ in floods], "loop_us_per_image")
    parts = _mean_of_parts([shares for _, shares in floods])
    return [fact(f"observed flood, loop: {name}", loop_us * n, "µs") for name, n in parts.items()]


@dataclass
class Profile:
    """One process, and which part of its event loop's samples each part of the service has."""

    shape: Shape = field(default_factory=lambda: Shape(0))
    shares: list[Mapping[str, float]] = field(default_factory=list)

    def parts_us(self) -> dict[str, float]:
        """Return the event loop's CPU time per image in each part, the longest first."""
        loop_us = 1e3 * fmean(self.shape.loop_ms)
        return {part: loop_us * share for part, share in _mean_of_parts(self.shares).items()}


def findings_of_profiles(profiles: Mapping[str, Profile]) -> list[Finding]:
    """Return the CPU time per image of each process, by name, and of the parts of its loop."""
    findings = []
    for name, profile in profiles.items():
        shape = profile.shape
        findings += [
            fact(f"{name}CPU per image of the process", 1e3 * fmean(shape.engine_ms), "µs"),
            fact(f"{name}of which its event loop", 1e3 * fmean(shape.loop_ms), "µs"),
            *(fact(f"{name}loop: {part}", us, "µs") for part, us in profile.parts_us().items()),
            at_most(f"{name}failed", shape.failed, 0, ""),
        ]
    if len(profiles) == 2:
        now, before = (profile.shape for profile in profiles.values())
        for what, a, b in (
            ("CPU per image", now.engine_ms, before.engine_ms),
            ("event loop", now.loop_ms, before.loop_ms),
        ):
            pairs = [one / other for one, other in zip(a, b, strict=True)]
            findings.append(fact(f"{what}, now ÷ before, median of rounds", median(pairs), "×"))
    return findings


def _mean_of_parts(profiles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean share of each part, the largest first."""
    parts = {part for shares in profiles for part in shares}
    means = {part: fmean(shares.get(part, 0.0) for shares in profiles) for part in parts}
    return dict(sorted(means.items(), key=lambda part: -part[1]))


def _median(floods: Sequence[Mapping[str, float]], name: str) -> float:
    return median(flood[name] for flood in floods)
