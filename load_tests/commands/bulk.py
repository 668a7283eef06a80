"""`python -m load_tests bulk`: `tidegate classify` against a bare loop, in turns."""

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from load_tests.client.requests import find_images
from load_tests.commands.arguments import count, positive
from load_tests.comparison.baseline import bare_loop
from load_tests.errors import MeasurementFailed
from load_tests.generator.intervals import Interval
from load_tests.report.json_file import keep
from load_tests.scenarios.findings import Finding, as_lines, at_least, fact

LEAST_RATIO = 1.0  # of images a second


@dataclass(frozen=True)
class _Side:
    """A bundle and the engine that runs it."""

    bundle: Path
    engine: str

    @classmethod
    def parse(cls, text: str) -> "_Side":
        bundle, _, engine = text.partition("@")
        return cls(Path(bundle), engine or "onnx-cpu")

    @property
    def name(self) -> str:
        return f"{self.bundle.parent.name}, {self.engine}"


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
    options.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="DIR[@ENGINE]",
        help="another bundle, such as one in int8, measured in the same turns; may be repeated",
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
    rng = random.Random(options.seed)
    sides = [_Side.parse(text) for text in (str(options.bundle), *options.also)]
    turns: list[dict[_Side | None, float]] = []  # None is the loop
    with tempfile.TemporaryDirectory() as folder:
        async with bare_loop(options.model, options.images, options.processes) as loop:
            per_s = dict.fromkeys(sides, (await loop.together(2.0)).per_s)
            for _ in range(options.pairs):
                rates: dict[_Side | None, float] = {}
                for side in rng.sample((None, *sides), 1 + len(sides)):
                    if side is None:
                        rates[None] = (await loop.together(options.turn_s)).per_s
                        continue
                    images = round(per_s[side] * options.turn_s)
                    rates[side] = per_s[side] = await _command(options, side, images, Path(folder))
                turns.append(rates)
    return _findings(sides, turns)


def _findings(
    sides: Sequence[_Side], turns: Sequence[Mapping[_Side | None, float]]
) -> list[Finding]:
    found = [fact("bare loop, images a second", fmean(rates[None] for rates in turns), "")]
    for place, side in enumerate(sides):
        of = f" ({side.name})" if place else ""
        rate = fmean(rates[side] for rates in turns)
        interval = Interval.of([(rates[None], rates[side]) for rates in turns])
        ratio = f"images a second, ratio{of}"
        found += [
            fact(f"tidegate classify{of}, images a second", rate, ""),
            # A loop in fp32 is no standard for other precisions.
            fact(ratio, interval.ratio, "×")
            if place
            else at_least(ratio, interval.ratio, LEAST_RATIO, "×"),
            fact(f"{ratio}: lower end of 95 %", interval.low, "×"),
            fact(f"{ratio}: upper end of 95 %", interval.high, "×"),
        ]
    return [*found, fact("pairs of turns", float(len(turns)), "")]


async def _command(options: argparse.Namespace, side: _Side, images: int, folder: Path) -> float:
    """Return the images a second of one job, without its start."""
    paths = itertools.islice(itertools.cycle(find_images(options.images)), images)
    listing, out = folder / "list.txt", folder / "rows.jsonl"
    listing.write_text("".join(f"{path.resolve()}\n" for path in paths), "utf-8")
    command = [sys.executable, "-m", "tidegate.service", "classify", "--list", str(listing)]
    command += ["--bundle", str(side.bundle), "--out", str(out), "--replace"]
    command += ["--workers", str(options.processes), "--engine", side.engine]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        raise MeasurementFailed(f"tidegate classify failed: {errors.decode(errors='replace')}")
    summary = json.loads(out.with_name("rows.jsonl.summary.json").read_text("utf-8"))
    return float(summary["images_per_second"])
