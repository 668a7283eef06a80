"""A notification is filed as one request with evidence, unless the OOD rate's alert fires."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.models.retrain.world import DIGEST, GATE, INFO, USUAL, Series, payload, prometheus
from tidegate.models.retrain.alerts import Notification
from tidegate.models.retrain.app import MAX_BODY_BYTES, build
from tidegate.models.retrain.folder import RESOLVED, RequestFolder, companion
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.models.retrain.receiver import Receiver
from tidegate.models.retrain.runner import Runner, words_of
from tidegate.models.retrain.samples import Reviewed, stratified
from tidegate.service.cli import main

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)


class World:
    """A receiver, its folder, its clock and Prometheus's answers."""

    def __init__(self, folder: Path, url: str, answers: dict[str, list[Series]]) -> None:
        self.answers, self.now, self.filed = answers, NOW, list[Path]()
        self.folder = RequestFolder(folder, DAY)
        self.folder.open()
        self.review_dir: Path | None = None
        self.url = url

    def receiver(self) -> Receiver:
        return Receiver(
            self.folder,
            Prometheus(self.url),
            self.review_dir,
            10,
            self.filed.append,
            lambda: self.now,
        )

    def hears(self, **changed: str) -> str:
        outcomes = self.receiver().take(Notification.parse(json.dumps(payload(**changed)).encode()))
        return str(outcomes[0]["outcome"])

    def request(self) -> Any:
        [path] = self.folder.newest()
        return json.loads(path.read_text("utf-8"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    answers = dict(USUAL)
    with prometheus(answers) as url:
        yield World(tmp_path / "requests", url, answers)


def test_a_repeated_alert_is_filed_once_until_the_cool_down_ends(world: World) -> None:
    outcomes = [world.hears(), world.hears()]
    world.now = NOW + DAY - timedelta(seconds=1)
    outcomes.append(world.hears())
    world.now = NOW + DAY
    outcomes.append(world.hears())

    assert outcomes == ["filed", "already-filed", "already-filed", "filed"]
    assert len(world.filed) == len(world.folder.newest()) == 2


def test_another_model_or_digest_is_another_request_and_an_unknown_digest_is_not(
    world: World,
) -> None:
    outcomes = [world.hears(), world.hears(model="n")]
    world.answers["tidegate_model_info"] = []
    outcomes.append(world.hears())
    world.now += timedelta(seconds=1)
    world.answers["tidegate_model_info"] = [({**INFO[0], "digest": "e" * 12}, 1)]
    outcomes.append(world.hears())

    assert outcomes == ["filed", "filed", "already-filed", "filed"]


def test_the_alerts_digest_tells_bundles_of_one_version_apart(world: World) -> None:
    outcomes = [world.hears(digest=digest * 12) for digest in "abab"]
    world.answers["tidegate_model_info"] = []  # Prometheus is down or was restarted: it is known
    world.answers["last_over_time"] = [INFO]
    outcomes.append(world.hears(digest="a" * 12))

    assert outcomes == ["filed", "filed", "already-filed", "already-filed", "already-filed"]
    filed = [json.loads(path.read_text("utf-8"))["digests"] for path in world.filed]
    assert filed == [["a" * 12], ["b" * 12]]


@pytest.mark.parametrize(
    ("windows", "covered"),
    [(["1h"], "1h"), (["1h", "1d"], "1d"), ([""], "1d"), (["1h", ""], "1h"), (["9y"], "1d")],
)
def test_the_evidence_is_of_the_longest_window_of_the_alerts(
    world: World, windows: list[str], covered: str
) -> None:
    body = payload()
    body["alerts"] = [
        payload(fingerprint=f"{place}", window=window)["alerts"][0]
        for place, window in enumerate(windows)
    ]
    usual = dict(world.answers)
    world.answers.clear()
    counted = f'tidegate_predictions_total{{model="m",version="1"}}[{covered}]'
    world.answers.update({counted: [({"class": "0"}, 240)], **usual})
    world.receiver().take(Notification.parse(json.dumps(body).encode()))

    evidence = world.request()["evidence"]
    assert evidence["window"] == covered
    assert sum(row["observed"] for row in evidence["shifted_classes"]) == 240


@pytest.mark.parametrize(("per_hour", "covered"), [(600, "1h"), (30, "6h"), (10, "1d")])
def test_a_monitors_alarm_has_the_evidence_of_the_shortest_window_with_a_hundred_images(
    world: World, per_hour: int, covered: str
) -> None:
    usual = dict(world.answers)
    world.answers.clear()
    for window, hours in (("1h", 1), ("6h", 6)):
        images = f'sum(increase(tidegate_ood_decisions_total{{model="m",version="1"}}[{window}]))'
        world.answers[images] = [({}, per_hour * hours)]
    world.answers.update(usual)
    world.hears(alertname="TidegateDriftMonitor", monitor="embedding")

    assert world.request()["evidence"]["window"] == covered


@pytest.mark.lengthy
def test_many_at_once_file_one(world: World) -> None:
    barrier = threading.Barrier(8)

    def one(_: int) -> str:
        barrier.wait()
        return world.hears()

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, range(8)))

    assert sorted(outcomes) == ["already-filed"] * 7 + ["filed"]
    assert len(world.folder.newest()) == 1
    assert not list(world.folder.path.glob(".writing-*"))


def test_nothing_is_filed_while_the_ood_rate_is_high(world: World) -> None:
    world.answers["ALERTS"] = [GATE]
    held = world.hears()
    world.answers["ALERTS"] = []

    assert [held, world.hears()] == ["held-back", "filed"]


def test_the_evidence_is_in_the_request(world: World) -> None:
    world.hears()

    request = world.request()
    evidence = request["evidence"]
    assert request["format"] == "tidegate-retrain-request/1"
    assert request["digests"] == [DIGEST]
    assert request["ood_alert"] == "inactive"
    assert evidence["windows"]["1h"] == {
        "class_mix:psi": 0.5,
        'ood_rate:z{threshold="reject"}': None,
    }
    assert evidence["monitors"] == {
        "embedding": {"alarm": 1.0, "z": 7.5},
        "embedding_distance": {"value": 0.8},
    }
    labels = {row["class_id"]: row["label"] for row in evidence["shifted_classes"]}
    assert labels == {"0": "left", "1": "right"}
    z = {row["class_id"]: row["z"] for row in evidence["shifted_classes"]}
    # By hand: p̄ = (90 + 50)/200 = 0.7, z = 0.4 / √(0.7 · 0.3 · 0.02).
    assert z == {"0": pytest.approx(6.1721, abs=1e-4), "1": pytest.approx(-6.1721, abs=1e-4)}
    assert evidence["p_values"] == [{"le": 0.5, "count": 4.0}, {"le": 1.0, "count": 6.0}]
    assert evidence["ood"]["reject_rate"] == pytest.approx(0.1)
    assert evidence["missing"] == ["label_shift: no series"]


def test_without_prometheus_the_request_is_filed_with_the_missing_parts(world: World) -> None:
    with prometheus({}) as gone:
        pass
    world.url = gone

    assert world.hears() == "filed"
    request = world.request()
    assert request["ood_alert"] == "unknown"
    assert any("Connection refused" in line for line in request["evidence"]["missing"])
    assert request["digests"] == []


def test_what_was_filed_without_a_digest_covers_every_digest(world: World) -> None:
    there = world.url
    with prometheus({}) as gone:
        pass
    world.url = gone
    outcomes = [world.hears()]
    world.url = there
    outcomes.append(world.hears())

    assert outcomes == ["filed", "already-filed"]


def test_an_ended_alert_is_recorded_next_to_its_request(world: World) -> None:
    world.hears()

    assert world.hears(status="resolved") == "resolved"
    noted = json.loads(companion(world.filed[0], RESOLVED).read_text())
    assert noted["ended_at"] == {"ab12": "2026-01-01T01:00:00+00:00"}
    assert len(world.folder.newest()) == 1


def test_a_sample_is_spread_over_the_classes_and_the_same_for_the_same_seed() -> None:
    images = [
        Reviewed(request_id=f"r{i}", decision="review", class_id=int(i >= 95), time=NOW)
        for i in range(100)
    ]

    chosen = stratified(images, 10, "ab12")

    assert [image.class_id for image in chosen].count(1) == 5
    assert chosen == stratified(images[::-1], 10, "ab12")
    assert chosen != stratified(images, 10, "cd34")


def test_ids_come_from_the_review_folder(world: World, tmp_path: Path) -> None:
    world.review_dir = tmp_path / "review"
    day = world.review_dir / "2026-01-01"
    day.mkdir(parents=True)
    side = {"request_id": "r1", "decision": "review", "class_id": 3, "time": "2026-01-01T12:00:00Z"}
    (day / "r1.json").write_text(json.dumps({**side, "more": 1}))
    (day / "r2.json").write_text("{")
    world.hears()

    samples = world.request()["samples"]
    assert [image["request_id"] for image in samples["ids"]] == ["r1"]
    assert samples["note"] == "1 sidecars could not be read"


def test_ids_are_of_the_alerts_bundle_and_window_and_have_labels(
    world: World, tmp_path: Path
) -> None:
    world.review_dir = tmp_path / "review"
    day = world.review_dir / "2026-01-01"
    day.mkdir(parents=True)
    side = {"decision": "review", "class_id": 3, "label": "cat", "model": "m", "version": "1"}
    for name, digest, time in (
        ("ours", "a", "2026-01-01T23:30:00Z"),
        ("of-another-digest", "b", "2026-01-01T23:30:00Z"),
        ("before-the-window", "a", "2026-01-01T22:30:00Z"),
    ):
        content = {**side, "request_id": name, "digest": digest * 64, "time": time}
        (day / f"{name}.json").write_text(json.dumps(content))
    world.hears(digest="a" * 12, window="1h")

    samples = world.request()["samples"]
    assert [(image["request_id"], image["label"]) for image in samples["ids"]] == [("ours", "cat")]
    assert samples["out_of"] == 1


def test_an_alert_about_a_class_has_its_label(world: World) -> None:
    world.hears(alertname="TidegateClassVanished", **{"class": "1"})

    assert world.request()["alerts"][0]["class_label"] == "right"


@pytest.mark.parametrize(
    ("code", "outcome", "status"),
    [("pass", "done", 0), ("print('sad'); raise SystemExit(3)", "failed", 3)],
)
def test_the_command_s_result_is_written_next_to_the_request(
    world: World, code: str, outcome: str, status: int
) -> None:
    world.hears()
    runner = Runner([sys.executable, "-c", code], world.folder, 50)
    runner.start()
    runner.submit(world.filed[0])
    runner._waiting.put(None)  # after it, so that the thread ends by itself
    runner._thread.join()
    runner.close()

    [listed] = world.receiver().listing()
    assert (listed["outcome"], listed["exit_status"]) == (outcome, status)


def test_a_command_that_exceeds_its_time_limit_is_ended(world: World) -> None:
    world.hears()
    runner = Runner(
        [sys.executable, "-c", "input() if 0 else __import__('signal').pause()"], world.folder, 0.01
    )
    runner.start()
    runner.submit(world.filed[0])
    runner._waiting.put(None)
    runner._thread.join()
    runner.close()

    assert world.receiver().listing()[0]["outcome"] == "timeout"


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _answer(
    world: World, method: str, route: str, body: bytes | AsyncIterator[bytes] = b""
) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(build(world.receiver(), None))
        async with httpx.AsyncClient(transport=transport, base_url="http://retrain") as client:
            return await client.request(method, route, content=body)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (json.dumps({**payload(), "version": "3"}).encode(), 400),
        (json.dumps(payload(model="../m")).encode(), 400),
        (b"x" * (MAX_BODY_BYTES + 1), 413),
    ],
    ids=["nothing", "a list", "version 3", "a path as model", "too large"],
)
def test_a_malformed_body_is_rejected_with_a_problem(
    world: World, body: bytes, status: int
) -> None:
    answer = _answer(world, "POST", "/alerts", body)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert world.folder.newest() == []


def test_a_body_of_unannounced_size_is_cut_off_at_the_bound(world: World) -> None:
    body = _in_chunks(b"x" * (MAX_BODY_BYTES + 1))

    assert _answer(world, "POST", "/alerts", body).status_code == 413


def test_an_unusable_folder_is_503_so_that_alertmanager_repeats(world: World) -> None:
    world.folder.path.joinpath(".lock").unlink()
    world.folder.path.rmdir()

    assert _answer(world, "POST", "/alerts", json.dumps(payload()).encode()).status_code == 503
    assert _answer(world, "GET", "/livez").json() == {"status": "alive"}


def test_what_was_filed_is_listed(world: World) -> None:
    answer = _answer(world, "POST", "/alerts", json.dumps(payload()).encode()).json()
    [listed] = _answer(world, "GET", "/requests").json()["requests"]

    assert answer["outcomes"][0]["outcome"] == "filed"
    assert listed["name"] == answer["outcomes"][0]["request"]
    assert listed["outcome"] is None


MISTAKES = {
    "a URL of another kind": (["--prometheus", "ftp://x"], "use the form http://"),
    "program not found": (["--run", "no-such-program x"], "program not found"),
    "an open quote": (["--run", "sh 'x"], "No closing quotation"),
    "no cool-down": (["--cool-down-h", "0"], "at most 8760 hours"),
    "a host of no one": (["--host", "256.0.0.1"], "Cannot listen on"),
    "every address without a token": (["--host", "0.0.0.0"], "listens on loopback only"),  # noqa: S104
    "a token to be made nowhere": (["--make-token"], "requires --token-file"),
    "a folder in a file": (["--out", f"{__file__}/x"], "Not a directory"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_an_invalid_option_gives_one_line_and_exit_code_1(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidegate.service.logs.configure", lambda *_: None)

    assert main(["retrain-request", "--out", str(tmp_path / "r"), "--port", "0", *words]) == 1

    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_command_is_split_as_a_shell_would() -> None:
    assert words_of(f"{sys.executable} -c 'a b'") == [sys.executable, "-c", "a b"]
