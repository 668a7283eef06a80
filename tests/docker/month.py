"""Simulate months of unchanged traffic, and count the alerts of the drift rules.

    python -m tests.docker.month --seeds 100

The alerts' conditions in NumPy, every ten minutes, without their `for`, which would make alerts
rarer. The traffic is that of tests/unit/drift/month.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tests.docker.class_mix import (
    class_mix,
    class_shift,
    dispersion,
    needed,
    neighbours,
    rate_nats,
    rate_neighbours,
)
from tests.unit.drift.month import ALPHA, CALIBRATION, HOURS, START, Traffic, World

STEPS_AN_HOUR = 6
WINDOWS = {"10m": 1, "1h": STEPS_AN_HOUR, "1d": 24 * STEPS_AN_HOUR}
WEEK, DAY = 7 * WINDOWS["1d"], WINDOWS["1d"]
EFFECT, Z = "tidegate:class_mix:effect1h", "tidegate:class_mix:z1h"
Floats = NDArray[np.float64]

TRAFFIC = (
    Traffic("independent"),
    *(Traffic(f"runs of {run}", run=run) for run in (2, 5, 10, 30)),
    *(Traffic(f"daily swings of {daily:.0%}", daily=daily) for daily in (0.2, 0.5)),
    Traffic("weekends differ by half", weekend=0.5),
    Traffic("10 images an hour", per_hour=10),
    Traffic("10 images an hour, runs of 30", per_hour=10, run=30),
)


class Window:
    """The series of one window, at every step."""

    def __init__(self, name: str, counts: Floats, flagged: Floats, images: Floats) -> None:
        self.name, self.steps = name, WINDOWS[name]
        self.unknown = 32.0 if name == "1d" else 8.0  # φ before it can be measured
        self.counts, self.flagged, self.images = (
            _rolled(x, self.steps) for x in (counts, flagged, images)
        )
        self.neighbours = np.full(len(images), np.nan)
        self.rate_neighbours = np.full(len(images), np.nan)
        self.effect = np.full(len(images), np.nan)
        for t in range(self.steps, len(images)):
            now, before = self.counts[t], self.counts[t - self.steps]
            if min(now.sum(), before.sum()) >= 20:
                self.neighbours[t] = neighbours(now, before)
            pair = [t, t - self.steps]
            if self.flagged[pair].sum() > 0 and self.images[pair].min() >= 20:
                self.rate_neighbours[t] = rate_neighbours(self.flagged[pair], self.images[pair])


def alerts(reference: Floats, window: Window, short: Window, t: int) -> set[str]:
    """Return the alerts whose condition holds at a step."""
    if window.counts[t].sum() == 0:
        return set()
    return _of_classes(reference, window, short, t) | _of_rejections(window, short, t)


def _of_classes(reference: Floats, window: Window, short: Window, t: int) -> set[str]:
    counts = window.counts[t]
    phi = _larger(window.neighbours, short.neighbours, t, np.median)
    if not np.isnan(phi):
        phi = dispersion(np.array([phi]), int((counts > 0).sum()))
    effective = counts / (window.unknown if np.isnan(phi) else phi)
    if effective.sum() + reference.sum() <= 3 or (effective + reference > 0).sum() < 2:
        return set()
    with np.errstate(invalid="ignore"):  # below the hundred images that z needs
        numbers = class_mix(effective, reference)
    window.effect[t] = numbers[EFFECT]
    usual = 0.3
    if (~np.isnan(window.effect[max(0, t - 9 * DAY + 1) : max(0, t - 8 * DAY + 1)])).any():
        past = window.effect[max(0, t - WEEK - window.steps) : t - window.steps + 1]
        usual = float(np.clip(np.nanquantile(past, 0.9), 0, 0.3))
    found = set()
    if effective.sum() >= 100 and numbers[Z] > 5 and numbers[EFFECT] > 0.15 + usual:
        found.add("TidegateClassMixDrift")
    sure = class_shift(effective, reference) > needed(effective, reference)
    share, was = counts / counts.sum(), reference / reference.sum()
    if (sure & (share < 0.1 * was)).any():
        found.add("TidegateClassVanished")
    if (sure & (share > 0.01 + 5 * was)).any():
        found.add("TidegateClassExploded")
    return found


def _of_rejections(window: Window, short: Window, t: int) -> set[str]:
    flagged, images = window.flagged[t], window.images[t]
    phi = _larger(window.rate_neighbours, short.rate_neighbours, t, np.mean)
    phi = window.unknown if np.isnan(phi) else float(np.clip(phi, 1, 64))
    spread = np.sqrt(ALPHA * (1 - ALPHA) * (phi / images + 1 / CALIBRATION))
    rate = flagged / images
    nats = rate_nats(flagged, images, phi, ALPHA, CALIBRATION)
    significant = (rate - ALPHA) / spread > 5 and nats > np.log(1e4)
    high = flagged >= 10 and rate > 2 * ALPHA and significant
    return {"TidegateOodRateHigh"} if high else set()


def unchanged(traffic: Traffic, seed: int) -> Counter[str]:
    """Return how often each alert begins in a month without a change, by window."""
    world = World(traffic, np.random.default_rng([seed, len(traffic.name)]))
    steps, classes = HOURS * STEPS_AN_HOUR, traffic.classes
    counts, flagged, images = np.zeros((steps, classes)), np.zeros(steps), np.zeros(steps)
    at_once = max(1, 300 // traffic.per_hour)
    for hour in range(0, HOURS, at_once):
        some = world.hour(hour, traffic.per_hour * at_once)
        since = (some.times - START - 3600 * hour) * at_once + 3600 * hour
        step = np.minimum((since * STEPS_AN_HOUR / 3600).astype(int), steps - 1)
        np.add.at(images, step, 1)
        np.add.at(flagged, step, some.rejected)
        np.add.at(counts, (step[~some.rejected], some.classes[~some.rejected]), 1)
    windows = {name: Window(name, counts, flagged, images) for name in WINDOWS}
    reference = world.reference.class_counts.astype(np.float64)
    found: Counter[str] = Counter()
    for name in ("1h", "1d"):
        active: set[str] = set()
        for t in range(1, steps):
            now = alerts(reference, windows[name], windows["10m"], t)
            found.update(f"{alert} {name}" for alert in now - active)
            active = now
    return found


def _larger(own: Floats, short: Floats, t: int, middle: object) -> float:
    """Return the larger of two windows' dispersions over the last week; NaN if none is known."""
    week = slice(max(0, t - WEEK + 1), t + 1)
    known = [short[week]] if (~np.isnan(short[week])).sum() >= 4 else []  # forty minutes
    if t >= DAY and (~np.isnan(own[max(0, t - DAY - 2 * STEPS_AN_HOUR) : t - DAY + 1])).any():
        known.append(own[week])
    values = [middle(x[~np.isnan(x)]) for x in known if (~np.isnan(x)).any()]  # type: ignore[operator]
    return float(max(values, default=np.nan))


def _rolled(counts: Floats, steps: int) -> Floats:
    total = np.cumsum(counts, axis=0)
    total[steps:] -= total[:-steps].copy()
    return np.asarray(total)


def main() -> None:
    """Simulate, and write a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    sys.stdout.write("| nothing changed | seeds with an alert | alerts |\n| --- | --- | --- |\n")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for traffic in TRAFFIC:
            if arguments.only in traffic.name:
                found = list(pool.map(partial(unchanged, traffic), range(arguments.seeds)))
                alerted = sum(bool(one) for one in found)
                total = sum(found, Counter[str]())
                by_name = ", ".join(f"{name} {count}" for name, count in sorted(total.items()))
                sys.stdout.write(
                    f"| {traffic.name} | {alerted} of {arguments.seeds} | {by_name} |\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
