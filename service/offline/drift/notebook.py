"""The notes of one job: with its parts, then next to its result, and the report made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tidegate.service.bundle.store import Bundle
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.files import write_atomically
from tidegate.service.offline.drift.page import check_name, write_report
from tidegate.service.offline.drift.records import Collector, joined, read, written
from tidegate.service.offline.job import Job, notes_file
from tidegate.service.offline.workers import Classified


class Notebook:
    """Keeps the notes of a job, or of its shard."""

    def __init__(self, bundle: Bundle, path: Path, job: Job, shard: tuple[int, int]) -> None:
        """`path` is that of the report. Raises JobRefused if it cannot have that name."""
        check_name(path)
        self._bundle, self._path, self._job, self._shard = bundle, path, job, shard
        self._collector = Collector(drift_reference(bundle))

    def part(self, images: Sequence[Classified]) -> bytes:
        """Return the notes of a part as a file."""
        for row, noted in images:
            if noted is not None:
                self._collector.add(row["index"], row["path"], noted)
        return self._collector.part()

    def finish(self) -> None:
        """Write the notes of all parts next to the result."""
        parts = [read(path) for path in self._job.notes_of_parts()]
        facts = {
            "digest": self._bundle.digest,
            "shard": list(self._shard),
            "outcomes": self._job.outcomes,
        }
        if not parts:
            write_atomically(self._notes, self._collector.part())
            parts = [read(self._notes)]
        write_atomically(self._notes, written(joined(parts, facts)))

    def report(self) -> str:
        """Write the report of this job, and return its result in one sentence."""
        return f"{self._path}: {write_report(self._path, self._bundle, [read(self._notes)])}"

    @property
    def _notes(self) -> Path:
        return notes_file(self._job.out)
