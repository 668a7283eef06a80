"""Months of traffic with known properties, and what the monitors do.

Each seed draws a calibration (1,000 images for the gate, 5,000 for the class mix) and a month of
traffic that has not changed, or traffic that has. The rate of rejections that a calibration gives
is random; rates above the limit that the monitors declare (5 % of calibrations) are drawn again.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.images import Images
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift.reference import Bins, Reference
from tidegate.service.drift.sequential import rate_limit

START = 1_767_571_200.0  # a Monday
ALPHA, CALIBRATION, SAMPLES = 0.01, 1000, 5000
HOURS = 30 * 24
MOST = 200_000  # images to wait for a change to be noticed
_EDGES = np.linspace(0, 1, 11)[1:-1]


@dataclass(frozen=True)
class Traffic:
    """Images that are alike in runs, and shares that follow the hour and the day."""

    name: str
    per_hour: int = 600
    run: int = 1  # like images in a row
    geometric: bool = False  # run lengths vary, with that mean
    daily: float = 0.0  # the swing of every share within a day
    weekend: float = 0.0  # the same between weekdays and weekends
    replicas: int = 1
    restart_h: int = 0  # the process is replaced so often, and reads the state of the last one
    redeploy_h: int = 0  # the same without a state
    classes: int = 10


UNCHANGED = (
    Traffic("independent"),
    *(Traffic(f"runs of {run}", run=run) for run in (2, 5, 10, 30)),
    *(Traffic(f"runs of {run} on average", run=run, geometric=True) for run in (5, 30)),
    *(Traffic(f"daily swings of {daily:.0%}", daily=daily) for daily in (0.2, 0.5)),
    Traffic("weekends differ by half", weekend=0.5),
    Traffic("runs of 10, daily swings of 30%, weekends 15%", run=10, daily=0.3, weekend=0.15),
    Traffic("two replicas, runs of 5", run=5, replicas=2),
    Traffic("a restart every day, runs of 5", run=5, restart_h=24),
    Traffic("a deployment every week without a state, runs of 5", run=5, redeploy_h=168),
    Traffic("10 images an hour", per_hour=10),
    Traffic("10 images an hour, runs of 5", per_hour=10, run=5),
    Traffic("10 images an hour, runs of 30", per_hour=10, run=30),
    Traffic("1,000 classes", classes=1000),
    Traffic("1,000 classes, runs of 5, weekends 20%", classes=1000, run=5, weekend=0.2),
)


@dataclass
class World:
    """One calibration and the traffic that fits it."""

    traffic: Traffic
    rng: np.random.Generator
    samples: int = SAMPLES
    mix: NDArray[np.float64] = field(init=False)
    rate: float = field(init=False)
    reference: Reference = field(init=False)

    def __post_init__(self) -> None:
        classes = self.traffic.classes
        self.mix = self.rng.dirichlet(np.full(classes, 20.0))
        for part_of in np.split(self.mix, [classes // 2]):  # that swing against each other
            part_of /= 2 * part_of.sum()
        k = int(ALPHA * (CALIBRATION + 1))
        self.rate = 1.0
        while self.rate > rate_limit(ALPHA, CALIBRATION):
            self.rate = float(self.rng.beta(k, CALIBRATION + 1 - k))
        self.reference = Reference(
            self.rng.multinomial(self.samples, self.mix),
            ALPHA,
            CALIBRATION,
            {"confidence": Bins(_EDGES, self.rng.multinomial(self.samples, np.full(10, 0.1)))},
            None,
        )

    def factor(self, hour: int) -> float:
        """Return the factor of half of the classes, and of the rejections; 1 on average."""
        traffic = self.traffic
        daily = 1 + traffic.daily * math.sin(2 * math.pi * hour / 24)
        weekend = traffic.weekend if hour // 24 % 7 >= 5 else -traffic.weekend * 2 / 5
        return daily * (1 + weekend)

    def hour(
        self, hour: int, images: int, rate: float | None = None, tripled: bool = False
    ) -> Images:
        """Return the images of one hour."""
        rng, factor = self.rng, self.factor(hour)
        mix = self.mix.copy()
        half = len(mix) // 2
        up = mix[:half].sum()
        mix[:half] *= factor
        mix[half:] *= max(1 - up * factor, 0.01) / (1 - up)
        if tripled:
            mix[np.argsort(mix)[half]] *= 3
        mix /= mix.sum()
        chance = self.rate * factor if rate is None else rate
        run = self.traffic.run
        lengths = (
            rng.geometric(1 / run, images)
            if self.traffic.geometric
            else np.full(images // run + 1, run)
        )
        lengths = lengths[: int(np.searchsorted(lengths.cumsum(), images)) + 1]
        runs = len(lengths)
        hits = rng.random(runs) < chance
        p = np.where(hits, rng.random(runs) * ALPHA, ALPHA + rng.random(runs) * (1 - ALPHA))

        def spread(values: NDArray[np.generic]) -> NDArray[np.generic]:
            return np.repeat(values, lengths)[:images]

        return Images(
            START + 3600 * hour + 3600 * np.arange(images) / max(images, 1),
            spread(rng.choice(len(mix), runs, p=mix)).astype(np.int64),
            spread(rng.random(runs)).astype(np.float64),
            spread(p).astype(np.float64),
            spread(hits).astype(np.bool_),
        )


def part(images: Images, chosen: NDArray[np.bool_]) -> Images:
    """Return some of the images."""
    return Images(
        images.times[chosen],
        images.classes[chosen],
        images.confidences[chosen],
        images.p_values[chosen],
        images.rejected[chosen],
    )


def unchanged(traffic: Traffic, seed: int) -> Counter[str]:
    """Return how many alarms each monitor raises in a month without a change.

    The report is read every 20 images in the first 8 hours, and then every hour. Alarms of the
    detectors that begin and end between two reports count as well; those of the histograms, whose
    window is 2,000 images, do not.
    """
    world = World(traffic, np.random.default_rng([seed, len(traffic.name)]))
    monitors = [Monitor(world.reference) for _ in range(traffic.replicas)]
    active: list[set[str]] = [set() for _ in monitors]
    found: Counter[str] = Counter()
    at_once = max(1, 300 // traffic.per_hour)  # hours: a run may last longer than an hour
    for hour in range(0, HOURS, at_once):
        images = world.hour(hour, traffic.per_hour * at_once)
        since = (images.times - images.times[0]) * at_once
        images = replace(images, times=START + 3600 * hour + since)
        goes_to = world.rng.integers(0, traffic.replicas, len(images))
        few = hour < 8 or (traffic.redeploy_h and hour % traffic.redeploy_h < 8)
        size = min(20, traffic.per_hour) if few else traffic.per_hour
        for at in range(0, len(images), size):
            piece = slice(at, at + size)
            for replica, monitor in enumerate(monitors):
                now = _alarms(monitor, part(images[piece], goes_to[piece] == replica))
                found.update(now - active[replica])
                active[replica] = now
        if traffic.restart_h and hour % traffic.restart_h == 0:
            for replica, monitor in enumerate(monitors):
                monitors[replica] = Monitor(world.reference)
                monitors[replica].restore(monitor.state())
        if traffic.redeploy_h and hour % traffic.redeploy_h == 0:
            monitors = [Monitor(world.reference) for _ in monitors]
    return found


def _alarms(monitor: Monitor, images: Images) -> set[str]:
    """Add images; return the monitors that alarm now or, if they are detectors, did meanwhile."""
    before = {name: alarm.images for name, alarm in monitor.alarm_states.items()}
    monitor.observe_all(images)
    report = monitor.report()
    meanwhile = (name for name, one in report.alarm_states.items() if one.confirmed > before[name])
    return {*report.alarms, *meanwhile}


def delay(
    traffic: Traffic, warm_h: int, rate: float | None, tripled: bool, name: str, seed: int
) -> tuple[int, int]:
    """Return the images until a change is noticed, and, after 600 images of it, until it ends."""
    world = World(traffic, np.random.default_rng([seed, 7]))
    world.rate = ALPHA
    monitor = Monitor(world.reference)
    for hour in range(warm_h):
        monitor.observe_all(world.hour(hour, traffic.per_hour))
    # Shares are compared when the first image of an hour comes.
    steps = (10,) if rate else (1, traffic.per_hour - 1)
    noticed = images = 0
    for batch in _steps(world, warm_h, steps, rate, tripled):
        monitor.observe_all(batch)
        images += len(batch)
        if not noticed and name in monitor.report().alarms:
            noticed = images
        if images >= MOST or (noticed and (not rate or images >= 600)):
            break
    clean = 0
    usual = _steps(world, warm_h + images // traffic.per_hour + 1, (50,), None, False)
    while rate and name in monitor.report().alarms and clean < MOST:
        monitor.observe_all(next(usual))
        clean += 50
    return noticed or MOST, clean


def _steps(
    world: World, hour: int, sizes: tuple[int, ...], rate: float | None, tripled: bool
) -> Iterator[Images]:
    """Yield the images from an hour on, in groups of these sizes, which fill each hour."""
    for now in itertools.count(hour):
        batch, at = world.hour(now, world.traffic.per_hour, rate, tripled), 0
        for size in itertools.cycle(sizes):
            yield batch[at : at + size]
            at += size
            if at >= len(batch):
                break


DELAYS: dict[str, Callable[[int], tuple[int, int]]] = {
    **{
        f"rejections .01 -> {rate}, after {warm_h} h": partial(
            delay, Traffic("independent"), warm_h, rate, False, "ood-rate"
        )
        for warm_h in (2, 240)
        for rate in (0.05, 0.2)
    },
    **{
        f"rejections .01 -> {rate}, runs of 5": partial(
            delay, Traffic("runs", run=5), 240, rate, False, "ood-rate"
        )
        for rate in (0.05, 0.2)
    },
    **{
        f"one of {classes:,} classes tripled, after {days} days": partial(
            delay, Traffic(str(classes), classes=classes), 24 * days, None, True, "class-share"
        )
        for classes, days in ((1000, 14), (1000, 28), (100, 14))
    },
}
