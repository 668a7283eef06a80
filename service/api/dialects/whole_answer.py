"""A raw image in the body of a request, and the answer of /classify for it."""

from __future__ import annotations

from typing import Any

from tidegate.service.api.bodies import classify_body, model_ref
from tidegate.service.api.context import RequestContext
from tidegate.service.api.intake import Outcome
from tidegate.service.api.problems import rejection
from tidegate.service.catalog import Choice
from tidegate.service.pipeline import Classification


def whole_answer(
    outcome: Outcome, chosen: Choice, context: RequestContext, *, flag: bool
) -> tuple[dict[str, Any], bool]:
    """Return the body for one image, and whether it is a problem.

    A rejected image is a problem, or with `flag` an answer that has the decision `reject` and no
    predictions, so that no client takes the first one.
    """
    assert isinstance(outcome, Classification)  # noqa: S101 - errors of a single call are raised
    result, bundle = outcome, chosen.served.bundle
    model = model_ref(bundle).model_dump()
    if result.verdict.decision != "reject":
        return classify_body(result, bundle, model, context.request_id), False
    if not flag:
        return rejection(result, bundle, model, context), True
    answer = classify_body(result, bundle, model, context.request_id)
    return answer | {"predictions": []}, False
