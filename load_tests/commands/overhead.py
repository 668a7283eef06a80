"""`python -m load_tests overhead`: what a setting, or a change, costs in CPU time per image."""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import uvloop

from load_tests.client.requests import Target, build_requests, find_images
from load_tests.commands.arguments import count, positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.comparison.overhead import Ratio, order, with_header
from load_tests.errors import MeasurementFailed
from load_tests.fuzz.server import good_request, launch
from load_tests.generator.run import Load, drive
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.server.start import ROOT, Started, running

PHOTOS = ROOT / "models" / "probes" / "photos"
KEY = "key-0"
_NAMES = ("reference", "changed")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests overhead",
        description="Run two servers side by side, load them in turns, and compare their CPU time "
        "per image. Exit code 1 if the ratio exceeds the limit.",
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the demo bundle")
    options.add_argument("--images", type=Path, default=PHOTOS, metavar="DIR", help="photographs")
    options.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the second server, for example TIDEGATE_AUDIT_LOG=/tmp/audit; may be repeated",
    )
    options.add_argument(
        "--keys", type=int, default=0, help="give the second server this many API keys"
    )
    options.add_argument(
        "--reference",
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter of another checkout, whose service is the first server",
    )
    options.add_argument("--clients", type=count, default=4, help="closed loops (default: 4)")
    options.add_argument("--pairs", type=count, default=16, help="of windows (default: 16)")
    options.add_argument("--window-s", type=positive, default=4.0, help="default: 4")
    options.add_argument("--limit", type=positive, default=1.02, help="default: 1.02")
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; 1 if the ratio exceeds the limit."""
    if options.pairs < 2:
        raise ValueError("--pairs must be at least 2")
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        settings = dict(text.split("=", 1) for text in options.setting)
        if options.keys:
            settings["TIDEGATE_KEYS"] = str(_write_keys(Path(folder) / "keys", options.keys))
        windows = uvloop.run(_measure(options, settings))
    ratio = Ratio.of(*windows)
    for name, values in zip(_NAMES, windows, strict=True):
        print(f"{name}: {sum(values) / len(values):.3f} ms of CPU per image")
    print(f"ratio {ratio.mean:.4f} ({ratio.low:.4f} to {ratio.high:.4f}), limit {options.limit:g}")
    kept: dict[str, object] = dict(zip(_NAMES, windows, strict=True))
    keep(options.json, command_line, kept | {"ratio": asdict(ratio), "limit": options.limit})
    return 1 if ratio.mean > options.limit else 0


def _write_keys(path: Path, number: int) -> Path:
    digests = (hashlib.sha256(f"key-{index}".encode()).hexdigest() for index in range(number))
    path.write_text("".join(f"client-{i} {d} classify\n" for i, d in enumerate(digests)))
    return path


async def _measure(
    options: argparse.Namespace, settings: Mapping[str, str]
) -> tuple[list[float], list[float]]:
    """Return the CPU milliseconds per image of each window of the two servers."""
    windows: tuple[list[float], list[float]] = ([], [])
    async with (
        _served(options.bundle, options.reference, {}) as first,
        _served(options.bundle, sys.executable, settings) as second,
    ):
        for number, is_changed in enumerate([False, True, *order(options.pairs)]):
            cost = await _window(second if is_changed else first, options, number)
            if number >= 2:  # the first two warm the servers up
                windows[is_changed].append(cost)
    return windows


@asynccontextmanager
async def _served(bundle: Path, python: str, settings: Mapping[str, str]) -> AsyncIterator[Started]:
    command = (python, "-m", "tidegate.service", "serve")
    made = launch(bundle, settings, command=command)
    ready = with_header(good_request(), "X-API-Key", KEY)
    async with running(made.command, made.env, made.url, ready) as started:
        yield started


async def _window(started: Started, options: argparse.Namespace, number: int) -> float:
    target = Target.parse(started.url)
    requests = build_requests(find_images(options.images), target, None)
    # Both servers get the key, so that the clients and the heads are the same.
    requests = [with_header(request, "X-API-Key", KEY) for request in requests]
    load = Load(options.window_s, clients=options.clients, seed=number // 2)
    with shown(load.duration_s, f"window {number}") as on_progress:
        done = await drive(
            target, requests, load, server_pid=started.main_pid, on_progress=on_progress
        )
    if done.report.server_cpu_ms_per_image is None:
        raise MeasurementFailed("no request was answered")
    return done.report.server_cpu_ms_per_image
