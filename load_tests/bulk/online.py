"""Compare rows of a result with the answers of `POST /classify` for the same bytes."""

import asyncio
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load_tests.bulk.image_set import EMPTY
from load_tests.client.connection import Response
from load_tests.client.requests import Target, requests_of
from load_tests.client.synthetic_images import Picture
from load_tests.server.start import send_request

_IN_FLIGHT = 4
_TIMEOUT_S = 120.0
_DEADLINE_MS = 60_000.0

Row = Mapping[str, Any]


@dataclass
class Agreement:
    """How well the answers agree."""

    images: int = 0
    without_answer: int = 0
    other_outcomes: list[str] = field(default_factory=list)  # names
    other_classes: list[str] = field(default_factory=list)
    largest_difference: float = 0.0  # of probabilities and p-values

    def add(self, name: str, row: Row, response: Response | None) -> None:
        """Compare one row."""
        self.images += 1
        if response is None:
            self.without_answer += 1
            return
        said = json.loads(response.body)
        outcome = said.get("decision") or said["code"]
        if outcome == "out-of-distribution":
            outcome = "reject"
        if outcome != (row["decision"] or row["error"]):
            self.other_outcomes.append(f"{name}: {outcome}, not {row['decision'] or row['error']}")
            return
        differences = [abs(said["ood"]["p_value"] - row["p_value"])] if row["decision"] else []
        if row["top_k"]:
            ours = [(p["class_id"], p["probability"]) for p in row["top_k"]]
            theirs = [(p["class_id"], p["probability"]) for p in said["predictions"]]
            if [c for c, _ in ours] != [c for c, _ in theirs]:
                self.other_classes.append(name)
            differences += [abs(a - b) for (_, a), (_, b) in zip(ours, theirs, strict=True)]
        self.largest_difference = max([self.largest_difference, *differences])


async def compare(rows: Sequence[Row], shards: Sequence[Path], url: str) -> Agreement:
    """Send the images of rows, and compare the answers. Empty files are left out: no request."""
    found, target = Agreement(), Target.parse(f"{url}?top_k=5")
    wanted = {row["path"]: row for row in rows if EMPTY not in row["path"]}
    pictures = _pictures(wanted, shards)

    async def work() -> None:
        for path, picture in pictures:
            [request] = requests_of([picture], target, _DEADLINE_MS)
            found.add(path, wanted[path], await send_request(target, request, _TIMEOUT_S))

    await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
    return found


def _pictures(wanted: Mapping[str, Row], shards: Sequence[Path]) -> Iterator[tuple[str, Picture]]:
    for shard in shards:
        with tarfile.open(shard) as archive:
            for member in archive:
                path = f"{shard}!{member.name}"
                if path in wanted and (file := archive.extractfile(member)) is not None:
                    yield path, Picture(member.name, file.read())
