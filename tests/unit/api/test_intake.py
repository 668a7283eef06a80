"""Several images of one request: each by itself, or all of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidegate.service.api.intake import ImageFailed, Intake
from tidegate.service.api.limits import ClientQuota, HttpLimits, Quota
from tidegate.service.api.uploads import ByteBudget
from tidegate.service.catalog import Choice
from tidegate.service.errors import BadRequest, DeadlineMissed
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.pipeline import Upload

LIMITS = HttpLimits(1000, 1000, 30, 4, 2, 60)


class FakeChoice:
    """Answers an image with its id, fails for b"late", and never answers b"slow"."""

    def __init__(self) -> None:
        self.served = SimpleNamespace(bundle=None)
        self.cancelled: list[str] = []

    async def classify(self, upload: Upload, image_id: str) -> str:
        if upload.image == b"late":
            raise DeadlineMissed("late")
        if upload.image == b"slow":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(image_id)
                raise
        return image_id


@pytest.fixture
def intake() -> Intake:
    service = SimpleNamespace(remember=lambda *_: None)
    budget = ByteBudget(1000, 1000, lambda: None)
    quota = ClientQuota(lambda _: Quota(rate=0, burst=2))
    return Intake(cast("Service", service), LIMITS, budget, Metrics("0"), quota)


def uploads(*images: bytes) -> list[Upload]:
    return [Upload(image, 0, 0, 1) for image in images]


def chosen(fake: FakeChoice) -> Choice:
    return cast("Choice", fake)


def test_a_single_image_has_the_id_of_the_request(intake: Intake) -> None:
    results: Any = asyncio.run(intake.classify_all(chosen(FakeChoice()), uploads(b"x"), "r"))

    assert results == ["r"]


def test_several_images_have_ids_of_their_own(intake: Intake) -> None:
    results: Any = asyncio.run(intake.classify_all(chosen(FakeChoice()), uploads(b"x", b"y"), "r"))

    assert results == ["r.0", "r.1"]


def test_one_failure_ends_the_others_and_names_the_image(intake: Intake) -> None:
    fake = FakeChoice()

    async def fail() -> None:
        with pytest.raises(ImageFailed) as caught:
            await intake.classify_all(chosen(fake), uploads(b"slow", b"late", b"slow"), "r")
        assert caught.value.index == 1
        assert isinstance(caught.value.error, DeadlineMissed)
        assert fake.cancelled == ["r.0", "r.2"]

    asyncio.run(fail())


def test_a_client_that_leaves_ends_all(intake: Intake) -> None:
    fake = FakeChoice()

    async def leave() -> None:
        working = asyncio.ensure_future(
            intake.classify_all(chosen(fake), uploads(b"slow", b"slow"), "r")
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert fake.cancelled == ["r.0", "r.1"]

    asyncio.run(leave())


def test_each_image_has_its_outcome(intake: Intake) -> None:
    outcomes: Any = asyncio.run(
        intake.classify_each(chosen(FakeChoice()), uploads(b"x", b"late", b""), "r")
    )

    assert outcomes[0] == "r.0"
    assert isinstance(outcomes[1], DeadlineMissed)
    assert isinstance(outcomes[2], BadRequest)
