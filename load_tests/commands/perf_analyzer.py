"""`python -m load_tests perf-analyzer`: Triton's own load generator on our server and PyTriton."""

import argparse
import asyncio
import json
import random
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from load_tests.client.requests import find_images
from load_tests.client.synthetic_images import Picture, turned
from load_tests.commands.arguments import count, positive
from load_tests.commands.compare import check_contestants
from load_tests.comparison.perf_analyzer import (
    WINDOWS,
    Analysed,
    arguments,
    compare,
    input_data,
    parse,
)
from load_tests.errors import MeasurementFailed
from load_tests.fuzz import wire
from load_tests.peers.catalogue import ENVIRONMENTS, OURS, PEERS, Start, start_ours, start_peer
from load_tests.peers.perf_analyzer import PerfAnalyzer, fetch
from load_tests.peers.versions import versions
from load_tests.report.json_file import keep
from load_tests.scenarios.findings import Finding, as_lines
from load_tests.server.process_tree import pause, resume
from load_tests.server.start import ROOT, Started, running, send_request
from load_tests.server.usage import usage

_PEER, _PEER_MODEL = "pytriton", "classifier"
_PHOTOGRAPHS = ROOT / "models" / "probes" / "photos"
_IMAGES = 18
_TIMEOUT_S = 30.0


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests perf-analyzer",
        description="Run perf_analyzer against our server and PyTriton, both with the same model, "
        "in turns. The server that is not measured is stopped with SIGSTOP.",
    )
    options.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="plain model of the peer"
    )
    options.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="bundle of the same model"
    )
    options.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs (default: the repository's)"
    )
    options.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR")
    options.add_argument(
        "--clients", type=count, default=8, help="closed-loop clients (default: %(default)s)"
    )
    options.add_argument(
        "--rounds", type=count, default=5, help="runs of each server (default: %(default)s)"
    )
    options.add_argument(
        "--window-s",
        type=positive,
        default=3.0,
        help=f"length of one of the {WINDOWS} windows of a run (default: %(default)s)",
    )
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save. Raises MeasurementFailed, FileNotFoundError or ValueError."""
    check_contestants(options)
    pictures = list(turned(find_images(options.images or _PHOTOGRAPHS), _IMAGES))
    findings = uvloop.run(_measure(options, pictures, fetch()))
    print(as_lines(findings))
    kept: dict[str, object] = {
        "peers": versions([_PEER], options.environments),
        "findings": [asdict(finding) for finding in findings],
    }
    keep(options.json, command_line, kept)
    return 0


@dataclass(frozen=True)
class _Contestant:
    """A server that runs, and the name of its model."""

    start: Start
    started: Started
    model: str

    async def analyse(
        self, analyser: PerfAnalyzer, folder: Path, clients: int, window_s: float
    ) -> Analysed:
        """Run perf_analyzer once. Raises MeasurementFailed if it fails."""
        report, target = folder / "report.csv", self.start.target
        report.unlink(missing_ok=True)
        address = f"{target.host}:{target.port}"
        words = arguments(self.model, address, folder / "images.json", report, clients, window_s)
        cpu_s, images = usage(self.started.pid).cpu_s, await self._inferences()
        process = await asyncio.create_subprocess_exec(
            analyser.program,
            *words,
            env=analyser.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        cpu_s, images = usage(self.started.pid).cpu_s - cpu_s, await self._inferences() - images
        if process.returncode or not images or not report.exists():
            said = printed.decode("utf-8", "replace")[-2000:]
            raise MeasurementFailed(f"perf_analyzer failed for {self.start.name}:\n{said}")
        return parse(report.read_text("utf-8"), 1e3 * cpu_s / images)

    async def _inferences(self) -> int:
        """Return how many images the server has answered."""
        path = f"/v2/models/{self.model}/stats".encode()
        response = await send_request(self.start.target, wire.get(path), _TIMEOUT_S)
        if response is None or response.status != 200:
            raise MeasurementFailed(f"{self.start.name} has no statistics of {self.model}")
        [statistics] = json.loads(response.body)["model_stats"]
        return int(statistics["inference_count"])


async def _measure(
    options: argparse.Namespace, pictures: Sequence[Picture], analyser: PerfAnalyzer
) -> list[Finding]:
    model = json.loads((options.bundle / "manifest.json").read_bytes())["name"]
    starts = (
        (start_ours(options.bundle), model),
        (start_peer(PEERS[_PEER], options.environments, options.model), _PEER_MODEL),
    )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-tests-")))
        (folder / "images.json").write_text(input_data(pictures), encoding="ascii")
        contestants = []
        for start, name in starts:
            ready = wire.get(f"/v2/models/{name}/ready".encode())
            served = running(start.command, start.env, start.url, ready)
            started = await stack.enter_async_context(served)
            contestants.append(_Contestant(start, started, name))
            pause(started.pid)
        analysed: dict[str, list[Analysed]] = {OURS: [], _PEER: []}
        for number in range(options.rounds):
            for one in random.Random(number).sample(contestants, 2):
                resume(one.started.pid)
                found = await one.analyse(analyser, folder, options.clients, options.window_s)
                pause(one.started.pid)
                analysed[one.start.name].append(found)
                print(
                    f"round {number + 1}: {one.start.name} {found.per_s:.1f} images/s", flush=True
                )
    return compare(analysed)
