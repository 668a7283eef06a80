"""Simulate months of traffic for many calibrations, and write what the monitors do.

    python -m tests.unit.drift.months --seeds 100 --out tests/unit/drift/months.json

Seeds that the file already has are not simulated again. Months are simulated twice: with every
monitor, and with the comparisons of shares alone, which are three times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np

from tests.unit.drift.month import DELAYS, UNCHANGED, SharesAlone, unchanged


class Months(TypedDict):
    """Months in which nothing changed, of the seeds 0, 1, …"""

    seeds: int
    alarms: list[dict[str, int]]  # of each seed that has any: its number, and alarms by monitor


class Delays(TypedDict):
    """Images until a change is noticed, and clean images until the alarm ends, by seed."""

    noticed: list[int]
    ended: list[int]


class Result(TypedDict):
    """The simulations so far, by the name of their traffic."""

    months: dict[str, Months]
    shares: dict[str, Months]
    delays: dict[str, Delays]


Step = Callable[[Result, ProcessPoolExecutor, int], bool]  # whether seeds were missing up to a seed


def steps(only: str) -> Iterator[Step]:
    """Yield a step for each traffic whose name contains `only`."""
    for traffic in UNCHANGED:
        if only in traffic.name:
            yield partial(_months, traffic.name, "months", partial(unchanged, traffic))
            alone = partial(unchanged, traffic, make=SharesAlone)
            yield partial(_months, traffic.name, "shares", alone)
    for name in DELAYS:
        if only in name:
            yield partial(_delays, name)


def _months(
    name: str,
    part: str,
    simulate: Callable[[int], dict[str, int]],
    result: Result,
    pool: ProcessPoolExecutor,
    until: int,
) -> bool:
    group = result["months"] if part == "months" else result["shares"]
    months = group.setdefault(name, {"seeds": 0, "alarms": []})
    missing = range(months["seeds"], until)
    for seed, alarms in zip(missing, pool.map(simulate, missing), strict=True):
        if alarms:
            months["alarms"].append({"seed": seed, **alarms})
        months["seeds"] = seed + 1
    return len(missing) > 0


def _delays(name: str, result: Result, pool: ProcessPoolExecutor, until: int) -> bool:
    delays = result["delays"].setdefault(name, {"noticed": [], "ended": []})
    missing = range(len(delays["noticed"]), until)
    for noticed, ended in pool.map(DELAYS[name], missing):
        delays["noticed"].append(noticed)
        delays["ended"].append(ended)
    return len(missing) > 0


def table(result: Result) -> str:
    """Return the result as two Markdown tables."""
    rows = [["nothing changed", "seeds with an alarm", "the same, shares alone"], ["---"] * 3]
    rows += [[name, *_alarmed(result, name)] for name in result["months"] | result["shares"]]
    rows += [[], ["change", "images until noticed: median, 90 %", "until the alarm ends", "seeds"]]
    rows.append(["---"] * 4)
    for name, delays in result["delays"].items():
        both = (np.quantile(delays["noticed"], _SHOWN), np.quantile(delays["ended"], _SHOWN))
        shown = (", ".join(f"{x:,.0f}" for x in quantiles) for quantiles in both)
        rows.append([name, *shown, str(len(delays["noticed"]))])
    return "\n".join(f"| {' | '.join(row)} |" if row else "" for row in rows) + "\n"


def _alarmed(result: Result, name: str) -> Iterator[str]:
    """Yield how many seeds alarmed, and alarms by monitor: with all of them, with shares alone."""
    for group in (result["months"], result["shares"]):
        months = group.get(name, {"seeds": 0, "alarms": []})
        monitors = sorted({monitor for one in months["alarms"] for monitor in one} - {"seed"})
        by_name = (f"{m} {sum(one.get(m, 0) for one in months['alarms'])}" for m in monitors)
        yield " ".join([f"{len(months['alarms'])} of {months['seeds']}", *by_name])


def main() -> None:
    """Simulate, write the result after every step, and print it as tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", default="", help="traffic whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="a file for the result, as JSON")
    arguments = parser.parse_args()
    result: Result = {"months": {}, "shares": {}, "delays": {}}
    if arguments.out and arguments.out.exists():
        result = json.loads(arguments.out.read_text("utf-8"))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for until in (*range(_AT_ONCE, arguments.seeds, _AT_ONCE), arguments.seeds):
            for step in steps(arguments.only):
                if step(result, pool, until) and arguments.out:
                    arguments.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    sys.stdout.write(table(result))


_AT_ONCE = 4  # seeds of one traffic
_SHOWN = (0.5, 0.9)  # quantiles

if __name__ == "__main__":
    main()
