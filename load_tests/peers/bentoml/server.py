# mypy: disable-error-code="import-not-found, untyped-decorator"
# Its packages are in a separate environment.
"""Two workers with one thread each. An image is the raw body, with batching a multipart file.

"Workers" in its documentation: one per core for CPU-bound services. "Adaptive batching": a
batchable API accepts a list, so each request is a form with one file `images`.
"""

import os
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.exceptions import InvalidArgument
from bentoml.validators import ContentType
from PIL import UnidentifiedImageError

from load_tests.peers.plain_classifier import Classifier, Floats

BATCH = int(os.environ["BATCH"])
MAX_LATENCY_MS = 10_000  # the dispatcher's target; above it the answer is 503


@bentoml.service(workers=2, threads=1, traffic={"timeout": 30})
class Classify:
    """One single-threaded classifier per worker."""

    def __init__(self) -> None:
        """Load the model."""
        self._classifier = Classifier(Path(os.environ["MODEL_DIR"]))

    @bentoml.api(route="/classify")
    def classify(self, image: Annotated[Path, ContentType("image/*")], /) -> dict[str, object]:
        """Classify one raw image body."""
        return self._classifier.classify_prepared([self._prepare(image)])[0]

    @bentoml.api(
        route="/classify-batched",
        batchable=True,
        max_batch_size=max(BATCH, 2),  # 1 is not allowed
        max_latency_ms=MAX_LATENCY_MS,
    )
    def classify_batched(self, images: list[Path]) -> list[dict[str, object]]:
        """Classify a batch of files; answers in order."""
        return self._classifier.classify_prepared([self._prepare(image) for image in images])

    def _prepare(self, image: Path) -> Floats:
        try:
            return self._classifier.recipe.prepare(image.read_bytes())
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise InvalidArgument("not an image that can be decoded") from error
