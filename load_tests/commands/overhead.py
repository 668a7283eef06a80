"""`python -m load_tests overhead`: what scrapes, traces, keys, v2 or a change of the code cost."""

import argparse
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import uvloop

from load_tests.client.requests import Target, find_images, requests_of
from load_tests.client.synthetic_images import Picture, turned
from load_tests.commands.arguments import count, positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.fuzz import wire
from load_tests.fuzz.server import SERVE, launch
from load_tests.generator.run import Load, Run, drive
from load_tests.overhead.beside import collector, scraped
from load_tests.overhead.keys import with_key, write_keys
from load_tests.overhead.pairs import Arm, of_cpu, of_latency, order
from load_tests.overhead.v2 import v2_requests
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.scenarios.findings import Finding, as_lines, fact
from load_tests.server.process_tree import pause, resume
from load_tests.server.start import ROOT, Started, running

P99_RATIO, CPU_RATIO, KEYS_RATIO, V2_RATIO = 1.10, 1.01, 1.02, 1.05
_CLIENTS = 4
_IMAGES = 18
_WARM_UP = Load(2.0, clients=_CLIENTS)
_READY = wire.get(b"/readyz")
_PHOTOGRAPHS = ROOT / "models" / "probes" / "photos"
_SETTINGS = {"TIDEGATE_LOG_LEVEL": "info", "TIDEGATE_LOG_FORMAT": "json"}
_SHARE = "0.01"  # of the requests that are traced


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests overhead",
        description="Compare a server with and without an addition, in interleaved windows. Exit "
        "code 1 if a limit is exceeded.",
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
        "--rate", type=positive, help="with `scrapes`: requests per second (default: 30)"
    )
    options.add_argument(
        "--starts", type=count, default=3, help="how often both start (default: %(default)s)"
    )
    options.add_argument(
        "--rounds", type=count, default=4, help="pairs of windows per start (default: %(default)s)"
    )
    options.add_argument(
        "--window-s", type=positive, default=6.0, help="length of a window (default: %(default)s)"
    )
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
    measure = {"scrapes": _scrapes, "v2": _v2}.get(options.of, _cpu)
    findings = uvloop.run(measure(options, pictures))
    print(as_lines(findings))
    kept: dict[str, object] = {"findings": [asdict(finding) for finding in findings]}
    keep(options.json, command_line, kept)
    return 1 if any(finding.met is False for finding in findings) else 0


async def _scrapes(options: argparse.Namespace, pictures: Sequence[Picture]) -> list[Finding]:
    """One server is scraped in every second window."""
    arms, scrapes = (Arm(), Arm()), 0
    load = Load(options.window_s, rate=options.rate or 30.0)
    async with _served(options.bundle, SERVE, {}) as server:
        await _window(server, pictures, _WARM_UP)
        for pair in order(options.starts * options.rounds):
            for is_scraped in pair:
                if not is_scraped:
                    arms[0].add(await _window(server, pictures, load))
                    continue
                async with scraped(Target.parse(server.url)) as sizes:
                    arms[1].add(await _window(server, pictures, load))
                scrapes += len(sizes)
    return [*of_latency(*arms, P99_RATIO), fact("scrapes", scrapes, "")]


async def _v2(options: argparse.Namespace, pictures: Sequence[Picture]) -> list[Finding]:
    """One server gets the same images in both forms, in turns."""
    arms = (Arm(), Arm())
    load = Load(options.window_s, clients=_CLIENTS)
    for _ in range(options.starts):
        async with _served(options.bundle, SERVE, {}) as server:
            target = Target.parse(server.url)
            forms = (
                requests_of(pictures, target, None),
                v2_requests(pictures, target, options.bundle),
            )
            for requests in forms:
                await _window(server, pictures, _WARM_UP, requests)
            for pair in order(options.rounds):
                for which in pair:
                    arms[which].add(await _window(server, pictures, load, forms[which]))
    return of_cpu(*arms, V2_RATIO)


async def _cpu(options: argparse.Namespace, pictures: Sequence[Picture]) -> list[Finding]:
    """Two servers; the one that is not measured is stopped meanwhile.

    Both are started again and again, because two processes of the same code differ too.
    """
    arms = (Arm(), Arm())
    load = Load(options.window_s, clients=_CLIENTS)
    async with collector() as (url, exported), AsyncExitStack() as folders:
        env: dict[str, str] = {}
        if options.of == "traces":
            env = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": _SHARE,
            }
        elif options.of == "keys":
            folder = folders.enter_context(tempfile.TemporaryDirectory(prefix="load-tests-"))
            env = {"TIDEGATE_KEYS": str(write_keys(Path(folder) / "keys", options.keys))}
        for _ in range(options.starts):
            async with AsyncExitStack() as stack:
                servers = []
                for command, more in ((shlex.split(options.before or ""), {}), (SERVE, env)):
                    served = _served(options.bundle, command or SERVE, more)
                    servers.append(await stack.enter_async_context(served))
                    await _window(servers[-1], pictures, _WARM_UP)
                    pause(servers[-1].pid)
                for pair in order(options.rounds):
                    for which in pair:
                        resume(servers[which].pid)
                        arms[which].add(await _window(servers[which], pictures, load))
                        pause(servers[which].pid)
        findings = of_cpu(*arms, KEYS_RATIO if options.of == "keys" else CPU_RATIO)
        return [*findings, _exports(exported)] if options.of == "traces" else findings


def _exports(sizes: Sequence[int]) -> Finding:
    return fact("bytes of exported traces", float(sum(sizes)), "")


def _served(
    bundle: Path, command: Sequence[str], env: Mapping[str, str]
) -> AbstractAsyncContextManager[Started]:
    start = launch(bundle, {**_SETTINGS, **env}, command=command)
    return running(start.command, start.env, start.url, _READY)


async def _window(
    server: Started,
    pictures: Sequence[Picture],
    load: Load,
    requests: Sequence[bytes] | None = None,
) -> Run:
    """Measure one window, of requests to /classify unless others are given.

    All have a key, so that heads are the same with and without keys.
    """
    target = Target.parse(server.url)
    with shown(load.duration_s) as on_progress:
        return await drive(
            target,
            [with_key(one) for one in requests or requests_of(pictures, target, None)],
            load,
            server_pid=server.main_pid,
            on_progress=on_progress,
        )
