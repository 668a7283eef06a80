"""`python -m load_tests bulk`: `tidegate classify` against a bare loop, in turns."""

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from load_tests.client.requests import find_images
from load_tests.commands.arguments import count, positive
from load_tests.comparison.baseline import Loop, bare_loop
from load_tests.errors import MeasurementFailed
from load_tests.generator.intervals import Interval
from load_tests.report.json_file import keep
from load_tests.scenarios.findings import Finding, as_lines, at_least, fact

LEAST_RATIO = 1.0  # of images a second


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests bulk",
        description="Compare the images a second of `tidegate classify` with those of a bare loop "
        "in as many processes, in turns. Exit code 1 if it is slower.",
    )
    options.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="from `tidegate export-plain`"
    )
    options.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="bundle of the same model"
    )
    options.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs")
    options.add_argument(
        "--processes", type=count, default=2, help="of both sides (default: %(default)s)"
    )
    options.add_argument("--pairs", type=count, default=7, help="of turns (default: %(default)s)")
    options.add_argument(
        "--turn-s", type=positive, default=15.0, help="length of a turn (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=0, help="of the order in each pair")
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; 1 if the command is slower than the loop."""
    findings = asyncio.run(_measure(options))
    print(as_lines(findings))
    keep(options.json, command_line, {"findings": [asdict(finding) for finding in findings]})
    return 1 if any(finding.met is False for finding in findings) else 0


async def _measure(options: argparse.Namespace) -> list[Finding]:
    rng, pairs = random.Random(options.seed), list[tuple[float, float]]()
    with tempfile.TemporaryDirectory() as folder:
        async with bare_loop(options.model, options.images, options.processes) as loop:
            per_s = (await loop.together(2.0)).per_s
            for _ in range(options.pairs):
                rates: dict[bool, float] = {}
                for is_command in rng.sample((False, True), 2):
                    images = round(per_s * options.turn_s)
                    rates[is_command] = (
                        await _command(options, images, Path(folder))
                        if is_command
                        else await _loop(loop, options.turn_s)
                    )
                pairs.append((rates[False], rates[True]))
    interval = Interval.of(pairs)
    return [
        fact("bare loop, images a second", fmean(a for a, _ in pairs), ""),
        fact("tidegate classify, images a second", fmean(b for _, b in pairs), ""),
        at_least("images a second, ratio", interval.ratio, LEAST_RATIO, "×"),
        fact("images a second, ratio: lower end of 95 %", interval.low, "×"),
        fact("images a second, ratio: upper end of 95 %", interval.high, "×"),
        fact("pairs of turns", float(len(pairs)), ""),
    ]


async def _loop(loop: Loop, seconds: float) -> float:
    return (await loop.together(seconds)).per_s


async def _command(options: argparse.Namespace, images: int, folder: Path) -> float:
    """Return the images a second of one job, without its start."""
    paths = itertools.islice(itertools.cycle(find_images(options.images)), images)
    listing, out = folder / "list.txt", folder / "rows.jsonl"
    listing.write_text("".join(f"{path.resolve()}\n" for path in paths), "utf-8")
    command = [sys.executable, "-m", "tidegate.service", "classify", "--list", str(listing)]
    command += ["--bundle", str(options.bundle), "--out", str(out), "--replace"]
    command += ["--workers", str(options.processes)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        raise MeasurementFailed(f"tidegate classify failed: {errors.decode(errors='replace')}")
    summary = json.loads(out.with_name("rows.jsonl.summary.json").read_text("utf-8"))
    return float(summary["images_per_second"])
