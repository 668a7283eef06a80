"""perf_analyzer against two servers in turns: what it is given, and what it reports. Pure."""

import base64
import csv
import io
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from load_tests.client.synthetic_images import Picture
from load_tests.errors import MeasurementFailed
from load_tests.scenarios.findings import Finding, fact, ratio

WINDOWS = 3  # of one run; perf_analyzer reports their mean


@dataclass(frozen=True)
class Analysed:
    """What one run of perf_analyzer says of a server, and what the server used."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # per image, also of those that perf_analyzer leaves out


def input_data(pictures: Iterable[Picture]) -> str:
    """Return the images as perf_analyzer's JSON: one element of the input `image` each."""
    elements = (struct.pack("<I", len(one.data)) + one.data for one in pictures)
    texts = (base64.b64encode(element).decode("ascii") for element in elements)
    return json.dumps({"data": [{"image": {"b64": text, "shape": [1]}} for text in texts]})


def arguments(
    model: str, address: str, data: Path, report: Path, clients: int, window_s: float
) -> list[str]:
    """Return the words after the program: so many closed-loop clients, WINDOWS windows."""
    return [
        *("-m", model, "-u", address, "--input-data", str(data), "-f", str(report)),
        *("--concurrency-range", str(clients), "--measurement-interval", f"{1000 * window_s:.0f}"),
        *("--stability-percentage", "999", "--max-trials", str(WINDOWS)),
    ]


def parse(report: str, cpu_ms: float) -> Analysed:
    """Return the figures in perf_analyzer's CSV. Raises MeasurementFailed if there are none."""
    rows = list(csv.DictReader(io.StringIO(report)))
    try:
        row = rows[-1]
        p50_ms, p99_ms = (float(row[f"{name} latency"]) / 1e3 for name in ("p50", "p99"))
        return Analysed(float(row["Inferences/Second"]), p50_ms, p99_ms, cpu_ms)
    except (IndexError, KeyError, ValueError) as error:
        raise MeasurementFailed(f"perf_analyzer reported no figures: {report[:500]!r}") from error


def compare(analysed: Mapping[str, Sequence[Analysed]]) -> list[Finding]:
    """Return the median of every figure of two servers, and the median of the rounds' ratios."""
    (ours, mine), (peer, others) = analysed.items()
    findings = []
    for figure, unit in (("per_s", "/s"), ("p50_ms", "ms"), ("p99_ms", "ms"), ("cpu_ms", "ms")):
        own, other = ([getattr(one, figure) for one in runs] for runs in (mine, others))
        name = _NAMES[figure]
        ratios = [ratio(a, b) or 0.0 for a, b in zip(own, other, strict=True)]
        findings += [
            fact(f"{name}, {ours}", median(own), unit),
            fact(f"{name}, {peer}", median(other), unit),
            fact(f"{name}, ratio", median(ratios), "×"),
        ]
    return [*findings, fact("rounds", float(len(mine)), "")]


_NAMES = {
    "per_s": "images per second",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "cpu_ms": "CPU per image",
}
