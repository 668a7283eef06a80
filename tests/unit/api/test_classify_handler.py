"""What the handler does about limits and failures, with a pipeline that fails or answers."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from tidegate.service.api.classify_handler import ClassifyHandler
from tidegate.service.api.context import RequestContext
from tidegate.service.api.intake import Intake
from tidegate.service.api.limits import ClientQuota, HttpLimits, Quota
from tidegate.service.api.uploads import ByteBudget
from tidegate.service.errors import BadRequest, DeadlineMissed
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.pipeline import Upload

LIMITS = HttpLimits(1000, 1000, 30, 4, 2, 60)
BURST = 2
FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n%b\r\n'


async def classify(upload: Upload, request_id: str) -> None:
    """Fail: by a bug for one image, as the service fails for the others."""
    if upload.image == b"bug":
        raise RuntimeError(request_id)
    raise DeadlineMissed("late")


def handler() -> ClassifyHandler:
    lane = SimpleNamespace(receiving=nullcontext)
    served = SimpleNamespace(name="m", version="1", bundle=None, lane=lane)
    chosen = SimpleNamespace(served=served, classify=classify)
    service = SimpleNamespace(choose=lambda *_, **__: chosen)
    budget = ByteBudget(1000, 1000, lambda: None)
    quota = ClientQuota(lambda _: Quota(rate=0.001, burst=BURST))
    intake = Intake(cast("Service", service), LIMITS, budget, Metrics("0"), quota)
    return ClassifyHandler(intake, "reject")


def request(body: bytes, query: bytes = b"", content_type: str = "") -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    context = RequestContext("r", content_type=content_type)
    scope = {"type": "http", "query_string": query, "tidegate": context, "client": ("192.0.2.1", 1)}
    return Request(scope, receive)


def test_a_bug_with_one_image_of_a_batch_does_not_fail_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = PART % b"bug" + PART % b"image" + b"--x--"

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(handler().batch(request(body, content_type=FORM)))

    assert answer.status_code == 200
    for expected in (b'"internal-error"', b'"deadline-missed"'):
        assert expected in bytes(answer.body)
    assert [record.message for record in caplog.records] == ["unexpected error"]


def test_an_invalid_parameter_costs_no_quota() -> None:
    classifier = handler()
    for _ in range(BURST):
        with pytest.raises(BadRequest, match="top_k"):
            asyncio.run(classifier.single(request(b"image", b"top_k=0")))

    with pytest.raises(DeadlineMissed):
        asyncio.run(classifier.single(request(b"image")))
