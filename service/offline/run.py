"""One job: classify the images of all sources into one file of rows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from tidegate.service import memory
from tidegate.service.cpu import usable_cores
from tidegate.service.errors import SourceUnreadable
from tidegate.service.offline import sources
from tidegate.service.offline.drift.notebook import Notebook
from tidegate.service.offline.job import Job, summary_file
from tidegate.service.offline.lock import only_job
from tidegate.service.offline.predictor import Predictor
from tidegate.service.offline.read_ahead import entries, threads_for
from tidegate.service.offline.rows import Columns
from tidegate.service.offline.sources import Count, Item
from tidegate.service.offline.workers import IMAGE_TIMEOUT_S, Classified, Work, Workers
from tidegate.service.offline.writers import writer_for
from tidegate.service.settings import Settings

_EVERY_S = 1.0  # between two reports on a terminal
_RARELY_S = 30.0  # in a log
_DECISIONS = ("accept", "review", "reject")
_PART_IMAGES, _WIDE_PART_IMAGES = 10_000, 1_000  # 2,000 numbers in a row take 64 kB


@dataclass(frozen=True, slots=True)
class Options:
    """The user's choices; see `tidegate classify --help`."""

    sources: tuple[str, ...]
    bundle: Path
    out: Path
    listing: str | None = None
    column: str = "image"
    top_k: int = 5
    features: bool = False
    all_probabilities: bool = False
    rejected_too: bool = False
    workers: int | None = None
    shard: tuple[int, int] = (1, 1)
    engine: str = "onnx-cpu"
    part_images: int | None = None
    resume: bool = False
    replace: bool = False
    drift: Path | None = None  # the drift report
    image_timeout_s: float | None = None


def run(options: Options) -> int:
    """Classify everything; return how many images have no answer.

    Raises BundleRefused, EngineUnavailable, SourceUnreadable, or JobRefused. Parts that are whole
    stay for `resume`, also after KeyboardInterrupt and SystemExit. Raises OSError if the result
    cannot be written.
    """
    if not options.sources and options.listing is None:
        raise SourceUnreadable("There is nothing to classify: name a SOURCE, or give --list.")
    with only_job(options.out):
        return _run(options)


def _run(options: Options) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one process for each core
    predictor = _predictor(options)
    columns = Columns(
        tuple(predictor.bundle.gate.folds_a),
        features=options.features,
        all_probabilities=options.all_probabilities,
        rejected_too=options.rejected_too,
    )
    job = Job(
        options.out, writer_for(options.out, columns), _identity(options, predictor),
        part_images(options),
    )  # fmt: skip
    notebook = None
    if options.drift is not None:
        notebook = Notebook(predictor.bundle, options.drift, job, options.shard)
    if options.resume and job.is_finished():
        _say(f"{options.out} is complete already.")
    else:
        timeout_s = options.image_timeout_s or IMAGE_TIMEOUT_S
        work = Work(predictor, columns, options.top_k, notebook is not None, timeout_s)
        _classify(options, work, job, notebook)
    if notebook is not None:
        _say(notebook.report())
    return _failed(job.outcomes)


def _classify(options: Options, work: Work, job: Job, notebook: Notebook | None) -> None:
    """Classify what no part has yet, and finish the job."""
    job.begin(resume=options.resume, replace=options.replace)
    predictor, engine = work.predictor, work.predictor.engine
    processes = options.workers or usable_cores()
    progress = _Progress(_total(options), sum(part.images for part in job.parts))
    try:
        with Workers(work, processes) as workers:
            predictor.close()
            wanted = entries(
                job.remaining(shared(options)), predictor.max_image_bytes, threads_for(processes)
            )
            for part in _parts(workers.classified(wanted), job.part_images, progress):
                notes = None if notebook is None else notebook.part(part)
                job.write([one.row for one in part], notes)
    except (KeyboardInterrupt, SystemExit):
        done = sum(part.images for part in job.parts)
        _say(f"\n{done:,} images are written; the same command with --resume goes on.")
        raise
    summary = {"job": job.identity, **_summary(job, predictor, engine, progress.per_s)}
    if notebook is not None:
        notebook.finish()
    job.finish(summary, {f"tidegate.{key}": str(summary[key]) for key in ("model", "digest")})
    _say(_words(options.out, job.outcomes))


def _failed(outcomes: dict[str, int]) -> int:
    """Return how many images have no answer."""
    return sum(images for outcome, images in outcomes.items() if outcome not in _DECISIONS)


def _predictor(options: Options) -> Predictor:
    """Return a predictor with the bounds that the environment sets for the service."""
    settings = Settings.read({"engine": options.engine})
    return Predictor(
        options.bundle,
        engine=options.engine,
        max_image_pixels=settings.max_image_pixels,
        max_image_bytes=settings.max_upload_bytes,
        warm_up_cache=settings.engine_config().warm_up_cache,
        trusted_keys=settings.trusted_keys,
    )


def _identity(options: Options, predictor: Predictor) -> dict[str, Any]:
    return {
        "bundle": predictor.bundle.digest,
        "sources": list(options.sources),
        "list": options.listing,
        "column": options.column,
        "shard": list(options.shard),
        "top-k": options.top_k,
        "features": options.features,
        "all-probabilities": options.all_probabilities,
        "ood-action": "flag" if options.rejected_too else "reject",
        "engine": options.engine,
        "drift": options.drift is not None,
        "TIDEGATE_MAX_IMAGE_PIXELS": predictor.max_image_pixels,
        "TIDEGATE_MAX_UPLOAD_BYTES": predictor.max_image_bytes,
    }


def part_images(options: Options) -> int:
    """Return how many images are written together, and are in memory until then."""
    is_wide = options.features or options.all_probabilities
    return options.part_images or (_WIDE_PART_IMAGES if is_wide else _PART_IMAGES)


def shared(options: Options) -> Iterator[Item]:
    """Yield the images of this shard: every n-th one."""
    found = sources.items(options.sources, options.listing, options.column)
    first, parts = options.shard
    return islice(found, first - 1, None, parts)


def _total(options: Options) -> Count | None:
    known = sources.count(options.sources, options.listing)
    first, parts = options.shard
    if known is None:
        return None
    return Count(len(range(first - 1, known.images, parts)), known.is_exact)


def _parts(
    classified: Iterable[Classified], images: int, progress: _Progress
) -> Iterator[list[Classified]]:
    part: list[Classified] = []
    for one in classified:
        part.append(one)
        progress.step()
        if len(part) == images:
            yield part
            part = []
            memory.give_back_free_memory()
    if part:
        yield part


class _Progress:
    """Reports on stderr: on a terminal one line that changes, in a log a line now and then."""

    def __init__(self, total: Count | None, before: int) -> None:
        self._total = total
        self._before = before
        self.done = 0
        self._first = self._last = self._said = time.monotonic()
        self._terminal = sys.stderr.isatty()

    @property
    def per_s(self) -> float:
        """Return the images a second since the first one was done: without the start."""
        passed = self._last - self._first
        return (self.done - 1) / passed if passed > 0 else 0.0

    def step(self) -> None:
        """Count an image."""
        self.done += 1
        now = self._last = time.monotonic()
        if self.done == 1:
            self._first = now
        if now - self._said >= (_EVERY_S if self._terminal else _RARELY_S):
            self._said = now
            _say(self._line(), end="\r" if self._terminal else "\n")

    def _line(self) -> str:
        images, rate = self._before + self.done, self.per_s
        if self._total is None or not rate:
            return f"{images:,} images, {rate:,.0f} a second   "
        total, about = self._total.images, "" if self._total.is_exact else "about "
        left = max(0, total - images) / rate
        return f"{images:,} of {about}{total:,} images, {rate:,.0f} a second, {_time(left)} left   "


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _summary(job: Job, predictor: Predictor, engine: str, per_s: float) -> dict[str, Any]:
    manifest = predictor.bundle.manifest
    return {
        "images": sum(job.outcomes.values()),
        "outcomes": dict(sorted(job.outcomes.items())),
        "model": f"{manifest.name} {manifest.version}",
        "digest": predictor.bundle.digest,
        "preprocess_digest": manifest.preprocess.digest,
        "engine": engine,
        "tidegate": version("tidegate"),
        "images_per_second": round(per_s, 2),  # of the last run, without its start
    }


def _words(out: Path, outcomes: dict[str, int]) -> str:
    total = sum(outcomes.values())
    parts = [f"{outcomes[name]:,} {name}" for name in _DECISIONS if name in outcomes]
    failed = {name: n for name, n in sorted(outcomes.items()) if name not in _DECISIONS}
    parts += [f"{n:,} {name}" for name, n in failed.items()]
    return f"{out}: {total:,} images ({', '.join(parts) or 'none'}); {summary_file(out).name} too."


def _say(text: str, end: str = "\n") -> None:
    print(text, file=sys.stderr, end=end, flush=True)
