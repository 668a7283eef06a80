"""A service with front ends does what one process does: answers, counts, drift and rollouts."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.unit.fronts.in_process import FakeProcess, Fronted, Run, running, until
from tests.unit.stage import CANARY, Stage, folder_of_models, play, serving
from tidegate.service.drift.state_arrays import State
from tidegate.service.lifecycle import Service
from tidegate.service.pipeline import Upload
from tidegate.service.served import Served

pytestmark = pytest.mark.lengthy

ANSWERED = (200, 422)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def run(root: Path) -> Iterator[Run]:
    """One service for all tests, in their order."""
    with running(root, rollback_s=0) as started:
        yield started


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One that keeps images for review, and gives each client few."""
    folder = tmp_path_factory.mktemp("limited")
    settings: dict[str, Any] = {
        "review_dir": folder / "review",
        "review_accepted_share": 1.0,
        "client_rate": 0.001,
        "client_burst": 5,
    }
    with running(folder_of_models(folder / "models"), **settings) as started:
        yield started


@pytest.fixture
def guarded(root: Path, tmp_path: Path) -> Iterator[tuple[Run, Path]]:
    """One that asks for keys, and the file with them."""
    keys = tmp_path / "keys"
    keys.write_text(key_line("old"))
    with running(root, keys=keys) as started:
        yield started, keys


def key_line(name: str) -> str:
    """Return the line of a client whose key is its name."""
    return f"{name} {hashlib.sha256(name.encode()).hexdigest()} classify\n"


def images(count: int, seed: int = 7) -> list[bytes]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(file, "PNG")
        made.append(file.getvalue())
    return made


def version(service: Service, name: str) -> Served:
    (served,) = [one for one in service.loaded() if one.version == name]
    return served


COUNTED = ("predictions", "prediction_confidence", "ood_decisions", "ood_p_value", "ood_score")


def counted(served: Served) -> dict[str, float]:
    """Return the values of a version's own metrics, by series."""
    served.metrics.count()
    samples = [one for metric in served.metrics.registry.collect() for one in metric.samples]
    starts = tuple(f"tidegate_{name}" for name in COUNTED)
    return {
        f"{one.name} {sorted(one.labels.items())}": one.value
        for one in samples
        if one.name.startswith(starts) and not one.name.endswith("_created")
    }


def test_the_drift_state_and_the_metrics_are_those_of_one_process(run: Run, root: Path) -> None:
    states: list[State] = []
    metrics: list[dict[str, float]] = []

    async def with_front_ends(on: Fronted) -> None:
        for image in images(40):
            assert (await on.classify(image)).status_code in ANSWERED
        monitor = version(on.service, "1").monitor
        await until(lambda: int(monitor.state()["totals"][0]) == 40)  # the note follows the answer
        states.append(monitor.state())
        metrics.append(counted(version(on.service, "1")))

    async def alone(on: Stage) -> None:
        for image in images(40):
            await on.service.choose().classify(Upload(image, 0, 1e12, 1, client="127.0.0.1"), "r")
        states.append(version(on.service, "1").monitor.state())
        metrics.append(counted(version(on.service, "1")))

    run(with_front_ends)
    play(root, alone)

    assert states[0].keys() == states[1].keys()
    for name, array in states[0].items():
        assert np.allclose(array, states[1][name], equal_nan=True), name
    assert int(states[0]["totals"][0]) == 40
    assert metrics[0] == pytest.approx(metrics[1])
    assert sum(n for name, n in metrics[0].items() if "ood_decisions" in name) == 40


def test_every_front_end_loads_the_keys_that_the_other_process_has_loaded(
    guarded: tuple[Run, Path],
) -> None:
    run, keys = guarded
    (image,) = images(1)

    async def statuses(on: Fronted, key: str) -> set[int]:
        """Two connections, which go to two front ends."""
        return {
            (await on.classify(image, Authorization=f"Bearer {key}")).status_code for _ in range(2)
        }

    async def scenario(on: Fronted) -> None:
        assert await statuses(on, "old") <= set(ANSWERED)
        keys.write_text("not a line of keys\n")
        on.fleet.load_files()
        assert await statuses(on, "old") <= set(ANSWERED)

        keys.write_text(key_line("new"))
        on.fleet.load_files()
        while not await statuses(on, "new") <= set(ANSWERED):
            pass
        while await statuses(on, "old") != {401}:
            pass

    run(scenario)


def test_what_is_counted_is_the_sum(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        await on.fleet.count_all()
        statistics = version(on.service, "1").lane.statistics
        answered, failed = statistics.answered.count, statistics.failed.count
        before = {status: requests(on, status) for status in ("200", "422", "415")}
        decoded = on.value("tidegate_stage_duration_seconds_count", stage="decode")
        for image in images(12, seed=8):
            assert (await on.classify(image)).status_code in ANSWERED
        await on.classify(b"no image")
        await on.client.get("/metrics")

        assert requests(on, "415") == before["415"] + 1
        assert requests(on, "200") + requests(on, "422") == before["200"] + before["422"] + 12
        assert on.value("tidegate_stage_duration_seconds_count", stage="decode") == decoded + 12
        assert statistics.answered.count == answered + 12
        assert statistics.failed.count == failed + 1

    run(scenario)


def requests(on: Fronted, status: str) -> float:
    return on.value("tidegate_requests_total", route="/classify", status=status)


def test_feedback_finds_the_answer(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        await on.classify(images(1)[0], x_request_id="mine")
        told = await on.client.post("/feedback", json={"request_id": "mine", "class_id": 1})
        assert told.status_code == 200

        again = await on.client.post("/feedback", json={"request_id": "other", "class_id": 1})
        assert again.status_code == 404

    run(scenario)


def test_a_batch_and_an_explanation_are_answered(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        answered = version(on.service, "1").lane.statistics.answered.count
        files = [("files", (f"{index}.png", image)) for index, image in enumerate(images(8))]
        batch = await on.client.post("/classify/batch", files=files)
        assert [one["status"] in ANSWERED for one in batch.json()["results"]] == [True] * 8

        seen = await on.client.post("/preprocess", content=images(1)[0])
        assert seen.headers["content-type"] == "image/png"
        told = await on.client.post("/explain?grid=3&class_id=0", content=images(1)[0])
        assert told.json()["runs"] == 10
        assert version(on.service, "1").lane.statistics.answered.count == answered + 8

    run(scenario)


def test_a_front_end_that_crashes_loses_only_its_connections(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        answered = []

        async def ask(image: bytes) -> None:
            try:
                answered.append((await on.classify(image)).status_code)
            except httpx.TransportError:
                answered.append(0)

        waiting = [asyncio.create_task(ask(image)) for image in images(10)]
        await asyncio.sleep(0.01)
        FakeProcess.started[0].kill()
        await asyncio.gather(*waiting)
        await until(lambda: on.fleet.up == 2)

        assert len(FakeProcess.started) == 4  # one is always started ahead
        assert set(ANSWERED) & set(answered)
        assert (await on.classify(images(1)[0])).status_code in ANSWERED
        workers = on.fleet._workers.values()
        await until(lambda: all(one.peer is not None and not one.peer.in_use for one in workers))
        lane = version(on.service, "1").lane
        assert lane.tickets == 0
        assert lane.requests == 2  # held by the two front ends
        assert on.value("tidegate_front_ends_replaced_total") == 1

    run(scenario)


def test_a_canary_gets_its_share_and_is_judged(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        serving(on.root, CANARY)
        await on.service.reload()
        versions = []
        for index, image in enumerate(images(30, seed=9)):
            answer = await on.classify(image, x_canary_key=f"k{index}")
            versions.append(answer.json()["model"]["version"])
        rollout = on.service.catalog.model("tiny").rollout
        assert rollout is not None
        assert rollout.judge is not None
        rollout.judge.decide()

        assert versions == [rollout.choose(f"k{index}").version for index in range(30)]
        assert set(versions) == {"1", "2"}
        assert sum(rollout.judge.images) == 30

    run(scenario)


def test_a_version_is_unloaded_once_no_front_end_uses_it(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        old = version(on.service, "1")
        serving(on.root, '[tiny]\nstable = "2"\n')
        await on.service.reload()
        answer = await on.classify(images(1)[0])
        assert answer.json()["model"]["version"] == "2"
        await until(lambda: old.lane.is_idle)
        reloader = on.service._reloader
        assert reloader is not None
        await reloader.tidy()
        assert [one.version for one in reloader.loaded] == ["2"]

        serving(on.root, CANARY)
        await on.service.reload()
        versions = {
            (await on.classify(image, x_canary_key=f"k{index}")).json()["model"]["version"]
            for index, image in enumerate(images(20))
        }
        assert versions == {"1", "2"}

    run(scenario)


def test_a_shadow_computes_again_what_front_ends_have_answered(run: Run) -> None:
    async def scenario(on: Fronted) -> None:
        serving(on.root, '[tiny]\nstable = "1"\nshadow = { version = "2", share = 1.0 }\n')
        await on.service.reload()
        rollout = on.service.catalog.model("tiny").rollout
        assert rollout is not None
        assert rollout.shadowing is not None
        shadowing = rollout.shadowing
        for image in images(3, seed=10):
            await on.classify(image)
        await until(lambda: shadowing.judge.images == 3)

        assert on.value("tidegate_shadow_images_total", model="tiny", outcome="compared") == 3

    run(scenario)


def test_images_for_review_are_kept(limited: Run) -> None:
    async def scenario(on: Fronted) -> None:
        image = images(1)[0]
        await on.classify(image)
        await until(lambda: on.value("tidegate_review_images_total", outcome="stored") == 1)

        kept = on.root.parent / "review"
        assert [path.read_bytes() for path in kept.rglob("*.png")] == [image]

    limited(scenario)


def test_quotas_are_one_for_all_front_ends(limited: Run) -> None:
    async def scenario(on: Fronted) -> None:
        statuses = [(await on.classify(image)).status_code for image in images(7)]

        assert statuses[:4].count(429) == 0  # one image was sent before
        assert statuses[4:] == [429] * 3

    limited(scenario)
