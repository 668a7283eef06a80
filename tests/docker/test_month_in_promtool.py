"""A simulated month in promtool: the rules' numbers equal NumPy's.

Two replicas, one of which restarts every day, answer images in runs, whose classes and rejections
follow the hour and the weekday, all three at once by more than the rules allow for: the class mix
alerts for minutes, as in NumPy, and nothing else does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from tests.docker.class_mix import class_mix, dispersion, neighbours, rate_nats, rate_neighbours
from tests.docker.programs import ROOT, tool
from tests.unit.drift.month import ALPHA, CALIBRATION, START, Traffic, World
from tidegate.service.bundle.manifest import SMOOTHING

DAYS = 30  # the first one without images, so that every window is complete
HOUR, DAY = 60, 24 * 60  # minutes
WEEK = 7 * DAY
EVERY = 10  # minutes between evaluations: promtool takes 5 minutes of CPU time, with 2 it is 25
WINDOWS = {"10m": 10, "1h": HOUR, "1d": DAY}
UNKNOWN = {"1h": 8.0, "1d": 32.0}  # φ before it can be measured
CLASS_MIX = ("neighbours", "dispersion", "z", "effect", "effect_usual")
OOD_RATE = ("neighbours", "dispersion", "z", "nats")
TRAFFIC = Traffic("month", run=5, daily=0.3, weekend=0.15)
BUNDLE = {"job": "tidegate", "model": "m", "version": "1", "digest": "d"}
GROUPS = ("tidegate-reference", *(f"tidegate-drift-{window}" for window in WINDOWS))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """The images of each minute, [minutes, …]."""

    answered: Floats  # by class
    rejected: Floats
    images: Floats


def simulated(world: World, days: int) -> Seen:
    minutes = days * DAY
    answered = np.zeros((minutes, world.traffic.classes))
    rejected, images = np.zeros(minutes), np.zeros(minutes)
    for hour in range(24, 24 * days):
        some = world.hour(hour, world.traffic.per_hour)
        minute = ((some.times - START) // 60).astype(np.int64)
        np.add.at(images, minute, 1)
        np.add.at(rejected, minute, some.rejected)
        np.add.at(answered, (minute[~some.rejected], some.classes[~some.rejected]), 1)
    return Seen(answered, rejected, images)


class Recorded:
    """The recorded series of one window in NumPy, at every minute; NaN is no sample."""

    def __init__(self, window: str, seen: Seen, reference: Floats, short: Recorded | None) -> None:
        self._steps, self._reference, self._short = WINDOWS[window], reference, short
        self._answered = _increase(seen.answered, self._steps)
        self._rejected = _increase(seen.rejected, self._steps)
        self._images = _increase(seen.images, self._steps)
        minutes = len(seen.images)
        self.class_mix = {name: np.full(minutes, np.nan) for name in CLASS_MIX}
        self.ood_rate = {name: np.full(minutes, np.nan) for name in OOD_RATE}
        for t in range(self._steps, minutes, EVERY):
            self._neighbours(t, t - self._steps)
            if short is not None and self._images[t] > 0:
                self._of_classes(t, UNKNOWN[window])
                self._of_rejections(t, UNKNOWN[window])

    def _neighbours(self, t: int, before: int) -> None:
        classes, images = self._answered[[t, before]], self._images[[t, before]]
        rejected = self._rejected[[t, before]]
        if classes.sum(axis=1).min() >= 20:
            self.class_mix["neighbours"][t] = neighbours(*classes)
        if images.min() >= 20 and rejected.sum() > 0:
            self.ood_rate["neighbours"][t] = rate_neighbours(rejected, images)

    def _of_classes(self, t: int, unknown: float) -> None:
        own, counts = self.class_mix, self._answered[t]
        known = [_last_week(x, t) for x in self._measured("class_mix", t)]
        median = max((float(np.median(x)) for x in known), default=np.nan)
        seen = int((counts > 0).sum())
        phi = unknown if np.isnan(median) else dispersion(np.array([median]), seen)
        with np.errstate(invalid="ignore"):  # below the hundred images that z needs
            numbers = class_mix(counts / phi, self._reference)
        own["dispersion"][t] = phi
        own["effect"][t] = numbers["tidegate:class_mix:effect1h"]
        if counts.sum() / phi >= 100:
            own["z"][t] = numbers["tidegate:class_mix:z1h"]
        own["effect_usual"][t] = 0.3
        if _any(own["effect"], t - 9 * DAY, t - 8 * DAY):
            usual = np.quantile(_last_week(own["effect"], t - self._steps), 0.9)
            own["effect_usual"][t] = np.clip(usual, 0, 0.3)

    def _of_rejections(self, t: int, unknown: float) -> None:
        own, images, rejected = self.ood_rate, self._images[t], self._rejected[t]
        known = [_last_week(x, t) for x in self._measured("ood_rate", t)]
        mean = max((float(np.mean(x)) for x in known), default=unknown)
        own["dispersion"][t] = phi = float(np.clip(mean, 1, 64))
        spread = np.sqrt(ALPHA * (1 - ALPHA) * (phi / images + 1 / CALIBRATION))
        own["z"][t] = (rejected / images - ALPHA) / spread
        own["nats"][t] = rate_nats(rejected, images, phi, ALPHA, CALIBRATION)

    def _measured(self, family: str, t: int) -> Iterator[Floats]:
        """Yield the neighbours of the windows that count: this one's and ten minutes'."""
        own, short = (getattr(x, family)["neighbours"] for x in (self, self._short))
        if _any(own, t - DAY - 2 * HOUR, t - DAY):
            yield own
        if len(_last_week(short, t)) >= 40:
            yield short


def firing(recorded: Recorded) -> int:
    """Return at how many evaluations TidegateClassMixDrift fires: it holds for five minutes."""
    mix = {name: values[::EVERY] for name, values in recorded.class_mix.items()}
    holds = (mix["effect"] > 0.15 + mix["effect_usual"]) & (mix["z"] > 5)
    since = np.arange(len(holds)) - np.maximum.accumulate(
        np.where(holds, -1, np.arange(len(holds)))
    )
    return int((holds & ((since - 1) * EVERY >= 5)).sum())


def _increase(per_minute: Floats, steps: int) -> Floats:
    total = np.cumsum(per_minute, axis=0)
    total[steps:] -= total[:-steps].copy()
    return np.asarray(total)


def _last_week(values: Floats, t: int) -> Floats:
    week = values[max(0, t - WEEK) : t + 1]
    return week[~np.isnan(week)]


def _any(values: Floats, first: int, last: int) -> bool:
    return not np.isnan(values[max(0, first) : max(0, last + 1)]).all()


def input_series(seen: Seen, reference: Floats) -> list[dict[str, str]]:
    """Return the counters of two replicas, which take turns, and the bundle's constants."""
    counters: dict[str, dict[object, Floats]] = {
        "decision": {"accept": seen.images - seen.rejected, "reject": seen.rejected},
        "class": dict(enumerate(seen.answered.T)),
    }
    metrics = {"decision": "tidegate_ood_decisions_total", "class": "tidegate_predictions_total"}
    turn = np.arange(len(seen.images)) % 2
    found = [
        _series(metrics[label], _counter(x * part, restarts), label, value, instance=instance)
        for label, rows in counters.items()
        for value, x in rows.items()
        for instance, part, restarts in (("a", turn, False), ("b", 1 - turn, True))
    ]
    smoothed = (reference + SMOOTHING) / (reference + SMOOTHING).sum()
    constants: tuple[tuple[str, str, dict[object, float]], ...] = (
        ("tidegate_reference_samples", "instance", {"a": float(reference.sum())}),
        ("tidegate_ood_calibration_samples", "instance", {"a": float(CALIBRATION)}),
        ("tidegate_ood_alpha", "threshold", {"reject": ALPHA}),
        ("tidegate_reference_class_fraction", "class", dict(enumerate(smoothed.tolist()))),
    )
    for metric, label, values in constants:
        text = f"+0x{len(seen.images)}"
        found += [_series(metric, f"{x!r}{text}", label, value) for value, x in values.items()]
    return found


def _series(metric: str, values: str, label: str, value: object, **more: str) -> dict[str, str]:
    return {"series": metric + _labels({**BUNDLE, label: str(value), **more}), "values": values}


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _counter(per_minute: Floats, restarts: bool) -> str:
    total = np.cumsum(per_minute)
    if restarts:  # at noon, from 0
        noons = np.arange(DAY // 2, len(total), DAY)
        total -= np.repeat(
            np.concatenate([[0], total[noons - 1]]), np.diff([0, *noons, len(total)])
        )
    return " ".join(str(int(x)) for x in total)


def checks(recorded: dict[str, Recorded], at: range) -> Iterator[dict[str, Any]]:
    """Yield what each series is expected to be at some minutes, rounded as PromQL does."""
    for window in UNKNOWN:
        for family, more in (("class_mix", {}), ("ood_rate", {"threshold": "reject"})):
            for name, values in getattr(recorded[window], family).items():
                select = _labels(more) if more else ""
                for t in at:
                    rounded = float(np.floor(values[t] * 1000 + 0.5) / 1000)
                    sample = {"labels": _labels({**BUNDLE, **more}), "value": rounded}
                    yield {
                        "expr": f"round(tidegate:{family}:{name}{window}{select}, 0.001)",
                        "eval_time": f"{t}m",
                        "exp_samples": [] if np.isnan(values[t]) else [sample],
                    }


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_month_in_promtool_has_numpys_numbers_and_alerts(tmp_path: Path) -> None:
    promtool = tool("promtool", folder="prometheus")
    world = World(TRAFFIC, np.random.default_rng(0))
    seen, reference = simulated(world, DAYS), world.reference.class_counts.astype(np.float64)
    recorded: dict[str, Recorded] = {}
    for window in WINDOWS:
        recorded[window] = Recorded(window, seen, reference, recorded.get("10m"))
    end = DAYS * DAY - EVERY
    alerts = f'sum by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{DAYS}d]))'
    minutes = {"TidegateClassMixDrift": sum(firing(recorded[window]) for window in UNKNOWN)}
    expected = [
        {"labels": _labels({"alertname": name}), "value": value}
        for name, value in minutes.items()
        if value
    ]
    rules = yaml.safe_load((ROOT / "docker/prometheus/rules/drift.yml").read_text("utf-8"))
    groups = [group for group in rules["groups"] if group["name"] in GROUPS]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    case = {
        "interval": "1m",
        "input_series": input_series(seen, reference),
        "promql_expr_test": [
            {"expr": alerts, "eval_time": f"{end}m", "exp_samples": expected},
            *checks(recorded, range(DAY + 2 * HOUR, end + 1, HOUR)),
        ],
    }
    (tmp_path / "month.yml").write_text(
        yaml.safe_dump(
            {
                "rule_files": ["rules.yml"],
                "evaluation_interval": f"{EVERY}m",
                "group_eval_order": list(GROUPS),
                "tests": [case],
            },
            width=10**9,
        )
    )

    done = subprocess.run(
        [promtool, "test", "rules", "month.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, (done.stdout + done.stderr)[:5000]
