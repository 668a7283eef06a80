"""`python -m load_tests bulk-job`: the memory of a large job, its rows after kills and online."""

import argparse
import asyncio
import random
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from load_tests.bulk.job import Job, finish, kill_often, rows_of
from load_tests.bulk.online import compare
from load_tests.client.requests import Target, requests_of
from load_tests.client.synthetic_images import generated
from load_tests.commands.arguments import count
from load_tests.report.json_file import keep
from load_tests.scenarios.findings import Finding, as_lines, at_most, fact
from load_tests.server.sampling import Sample
from load_tests.server.start import free_port, running

LARGEST_GROWTH = 1.1  # of the memory, from the second tenth of the time to the last
LARGEST_DIFFERENCE = 1e-6  # of probabilities and p-values
_KILLED_PART_IMAGES = 100


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests bulk-job",
        description="Classify a set of `bulk-set` and record the memory; kill a job on its first "
        "archive again and again and compare the rows; compare rows with POST /classify. Exit code "
        "1 if something differs.",
    )
    options.add_argument("set", type=Path, metavar="DIR", help="folder of bulk-set")
    options.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    options.add_argument("--processes", type=count, default=2, help="(default: %(default)s)")
    options.add_argument("--kills", type=int, default=5, help="(default: %(default)s)")
    options.add_argument(
        "--online", type=int, default=2_000, help="rows to compare (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Run the jobs, print and save; 1 if something differs."""
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        findings, kept = asyncio.run(_measure(options, Path(folder)))
    print(as_lines(findings))
    result = {"findings": [asdict(finding) for finding in findings], **kept}
    keep(options.json, command_line, result)
    return 1 if any(finding.met is False for finding in findings) else 0


async def _measure(
    options: argparse.Namespace, folder: Path
) -> tuple[list[Finding], dict[str, object]]:
    shards = sorted(options.set.glob("*.tar"))
    if not shards:
        raise FileNotFoundError(f"no .tar in {options.set}: write a set with bulk-set")
    job = Job(shards, options.bundle, folder / "rows.jsonl", 10_000, options.processes)
    samples = await finish(job)
    rows = rows_of(job.out)
    findings = _of_memory(samples, job)
    if options.kills:
        findings += await _of_kills(options, job, rows)
    if options.online:
        findings += await _of_answers(options, shards, rows)
    kept = {"outcomes": job.summary()["outcomes"], "memory_mb": _series(samples)}
    return findings, kept


def _of_memory(samples: list[Sample], job: Job) -> list[Finding]:
    tenth = max(1, len(samples) // 10)
    early = fmean(s.rss_mb for s in samples[tenth : 2 * tenth] or samples)
    late = fmean(s.rss_mb for s in samples[-tenth - 1 : -1] or samples)
    summary = job.summary()
    return [
        fact("images", float(summary["images"]), ""),
        fact("images a second", float(summary["images_per_second"]), ""),
        fact("memory of all processes, second tenth", early, "MB"),
        fact("memory of all processes, last tenth", late, "MB"),
        fact("memory of all processes, largest", max(s.rss_mb for s in samples), "MB"),
        at_most("memory, growth", late / early, LARGEST_GROWTH, "×"),
    ]


async def _of_kills(
    options: argparse.Namespace, job: Job, rows: list[dict[str, Any]]
) -> list[Finding]:
    """Compare the rows of the first archive with those of a job that was killed."""
    out = job.out.with_name("killed.jsonl")
    first = replace(job, sources=job.sources[:1], out=out, part_images=_KILLED_PART_IMAGES)
    kills = await kill_often(first, options.kills, random.Random(options.seed))
    after = rows_of(out)
    before = [row for row in rows if row["path"].startswith(f"{job.sources[0]}!")]
    paths = [row["path"] for row in after]
    fields = ("index", "path", "sha256", "decision", "class_id", "error")
    differing = sum(
        any(a[name] != b[name] for name in fields) for a, b in zip(before, after, strict=False)
    )
    return [
        fact("images of the job that was killed", float(len(after)), ""),
        fact("kills", float(kills), ""),
        at_most("rows missing or too many", float(abs(len(after) - len(before))), 0, ""),
        at_most("rows twice", float(len(paths) - len(set(paths))), 0, ""),
        at_most("rows that differ", float(differing), 0, ""),
    ]


async def _of_answers(
    options: argparse.Namespace, shards: list[Path], rows: list[dict[str, Any]]
) -> list[Finding]:
    """Compare rows, spread over the set, with the answers of a server."""
    step = max(1, len(rows) // options.online)
    port = free_port()
    url = f"http://127.0.0.1:{port}/classify"
    [ready] = requests_of(generated(1), Target.parse(f"{url}?ood_action=flag"), None)
    environment = {"TIDEGATE_BUNDLE": str(options.bundle.resolve()), "TIDEGATE_PORT": str(port)}
    command = [sys.executable, "-m", "tidegate.service", "serve"]
    async with running(command, environment, url, ready) as started:
        found = await compare(rows[::step], shards, started.url)
    for name in (found.other_outcomes + found.other_classes)[:5]:
        print(f"differs: {name}")
    return [
        fact("images sent to POST /classify", float(found.images), ""),
        at_most("images without an answer", float(found.without_answer), 0, ""),
        at_most("other decision or error code", float(len(found.other_outcomes)), 0, ""),
        at_most("other classes", float(len(found.other_classes)), 0, ""),
        at_most(
            "largest difference of a probability", found.largest_difference, LARGEST_DIFFERENCE, ""
        ),
    ]


def _series(samples: list[Sample]) -> list[list[float]]:
    """Return [seconds, MB] of at most two hundred samples."""
    step = max(1, len(samples) // 200)
    return [[round(s.at_s - samples[0].at_s, 1), round(s.rss_mb, 1)] for s in samples[::step]]
