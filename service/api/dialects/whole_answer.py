"""A raw image in the body of a request, and the answer of /classify for it."""

from __future__ import annotations

from tidegate.service.api.bodies import as_json, classify_body
from tidegate.service.api.context import RequestContext
from tidegate.service.api.intake import Outcome
from tidegate.service.api.problems import Json, rejection, respond
from tidegate.service.catalog import Choice
from tidegate.service.pipeline import Classification


def respond_whole(
    outcome: Outcome, chosen: Choice, context: RequestContext, *, flag: bool
) -> tuple[Json, str]:
    """Return the response for one image, and the decision on it.

    A rejected image is a problem, or with `flag` an answer that has the decision `reject` and no
    predictions, so that no client takes the first one.
    """
    assert isinstance(outcome, Classification)  # noqa: S101 - errors of a single call are raised
    bundle, decision = chosen.served.bundle, outcome.verdict.decision
    if decision == "reject" and not flag:
        return respond(rejection(outcome, bundle, context), context), decision
    answer = classify_body(outcome, bundle, context.request_id)
    if decision == "reject":
        answer["predictions"] = []
    return Json(as_json(answer)), decision
