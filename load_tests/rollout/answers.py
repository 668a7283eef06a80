"""The answers of each version alone, and whether an answer is that of the version it names."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.client.connection import Response
from load_tests.client.requests import Target, requests_of
from load_tests.client.synthetic_images import Picture
from load_tests.errors import MeasurementFailed
from load_tests.fuzz.server import launch
from load_tests.rollout.models_folder import READY
from load_tests.server.start import running, send_request

TOLERANCE = 1e-4  # of a probability
_SCORE_TOLERANCE = 1e-3  # of the energy, relative above 1
_ANSWER_S = 30.0
_MOST_DESCRIBED = 5


@dataclass(frozen=True)
class Answer:
    """The digest in an answer, and what the version computed."""

    digest: str
    probabilities: Mapping[int, float]  # by class id; empty if the image was rejected
    energy: float

    def difference(self, other: "Answer") -> str:
        """Describe how `other` differs; empty if it does not."""
        if not abs(self.energy - other.energy) <= _SCORE_TOLERANCE * max(1.0, abs(self.energy)):
            return f"energy {other.energy:.4f} instead of {self.energy:.4f}"
        if self.probabilities.keys() != other.probabilities.keys():
            return f"classes {list(other.probabilities)} instead of {list(self.probabilities)}"
        for class_id, probability in self.probabilities.items():
            if not abs(probability - other.probabilities[class_id]) <= TOLERANCE:
                return (
                    f"class {class_id} with {other.probabilities[class_id]:.5f} instead of "
                    f"{probability:.5f}"
                )
        return ""


def parse(response: Response) -> Answer | None:
    """Return the answer in a response; None for a problem other than out-of-distribution."""
    if response.status not in (200, 422):
        return None
    body = json.loads(response.body)
    if "ood" not in body:
        return None
    return Answer(
        body["model"]["digest"],
        {one["class_id"]: one["probability"] for one in body.get("predictions", ())},
        body["ood"]["energy"]["score"],
    )


async def answers_of(bundle: Path, pictures: Sequence[Picture]) -> list[Answer]:
    """Return the answers of a server that serves only this bundle.

    Raises MeasurementFailed if an image is not answered.
    """
    start = launch(bundle)
    async with running(start.command, start.env, start.url, READY):
        requests = requests_of(pictures, start.target, None)
        return [await _answer(start.target, request) for request in requests]


async def _answer(target: Target, request: bytes) -> Answer:
    response = await send_request(target, request, _ANSWER_S)
    answer = None if response is None else parse(response)
    if answer is None:
        status = None if response is None else response.status
        raise MeasurementFailed(f"an image was answered {status} before the measurement")
    return answer


@dataclass
class Checker:
    """Compares every answer with that of the version whose digest it has."""

    numbers: Mapping[bytes, int]  # request → number of its image
    known: Mapping[str, Sequence[Answer]]  # digest → answer to each image
    seen: Counter[str] = field(default_factory=Counter)  # answers, by digest
    wrong: list[str] = field(default_factory=list)  # descriptions of the first ones
    wrong_answers: int = 0

    def note(self, request: bytes, response: Response) -> None:
        """Check one response; other problems than out-of-distribution are not counted here."""
        answer = parse(response)
        if answer is None:
            return
        self.seen[answer.digest] += 1
        known = self.known.get(answer.digest)
        if known is None:
            difference = f"unknown digest {answer.digest}"
        else:
            difference = known[self.numbers[request]].difference(answer)
        if difference:
            self.wrong_answers += 1
            if len(self.wrong) < _MOST_DESCRIBED:
                self.wrong.append(f"{answer.digest[:12]}: {difference}")

    @property
    def telling(self) -> int:
        """Number of images to which no two versions give the same answer."""
        versions = list(self.known.values())
        return sum(
            all(
                one[image].difference(other[image])
                for at, one in enumerate(versions)
                for other in versions[:at]
            )
            for image in range(len(self.numbers))
        )
