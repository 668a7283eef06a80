"""In a real overload the keys are answered by their weights."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from load_tests.client.requests import Target, requests_of
from load_tests.client.synthetic_images import Picture
from load_tests.generator.run import Load, Run, drive
from tests.server import PHOTOS, running

PHOTO = Picture("rocket.jpg", (PHOTOS / "rocket.jpg").read_bytes())
WEIGHTS = {"light": 1, "heavy": 3}
# Each alone is more than one slot can answer.
LOAD = Load(8.0, rate=150.0, deadline_ms=1500)
SETTLED_S = 2.0  # until the queue is full
ENOUGH = 100  # answers for shares that mean something


def with_key(request: bytes, name: str) -> bytes:
    head, end, body = request.partition(b"\r\n\r\n")
    return head + b"\r\nX-API-Key: " + name.encode() + end + body


@pytest.mark.slow
def test_the_shares_of_the_answers_follow_the_weights(demo_bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "".join(
            f"{name} {hashlib.sha256(name.encode()).hexdigest()} classify - - - {weight}\n"
            for name, weight in WEIGHTS.items()
        )
    )

    async def overload(target: Target) -> list[Run]:
        plain = requests_of([PHOTO], target, LOAD.deadline_ms)
        return await asyncio.gather(
            *(drive(target, [with_key(one, name) for one in plain], LOAD) for name in WEIGHTS)
        )

    with running(demo_bundle, keys=keys, slots=1, threads_per_slot=1) as server:
        light, heavy = asyncio.run(overload(Target.parse(f"{server.url}/classify")))

    answered = [
        sum(o.answered and o.at_s > run.outcomes[0].at_s + SETTLED_S for o in run.outcomes)
        for run in (light, heavy)
    ]
    if sum(answered) < ENOUGH:
        pytest.skip(f"this machine is too busy: answered {answered}")
    refused = [sum(o.status == 503 for o in run.outcomes) for run in (light, heavy)]
    assert min(refused) > 100, refused  # both are overloaded
    assert 2.0 < answered[1] / answered[0] < 4.5, answered
