"""Simulate canaries in virtual time, and print how often and how fast the judge rolls them back.

    python -m tests.unit.rollout.canaries --runs 1000

Images come in runs of like images, for which a version gives one answer; the two versions answer
independently of each other. Both suffer from the same bursts of load. A run ends at the first alarm
or after a number of images of the canary.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.service.rollout.judge import Judge
from tidegate.service.rollout.outcomes import Images
from tidegate.service.rollout.rules import JudgeRules

ALPHA = 0.01  # of the gates


@dataclass(frozen=True)
class Version:
    """How a version answers."""

    errors: float = 0.0005
    late: float = 0.01
    latency: float = 1.0
    rejections: float = ALPHA
    p_values: float = 1.0  # exponent of a uniform value: above 1 they are too small
    missing: int = 0  # of the ten classes, from the first
    agreement: float = 0.9


@dataclass(frozen=True)
class Scenario:
    """Two versions under some traffic."""

    name: str
    stable: Version = Version()
    canary: Version = Version()
    share: float = 0.2
    run: int = 1
    rising: bool = False  # the share rises from .05 to .5, and the traffic drifts meanwhile
    feedback: float = 0.0  # share of images with a true class
    most: int = 1500  # images of the canary
    look: int = 50  # images of the canary between two looks, about
    part: int = 1  # of the runs: one in so many
    until_promotable: bool = False

    @property
    def step(self) -> int:
        """Return how many images are evaluated together; the service evaluates 128 or fewer."""
        return max(128, round(self.look / self.share))


EQUAL = tuple(
    Scenario("equal", share=share, run=run, feedback=0.1, look=300)
    for share in (0.05, 0.2, 0.5)
    for run in (1, 5, 10)
) + tuple(Scenario("equal", rising=True, run=run, feedback=0.1, look=300) for run in (1, 5, 10))
PROMOTED = tuple(
    Scenario("promoted", share=share, run=run, most=30_000, part=10, until_promotable=True)
    for share, run in ((0.05, 1), (0.2, 1), (0.5, 1), (0.2, 5))
)
CHANGES = {
    "errors of 1 %": Version(errors=0.01),
    "every image fails": Version(errors=1.0),
    "504 twice as often, 5 → 10 %": Version(late=0.1),
    "1.5 × slower": Version(latency=1.5),
    "rejections + 5 points": Version(rejections=ALPHA + 0.05),
    "one of ten classes missing": Version(missing=1),
    "p-values squared": Version(p_values=2.0),
    "agreement 90 → 85 %": Version(agreement=0.85),
}


def changed(share: float, run: int = 1) -> tuple[Scenario, ...]:
    """Return the scenarios of a canary that is worse."""
    found = []
    for name, version in CHANGES.items():
        stable = Version(late=0.05) if "504" in name else Version()
        canary = version if "504" in name else replace(version, late=stable.late)
        feedback = 1.0 if "agreement" in name else 0.0
        found.append(
            Scenario(name, stable, canary, share, run, feedback=feedback, most=20_000, part=8)
        )
    return tuple(found)


class Traffic:
    """Draws the answers of both versions."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.rng = np.random.default_rng([seed, len(scenario.name), int(scenario.share * 100)])
        self.scenario = scenario
        self.images = 0
        self._load = 0.0
        self.mix = self.rng.dirichlet(np.full(10, 20.0))

    def next(self, images: int) -> tuple[Images, NDArray[np.bool_]]:
        """Return images, and whether each one's prediction was wrong."""
        s, rng = self.scenario, self.rng
        canary = rng.random(images) < self._share()
        drift = 1 + 4 * min(self.images / 20_000, 1.0) if s.rising else 1.0
        runs = (np.arange(images) + self.images) // s.run
        runs -= runs[0]
        n = int(runs[-1]) + 1
        load = self._loads(n)
        columns = [self._answers(version, n, load, drift) for version in (s.stable, s.canary)]
        picked = {
            name: np.where(canary, columns[1][name][runs], columns[0][name][runs])
            for name in columns[0]
        }
        latency = np.exp(0.3 * load[runs] + 0.3 * rng.standard_normal(images)) * picked["latency"]
        at = self.images + np.arange(images, dtype=np.float64)
        self.images += images
        duplicates = np.zeros(images, np.bool_)
        kinds = np.where(picked["error"], 2, np.where(picked["late"], 1, 0))
        return (
            Images(
                canary,
                kinds,
                at,
                0.02 * latency,
                picked["class"],
                picked["p"],
                picked["rejected"],
                duplicates,
            ),
            picked["wrong"],
        )

    def _share(self) -> float:
        if not self.scenario.rising:
            return self.scenario.share
        return (0.05, 0.2, 0.5)[min(self.images // 8_000, 2)]

    def _loads(self, n: int) -> NDArray[np.float64]:
        """Return the load in each run, which lasts for some runs."""
        steps = self.rng.standard_normal(n)
        change = self.rng.random(n) < 0.05
        change[0] = self.images == 0
        place = np.maximum.accumulate(np.where(change, np.arange(n), -1))
        load = np.where(place >= 0, steps[place], self._load)
        self._load = float(load[-1])
        return np.asarray(load)

    def _answers(
        self, version: Version, n: int, load: NDArray[np.float64], drift: float
    ) -> dict[str, NDArray[Any]]:
        rng = self.rng
        rejected = rng.random(n) < min(version.rejections * drift, 0.5)
        p = np.where(
            rejected, rng.random(n) * ALPHA, ALPHA + (1 - ALPHA) * rng.random(n) ** version.p_values
        )
        mix = self.mix.copy()
        mix[: version.missing] = 0
        late = np.clip(version.late * np.exp(load - 0.5), 0, 1)
        return {
            "error": rng.random(n) < version.errors,
            "late": rng.random(n) < late,
            "rejected": rejected,
            "p": p,
            "class": rng.choice(10, n, p=mix / mix.sum()),
            "wrong": rng.random(n) >= version.agreement,
            "latency": np.full(n, version.latency),
        }


def run(scenario: Scenario, seed: int) -> dict[str, Any]:
    """Return after how many images of the canary the judge came to which step."""
    traffic = Traffic(scenario, seed)
    judge = Judge(JudgeRules(promote=False, rollback=True), 10, 0.0)
    promoted = 0
    while judge.images[1] < scenario.most:
        images, wrong = traffic.next(scenario.step)
        judge.observe_all(images)
        if scenario.feedback:
            told = traffic.rng.random(scenario.step) < scenario.feedback
            judge.observe_feedback_all(images.canary[told], wrong[told])
        verdict = judge.decide()
        if verdict.step == "rollback":
            tests = [why.test for why in verdict.why]
            return {"rolled_back": judge.images[1], "tests": tests, "promotable": promoted}
        if not promoted and verdict.why[0].text.startswith("No comparison"):
            promoted = judge.images[1]
            if scenario.until_promotable:
                break
    return {"rolled_back": 0, "tests": [], "promotable": promoted}


def summary(scenario: Scenario, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of the result: counts, and images of the canary."""
    ended = [one["rolled_back"] for one in found if one["rolled_back"]]
    shown = [one["promotable"] for one in found if one["promotable"]]
    return {
        "name": scenario.name,
        "share": None if scenario.rising else scenario.share,
        "run": scenario.run,
        "runs": len(found),
        "most": scenario.most,
        "rolled_back": len(ended),
        "until_rollback": _quantiles(ended, len(found)),
        "promotable": len(shown),
        "until_promotable": _quantiles(shown, len(found)),
        "tests": sorted({test for one in found for test in one["tests"]}),
    }


def _quantiles(images: Sequence[int], runs: int) -> list[int | None]:
    """Return the median and the 90 % quantile over all runs; None if it was not reached."""
    ordered = sorted(images)
    places = [int(np.ceil(level * runs)) - 1 for level in (0.5, 0.9)]
    return [ordered[place] if place < len(ordered) else None for place in places]


def main() -> None:
    """Simulate, print a table, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="a file for the result, as JSON")
    arguments = parser.parse_args()
    worse = [*changed(0.05), *changed(0.2), *changed(0.5), *changed(0.2, run=5)]
    rows = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for scenario in (*EQUAL, *PROMOTED, *worse):
            if arguments.only in scenario.name:
                seeds = range(max(1, arguments.runs // scenario.part))
                found = pool.map(partial(run, scenario), seeds, chunksize=5)
                rows.append(summary(scenario, list(found)))
                sys.stdout.write(f"{rows[-1]}\n")
                sys.stdout.flush()
                if arguments.out:
                    result = {"rules": JudgeRules().model_dump(), "rows": rows}
                    arguments.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
