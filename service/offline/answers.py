"""What is said about one image: an answer, or the problem why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.service.errors import TidegateError
from tidegate.service.problem_codes import TABLE

if TYPE_CHECKING:  # a worker process begins without them
    from tidegate.service.deciding import Prediction, Probabilities
    from tidegate.service.types import Decision, Float32, Pixels


@dataclass(frozen=True, slots=True)
class Answer:
    """What the bundle says about one image.

    A rejected image is unlike those that the model knows: its predictions mean nothing.
    """

    decision: Decision
    predictions: tuple[Prediction, ...]  # the most probable classes, the most probable first
    p_value: float  # share of calibration images at least as unusual
    score_p_values: Mapping[str, float]
    scores: Mapping[str, float]  # raw; higher is more unusual
    nearest_class: int
    probabilities: Probabilities  # of all classes, float64 [classes]
    features: Float32  # the input of the last layer, float32 [D]
    pixels: Pixels  # what the network saw, uint8 [H, W, 3]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an image has no answer. `code` and `status` are those of `POST /classify`."""

    code: str  # "undecodable-image"
    title: str
    status: int  # of HTTP
    detail: str


def problem_of(error: TidegateError) -> Problem:
    """Return an expected error as a problem."""
    status, code, title = TABLE[type(error)]
    return Problem(code, title, status, str(error))
