"""The response body of GET /models/{name}/rollout."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from tidegate.service.api.bodies import model_ref
from tidegate.service.api.schemas import Body, ModelRef
from tidegate.service.catalog import Model
from tidegate.service.rollouts import Trial
from tidegate.service.steps import Event


class TrialBody(ModelRef):
    """A version that is tried on a share of the requests."""

    share: float


class EventBody(Body):
    """One step of a rollout."""

    at: str = Field(description="UTC")
    step: Literal["promote", "promote-shadow", "rollback"]
    by: Literal["operator", "judge"]
    version: str = Field(description="that was promoted or rolled back")
    why: list[str]
    kept: bool = Field(
        description="false if the serving file cannot be written: the step then holds until the "
        "process ends or the file changes"
    )


class RolloutBody(Body):
    """What is tried of one model, and the evidence so far, of this process alone."""

    name: str
    stable: ModelRef
    canary: TrialBody | None
    shadow: TrialBody | None
    judge: dict[str, Any] | None = Field(description="the comparison of the canary with stable")
    shadow_report: dict[str, Any] | None = Field(
        description="the comparison of the shadow with the answers, on the same images"
    )
    events: list[EventBody] = Field(description="since the process started, the newest first")


def rollout_body(model: Model, events: tuple[Event, ...]) -> RolloutBody:
    """Describe the rollout of a model."""
    rollout, now = model.rollout, time.monotonic()
    judge = None if rollout is None else rollout.judge
    shadowing = None if rollout is None else rollout.shadowing
    return RolloutBody(
        name=model.name,
        stable=model_ref(model.stable.bundle),
        canary=None if rollout is None else _trial_body(rollout.canary),
        shadow=None if rollout is None else _trial_body(rollout.shadow),
        judge=None if judge is None else judge.report(now),
        shadow_report=None if shadowing is None else shadowing.report(),
        events=[event_body(event) for event in events],
    )


def event_body(event: Event) -> EventBody:
    """Return a step as a body."""
    return EventBody.model_validate(asdict(event))


def _trial_body(trial: Trial | None) -> TrialBody | None:
    if trial is None:
        return None
    return TrialBody(**model_ref(trial.served.bundle).model_dump(), share=trial.share)
