"""`python -m load_tests overhead`: what scrapes, traces, keys, v2 or a change of the code cost."""

import argparse
import random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import uvloop

from load_tests.client.requests import Target, find_images, requests_of
from load_tests.client.synthetic_images import Picture, turned
from load_tests.commands.arguments import count, positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.errors import MeasurementFailed
from load_tests.fronts.fakes import with_fakes
from load_tests.generator.run import Load, drive
from load_tests.overhead.additions import Addition, addition, both_served, served
from load_tests.overhead.pairs import Pair, mean_of, of_cpu, of_latency, of_p50, of_scrape
from load_tests.overhead.scrape_cost import SCRAPE_EVERY_S, scrape_cost, scraped
from load_tests.overhead.side_by_side import Window, side_by_side
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.scenarios.findings import Finding, as_lines, fact
from load_tests.server.start import ROOT, Started

P99_RATIO = 1.10
CPU_RATIO = {"traces": 1.01, "keys": 1.02, "v2": 1.05, "change": 1.01}
_CLIENTS = 8  # of two servers, so four at each
_IMAGES = 18
_WARM_UP_S = 2.0
_PHOTOGRAPHS = ROOT / "models" / "probes" / "photos"


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests overhead",
        description="Compare a server with and without an addition, side by side or in alternating "
        "windows. Exit code 1 if a limit is exceeded.",
    )
    options.add_argument(
        "of",
        choices=("scrapes", "traces", "keys", "v2", "change"),
        help="a scrape each second (p99), traces of 1 %% of the requests, API keys, the binary "
        "form of the Open Inference Protocol instead of /classify, or another server (CPU per "
        "image)",
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE, help="what is served")
    options.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs (default: the repository's)"
    )
    options.add_argument(
        "--before", metavar="COMMAND", help="with `change`: the command that starts the old server"
    )
    options.add_argument(
        "--road",
        action="store_true",
        help="replace the engine of both servers by a fake that takes no CPU, and decode nothing: "
        "what is left is the service's own share; not with `scrapes`",
    )
    options.add_argument(
        "--rate", type=positive, help="with `scrapes`: requests per second (default: 30)"
    )
    options.add_argument(
        "--pairs",
        type=count,
        default=10,
        help="pairs of servers, or with `scrapes` of windows (default: %(default)s)",
    )
    options.add_argument(
        "--window-s",
        type=positive,
        default=14.0,
        help="length of the measurement of a pair, for all numbers of clients together, or of a "
        "window (default: %(default)s)",
    )
    options.add_argument(
        "--clients",
        type=count,
        nargs="+",
        default=[_CLIENTS],
        metavar="N",
        help="of the two servers together; not with `scrapes` (default: %(default)s)",
    )
    options.add_argument("--seed", type=int, default=0, help="of every order")
    options.add_argument(
        "--keys", type=count, default=10, help="with `keys`: how many (default: %(default)s)"
    )
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; 1 if a limit is exceeded."""
    if (options.of == "change") != (options.before is not None):
        raise ValueError("--before belongs to `change`, which needs it")
    pictures = list(turned(find_images(options.images or _PHOTOGRAPHS), _IMAGES))
    measure = _scrapes if options.of == "scrapes" else _cpu
    findings = uvloop.run(measure(options, pictures))
    print(as_lines(findings))
    kept: dict[str, object] = {"findings": [asdict(finding) for finding in findings]}
    keep(options.json, command_line, kept)
    return 1 if any(finding.met is False for finding in findings) else 0


async def _scrapes(options: argparse.Namespace, pictures: Sequence[Picture]) -> list[Finding]:
    """One server is scraped in one window of each pair; both have the same arrivals."""
    rng, pairs, scrapes = random.Random(options.seed), list[Pair](), 0
    rate = options.rate or 30.0
    async with served(options.bundle) as server:
        target = Target.parse(server.url)
        await _window(server, pictures, Load(_WARM_UP_S, clients=_CLIENTS // 2))
        for number in range(options.pairs):
            load = Load(options.window_s, rate=rate, seed=options.seed + number)
            windows: dict[bool, Window] = {}
            for is_scraped in rng.sample((False, True), 2):
                if not is_scraped:
                    windows[False] = await _window(server, pictures, load)
                    continue
                async with scraped(target) as sizes:
                    windows[True] = await _window(server, pictures, load)
                scrapes += len(sizes)
            pairs.append((windows[False], windows[True]))
        requests = requests_of(pictures, target, None)
        images = round(rate * SCRAPE_EVERY_S)
        cost = await scrape_cost(target, server.main_pid, requests, images)
    return [
        *of_latency(pairs, P99_RATIO),
        *of_scrape(pairs, cost, P99_RATIO),
        fact("scrapes", scrapes, ""),
    ]


async def _cpu(options: argparse.Namespace, pictures: Sequence[Picture]) -> list[Finding]:
    """Two servers side by side, again and again: two processes of the same code differ, too."""
    rng, env = random.Random(options.seed), with_fakes(decode=False) if options.road else {}
    pairs: dict[int, list[Pair]] = {clients: [] for clients in options.clients}
    async with addition(options.of, options.keys, shlex.split(options.before or "")) as compared:
        for number in range(options.pairs):
            async with both_served(compared, options.bundle, rng, env) as servers:
                for clients in rng.sample(options.clients, len(options.clients)):
                    pair = await _pair(options, compared, servers, pictures, clients, number)
                    pairs[clients].append(pair)
    findings = [finding for each in _by_clients(pairs, CPU_RATIO[options.of]) for finding in each]
    if compared.exported is not None:
        findings.append(fact("bytes of exported traces", float(sum(compared.exported)), ""))
    return findings


async def _pair(
    options: argparse.Namespace,
    compared: Addition,
    servers: tuple[Started, Started],
    pictures: Sequence[Picture],
    clients: int,
    number: int,
) -> Pair:
    """Measure two servers in one window, or in two if each can have both kinds of requests."""
    turns = (servers, servers[::-1]) if compared.is_of_requests else (servers,)
    windows = []
    for turn in turns:
        sides = compared.sides(turn, pictures, options.bundle)
        await side_by_side(sides, clients, _WARM_UP_S, options.seed)
        measured_s = options.window_s / len(turns) / len(options.clients)
        windows.append(await side_by_side(sides, clients, measured_s, options.seed + number))
    return mean_of([a for a, _ in windows]), mean_of([b for _, b in windows])


def _by_clients(pairs: Mapping[int, Sequence[Pair]], most: float) -> Iterator[list[Finding]]:
    """Yield the findings of each number of clients, which they name if there are several."""
    for clients, measured in pairs.items():
        found = of_cpu(measured, most)
        if len(pairs) > 1:
            named = f"{clients} clients: "
            found = [*found, *of_p50(measured)]
            found = [replace(one, quantity=named + one.quantity) for one in found]
        yield found


async def _window(server: Started, pictures: Sequence[Picture], load: Load) -> Window:
    """Measure one window of one server."""
    target = Target.parse(server.url)
    with shown(load.duration_s) as on_progress:
        run = await drive(
            target,
            requests_of(pictures, target, None),
            load,
            server_pid=server.main_pid,
            on_progress=on_progress,
        )
    cpu_ms = run.report.server_cpu_ms_per_image
    if cpu_ms is None:
        raise MeasurementFailed("a window answered nothing, or its server's CPU is not known")
    return Window(run.outcomes, cpu_ms)
