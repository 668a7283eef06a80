"""Simulate months of traffic for many calibrations, and write what the monitors do.

    python -m tests.unit.drift.months --seeds 100 --out tests/unit/drift/months.json

Seeds that the file already has are not simulated again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from tests.unit.drift.month import DELAYS, HOURS, UNCHANGED, Traffic, unchanged


class Months(TypedDict):
    """Months in which nothing changed, of the seeds 0, 1, …"""

    images: int  # in a month
    seeds: int
    alarms: list[dict[str, int]]  # of each seed that has any: its number, and alarms by monitor


class Delays(TypedDict):
    """Images until a change is noticed, and clean images until the alarm ends, by seed."""

    noticed: list[int]
    ended: list[int]


class Result(TypedDict):
    """The simulations so far, by the name of their traffic."""

    months: dict[str, Months]
    delays: dict[str, Delays]


Map = Callable[..., Iterable[Any]]  # `map`, or that of several processes
Step = Callable[[Result, Map, int], bool]  # whether seeds were missing up to a seed


def steps(only: str) -> Iterator[Step]:
    """Yield a step for each traffic whose name matches the regular expression `only`."""
    for traffic in UNCHANGED:
        if re.search(only, traffic.name):
            yield partial(_months, traffic)
    for name in DELAYS:
        if re.search(only, name):
            yield partial(_delays, name)


def _months(traffic: Traffic, result: Result, each: Map, until: int) -> bool:
    new: Months = {"images": HOURS * traffic.per_hour, "seeds": 0, "alarms": []}
    months = result["months"].setdefault(traffic.name, new)
    missing = range(months["seeds"], until)
    for seed, alarms in zip(missing, each(partial(unchanged, traffic), missing), strict=True):
        if alarms:
            months["alarms"].append({"seed": seed, **alarms})
        months["seeds"] = seed + 1
    return len(missing) > 0


def _delays(name: str, result: Result, each: Map, until: int) -> bool:
    delays = result["delays"].setdefault(name, {"noticed": [], "ended": []})
    missing = range(len(delays["noticed"]), until)
    for noticed, ended in each(DELAYS[name], missing):
        delays["noticed"].append(noticed)
        delays["ended"].append(ended)
    return len(missing) > 0


def main() -> None:
    """Simulate, and write the result after every step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", default="", help="a regular expression for names of traffic")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True, help="a file for the result, as JSON")
    arguments = parser.parse_args()
    result: Result = {"months": {}, "delays": {}}
    if arguments.out.exists():
        result = json.loads(arguments.out.read_text("utf-8"))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        each = pool.map if arguments.jobs > 1 else map
        for until in (*range(_AT_ONCE, arguments.seeds, _AT_ONCE), arguments.seeds):
            for step in steps(arguments.only):
                if step(result, each, until):
                    arguments.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


_AT_ONCE = 4  # seeds of one traffic

if __name__ == "__main__":
    main()
