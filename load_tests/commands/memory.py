"""`python -m load_tests memory`: what a service of one client needs, bundle by bundle."""

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from load_tests.client.connection import Connection
from load_tests.client.requests import Target, build_requests, find_images
from load_tests.commands.arguments import count, positive
from load_tests.errors import MeasurementFailed
from load_tests.fuzz import wire
from load_tests.report.json_file import keep
from load_tests.scenarios.findings import Finding, as_lines, at_most, fact
from load_tests.server.sampling import watching
from load_tests.server.start import Started, free_port, running
from load_tests.server.usage import usage

MOST_MB = 300.0  # resident, all processes
_READY = wire.get(b"/readyz")
_SETTLE_S = 2.0  # from the start to the memory of an idle service
_SAMPLE_S = 0.2


@dataclass(frozen=True)
class Needs:
    """What one bundle needs. `resident` counts memory that processes share once per process."""

    bundle: str
    cold_start_s: float
    idle_mb: float
    after_mb: float  # after all images
    largest_mb: float  # of the samples
    main_mb: float  # of the main process, after all images
    proportional_mb: float | None  # of all processes, after all images; shared memory once
    translated_mb: float  # in all of these: machine code that an emulator has made
    threads: int
    images: int
    failed: int
    p50_ms: float
    cpu_ms: float  # per image, of all processes


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests memory",
        description="Start a service per bundle, send images one after the other, and record its "
        "memory, its start and its time per image. Exit code 1 if a service needs more than "
        f"{MOST_MB:.0f} MB.",
    )
    options.add_argument("--bundle", type=Path, action="append", required=True, metavar="DIR")
    options.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs")
    options.add_argument(
        "--requests", type=count, default=200, help="per bundle (default: %(default)s)"
    )
    options.add_argument(
        "--profile", default="edge", help="TIDEGATE_PROFILE, or none (default: %(default)s)"
    )
    options.add_argument(
        "--python",
        default=shlex.quote(sys.executable),
        metavar="COMMAND",
        help="that runs the service's Python, such as that of an emulated machine",
    )
    options.add_argument(
        "--start-timeout-s", type=positive, default=300.0, help="(default: %(default)s)"
    )
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure each bundle, print and save; 1 if one needs more than MOST_MB."""
    needs = asyncio.run(_measure(options))
    findings = [finding for one in needs for finding in findings_of(one)]
    print(as_lines(findings))
    measured = {"profile": options.profile, "needs": [asdict(one) for one in needs]}
    keep(options.json, command_line, {**measured, "findings": [asdict(one) for one in findings]})
    return 1 if any(finding.met is False for finding in findings) else 0


def findings_of(one: Needs) -> list[Finding]:
    """Return what was found of a bundle, in words."""
    name = one.bundle
    return [
        fact(f"{name}: start to ready", one.cold_start_s, "s"),
        fact(f"{name}: idle", one.idle_mb, "MB"),
        fact(f"{name}: after {one.images} images", one.after_mb, "MB"),
        fact(f"{name}: emulator's code", one.translated_mb, "MB"),
        at_most(f"{name}: largest without it", one.largest_mb - one.translated_mb, MOST_MB, "MB"),
        fact(f"{name}: shared once", one.proportional_mb, "MB"),
        fact(f"{name}: p50 of one client", one.p50_ms, "ms"),
        fact(f"{name}: CPU per image", one.cpu_ms, "ms"),
        at_most(f"{name}: failed", one.failed, 0, ""),
    ]


async def _measure(options: argparse.Namespace) -> list[Needs]:
    found = []
    for bundle in options.bundle:
        if not (bundle / "manifest.json").is_file():
            raise FileNotFoundError(f"{bundle} is no bundle")
        found.append(await _needs(options, bundle.resolve()))
    return found


async def _needs(options: argparse.Namespace, bundle: Path) -> Needs:
    port = free_port()
    url = f"http://127.0.0.1:{port}/classify"
    requests = build_requests(find_images(options.images), Target.parse(url), 60_000)
    environment = {"TIDEGATE_BUNDLE": str(bundle), "TIDEGATE_PORT": str(port)}
    if options.profile != "none":
        environment["TIDEGATE_PROFILE"] = options.profile
    python = [_absolute(word) for word in shlex.split(options.python)]
    command = [*python, "-m", "tidegate.service", "serve"]
    async with running(
        command, environment, url, _READY, start_timeout_s=options.start_timeout_s
    ) as started:
        await asyncio.sleep(_SETTLE_S)  # there is no event for memory that was given back
        before = usage(started.main_pid)
        async with watching(started.main_pid, _SAMPLE_S) as samples:
            took_s, failed = await _send(started, requests, options.requests)
        after = usage(started.main_pid)
        proportional = [_proportional_mb(pid) for pid in started.processes()]
        translated = [_translated_mb(pid) for pid in started.processes()]
        return Needs(
            bundle=f"{bundle.parent.name}/{bundle.name}",
            cold_start_s=started.cold_start_s,
            idle_mb=before.rss_mb,
            after_mb=after.rss_mb,
            largest_mb=max(after.rss_mb, *(sample.rss_mb for sample in samples)),
            main_mb=_field_mb(started.main_pid, "status", "VmRSS:") or 0.0,
            proportional_mb=sum(mb for mb in proportional if mb is not None) or None,
            translated_mb=sum(translated),
            threads=after.threads,
            images=len(took_s),
            failed=failed,
            p50_ms=1000 * median(took_s),
            cpu_ms=1000 * after.since(before).cpu_s / len(took_s),
        )


def _absolute(word: str) -> str:
    """Return a file's path as it is for a server, which runs in another folder."""
    path = Path(word)
    return str(path.absolute()) if path.is_file() else word


async def _send(
    started: Started, requests: Sequence[bytes], number: int
) -> tuple[list[float], int]:
    """Send `number` requests one after the other; return their seconds, and how many failed."""
    target = Target.parse(started.url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, target.host, target.port)
    took_s, failed = list[float](), 0
    try:
        for turn in range(number):
            begun = time.perf_counter()
            response = await connection.exchange(requests[turn % len(requests)])
            took_s.append(time.perf_counter() - begun)
            failed += response.status not in (200, 422)
    except OSError as error:
        raise MeasurementFailed(f"the service closed the connection: {error}") from error
    finally:
        connection.close()
    return took_s, failed


def _proportional_mb(pid: int) -> float | None:
    """Return a process's memory, what it shares with others divided by their number."""
    return _field_mb(pid, "smaps_rollup", "Pss:")


def _translated_mb(pid: int) -> float:
    """Return a process's memory that is both writable and executable: the code of an emulator."""
    try:
        text = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    total_kb, counts = 0, False
    for line in text.splitlines():
        field, *rest = line.split()
        if "-" in field:
            counts = rest[0].startswith("rwx")
        elif field == "Rss:" and counts:
            total_kb += int(rest[0])
    return total_kb / 1024


def _field_mb(pid: int, name: str, field: str) -> float | None:
    """Return a field of a file in /proc/PID, which is in kB."""
    try:
        text = Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = (line.split() for line in text.splitlines() if line.startswith(field))
    return next((int(words[1]) / 1024 for words in found), None)
