"""From a parsed inference request to its results: the steps that REST and gRPC share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.v2.model import ModelName, model_name
from tidegate.service.api.dialects.v2.request import Infer, InputSpec
from tidegate.service.api.dialects.v2.response import is_rejected
from tidegate.service.api.intake import Intake, log_outcomes
from tidegate.service.api.problems import ProblemBody, rejection
from tidegate.service.catalog import Choice
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.types import Pixels

OodAction = Literal["reject", "flag"]
_ID_LOGGED = 128  # characters


@dataclass(frozen=True, slots=True)
class Target:
    """The version that answers a request, under the name that the request gave."""

    model: ModelName
    chosen: Choice
    spec: InputSpec

    @property
    def version(self) -> str:
        """Return the version."""
        return self.chosen.served.version


def find_target(intake: Intake, context: RequestContext, name: str, version: str) -> Target:
    """Return the version for a request. Raises NotFound, NotReady or Draining."""
    model = model_name(name, intake.service.catalog)
    chosen = intake.choose(context, model.model, version)
    manifest = chosen.served.bundle.manifest
    shape = manifest.task.height, manifest.task.width, 3
    is_bgr = manifest.preprocess.channel_order == "bgr"
    return Target(model, chosen, InputSpec(model, shape, is_bgr, intake.limits.max_files))


def uploads(
    intake: Intake, asked: Infer, received: float, client: str, context: RequestContext
) -> list[Upload]:
    """Return the images of a request for the pipeline, and count them against the quota.

    `received` is on time.monotonic(). Raises QuotaExceeded or BadRequest.
    """
    if asked.id is not None:
        context.log["id"] = asked.id[:_ID_LOGGED]
    intake.spend(client, asked.count)
    deadline = received + intake.timeout_s(context, asked.timeout_s)
    images: list[tuple[bytes, Pixels | None]] = [(image, None) for image in asked.images]
    images += [(b"", pixels) for pixels in asked.pixels]
    return [
        Upload(
            image,
            received,
            deadline,
            asked.classes,
            asked.batching_priority,
            client,
            pixels,
            features=asked.wants_features,
        )
        for image, pixels in images
    ]


def refusal(
    results: Sequence[Classification],
    asked: Infer,
    target: Target,
    ood_action: OodAction,
    context: RequestContext,
) -> ProblemBody | None:
    """Log the decisions; return the problem of a request whose only image is rejected.

    `ood_action` is the operator's, which the request may replace.
    """
    log_outcomes(context, results)
    if len(results) > 1 or not is_rejected(results[0]):
        return None
    # Clients that send pixels measure with random ones, and stop at the first error.
    usual = "flag" if target.model.takes_pixels else ood_action
    if (asked.ood_action or usual) == "flag":
        return None
    return rejection(results[0], target.chosen.served.bundle, context)
