"""Many concurrent requests: every answer belongs to its image, and overload is shed early."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.server import PATIENCE_S, PHOTOS, Server, running

PATIENT = {"X-Request-Timeout-Ms": "60000"}
FRONT_ENDS = int(os.environ.get("TIDEGATE_FRONT_ENDS") or 1)  # with --front-ends


def mixed_images(count: int) -> list[bytes]:
    """Different crops of real photos in several sizes and formats."""
    photos = [
        Image.open(PHOTOS / name).convert("RGB")
        for name in sorted(("chelsea.png", "coffee.png", "camera.png", "rocket.jpg"))
    ]
    images = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = 180 + 3 * index
        box = (index, index // 2, min(index + side, photo.width), min(side, photo.height))
        file = io.BytesIO()
        photo.crop(box).save(file, ("JPEG", "PNG", "WEBP")[index % 3])
        images.append(file.getvalue())
    return images


async def post_all(
    url: str, images: list[bytes], concurrency: int, headers: dict[str, str]
) -> list[httpx.Response]:
    answers: list[httpx.Response | None] = [None] * len(images)
    todo = iter(enumerate(images))
    limits = httpx.Limits(max_connections=concurrency)

    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as client:

        async def work() -> None:
            for index, image in todo:
                answers[index] = await client.post("/classify", content=image, headers=headers)

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return [answer for answer in answers if answer is not None]


def test_of_64_concurrent_requests_every_answer_is_its_own_images(
    server: Server, client: httpx.Client
) -> None:
    images = mixed_images(40)
    one_by_one = [
        client.post("/classify", content=image, headers=PATIENT).json() for image in images
    ]

    answers = asyncio.run(post_all(server.url, images * 5, 64, PATIENT))

    assert len(answers) == 200
    for index, answer in enumerate(answers):
        expected, got = one_by_one[index % 40], answer.json()
        assert got.get("code") == expected.get("code")
        assert got["ood"]["p_value"] == pytest.approx(expected["ood"]["p_value"], abs=0.02)
        assert got["ood"]["energy"]["score"] == pytest.approx(
            expected["ood"]["energy"]["score"], abs=1e-4
        )
        for ours, theirs in zip(
            got.get("predictions", ()), expected.get("predictions", ()), strict=True
        ):
            assert ours["class_id"] == theirs["class_id"]
            assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)


def test_the_images_of_this_set_have_different_answers(client: httpx.Client) -> None:
    """Otherwise the test above could pass because all answers are the same."""
    energies = [
        client.post("/classify", content=image).json()["ood"]["energy"]["score"]
        for image in mixed_images(40)
    ]

    assert len(set(energies)) == 40


def test_overload_is_shed_with_a_realistic_retry_after(demo_bundle: Path, chelsea: bytes) -> None:
    with running(demo_bundle, slots=1, threads_per_slot=1) as server:
        answers: list[httpx.Response] = []
        statuses: Counter[int] = Counter()
        for deadline_ms in (150, 500, 2000, 8000):  # a busy machine needs a longer one
            deadline = {"X-Request-Timeout-Ms": str(deadline_ms)}
            answers = asyncio.run(post_all(server.url, [chelsea] * 300, 100, deadline))
            statuses = Counter(answer.status_code for answer in answers)
            if statuses[200]:
                break

        after = httpx.post(
            f"{server.url}/classify", content=chelsea, headers=PATIENT, timeout=PATIENCE_S
        )

    assert statuses.keys() <= {200, 503, 504}
    assert statuses[200] > 0
    assert statuses[503] > 0
    assert statuses[503] > statuses[504]  # rejected before the work, not after
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
    assert after.status_code == 200


def test_a_clients_quota_is_enforced(small_bundle: Path, chelsea: bytes) -> None:
    with running(small_bundle, client_rate=0.01, client_burst=2) as server:
        answers = [
            httpx.post(f"{server.url}/classify", content=chelsea, timeout=PATIENCE_S)
            for _ in range(3)
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "quota-exceeded"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 100


def test_bytes_in_flight_are_bounded(small_bundle: Path, chelsea: bytes) -> None:
    """While half an upload is in progress, a whole one does not fit; afterwards it does."""
    with running(small_bundle, max_inflight_bytes=300_000, max_upload_bytes=300_000) as server:
        host, port = server.url.removeprefix("http://").split(":")
        answer = httpx.Response(200)
        for _ in range(20):  # on a busy machine it may be a stalled upload, which gives way
            with ExitStack() as uploads:
                for _ in range(FRONT_ENDS):  # each has memory for one
                    slow = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
                    uploads.enter_context(slow).sendall(
                        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
                    )
                    slow.sendall(bytes(150_000))
                httpx.get(f"{server.url}/livez", timeout=PATIENCE_S)
                answer = httpx.post(f"{server.url}/classify", content=chelsea, timeout=PATIENCE_S)
            if answer.status_code != 200:
                break
        after = httpx.post(f"{server.url}/classify", content=chelsea, timeout=PATIENCE_S)

    assert after.status_code == 200

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
