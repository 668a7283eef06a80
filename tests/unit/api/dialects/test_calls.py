"""Calls of platforms take the road of /classify: quota, bounds, and each image by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.calls import Call, answer, element
from tidegate.service.api.intake import Intake, Outcome
from tidegate.service.catalog import Choice
from tidegate.service.errors import (
    BadRequest,
    DeadlineMissed,
    Overloaded,
    QuotaExceeded,
    UndecodableImage,
)
from tidegate.service.pipeline import Upload
from tidegate.service.types import Priority

CHOSEN = cast("Choice", SimpleNamespace())


class FakeIntake:
    """An intake whose images fail with the errors that they are mapped to."""

    def __init__(self, errors: dict[bytes, Exception], quota: int = 100) -> None:
        self.limits = SimpleNamespace(max_files=3)
        self.uploads: list[Upload] = []
        self._errors = errors
        self._quota = quota

    @contextmanager
    def receiving(self, client: str, chosen: Choice) -> Iterator[None]:
        yield

    def spend(self, client: str, images: int) -> None:
        self._quota -= images
        if self._quota < 0:
            raise QuotaExceeded("too many", 1)

    def timeout_s(self, context: RequestContext, asked_s: float | None) -> float:
        return asked_s or 2.0

    def until_disconnect(self, request: Request) -> Any:
        return nullcontext()

    async def classify(self, chosen: Choice, upload: Upload, image_id: str) -> Any:
        self.uploads.append(upload)
        raise self._errors[upload.image]

    async def classify_each(
        self, chosen: Choice, uploads: Sequence[Upload], request_id: str
    ) -> list[Outcome]:
        self.uploads += uploads
        return [self._errors[upload.image] for upload in uploads]


def outcomes(intake: FakeIntake, call: Call) -> list[Outcome]:
    async def read(*_: object) -> Call:
        return call

    request = Request({"type": "http", "tidegate": RequestContext("r"), "client": ("192.0.2.1", 1)})
    _, found = asyncio.run(answer(cast("Intake", intake), request, CHOSEN, read))
    return found


def test_outcomes_are_in_the_order_of_the_images() -> None:
    broken, unreadable = UndecodableImage("broken"), BadRequest("no base64")
    intake = FakeIntake({b"a": broken, b"b": Overloaded("full", 1)})

    found = outcomes(intake, Call([b"a", unreadable, b"b"]))

    assert [type(one) for one in found] == [UndecodableImage, BadRequest, Overloaded]
    assert [upload.image for upload in intake.uploads] == [b"a", b"b"]


def test_one_image_is_interactive_and_several_are_bulk() -> None:
    intake = FakeIntake({b"a": UndecodableImage("broken")})

    outcomes(intake, Call([b"a"]))
    outcomes(intake, Call([b"a", b"a"]))

    priorities = [upload.priority for upload in intake.uploads]
    assert priorities == [Priority.INTERACTIVE, Priority.BULK, Priority.BULK]


def test_the_error_of_a_single_call_is_raised() -> None:
    with pytest.raises(UndecodableImage):
        outcomes(FakeIntake({b"a": UndecodableImage("broken")}), Call([b"a"], is_single=True))


def test_a_service_that_can_answer_no_image_fails_the_call() -> None:
    intake = FakeIntake({b"a": DeadlineMissed("late"), b"b": Overloaded("full", 1)})

    with pytest.raises(DeadlineMissed):
        outcomes(intake, Call([b"a", b"b"]))


def test_every_image_counts_against_the_quota_before_any_is_classified() -> None:
    intake = FakeIntake({}, quota=1)

    with pytest.raises(QuotaExceeded):
        outcomes(intake, Call([b"a", b"a"]))

    assert intake.uploads == []


@pytest.mark.parametrize("count", [0, 4])
def test_the_number_of_images_is_bounded(count: int) -> None:
    with pytest.raises(BadRequest, match=f"1 to 3 instances, not {count}"):
        outcomes(FakeIntake({}), Call([b"a"] * count))


def test_a_bug_with_an_image_is_an_element_with_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = element(ZeroDivisionError(), RequestContext("r"))

    assert found["error"]["code"] == "internal-error"
    assert caplog.messages == ["unexpected error"]
