# mypy: disable-error-code="import-not-found, misc"
# Its packages are in a separate environment.
"""Two workers of one stage: `deserialize` decodes the raw body, `forward` runs the model.

"Dynamic batching" in its documentation: max_batch_size and max_wait_time (ms) on `append_worker`.
"""

import os
from pathlib import Path

from mosec import DecodingError, Server, Worker
from PIL import UnidentifiedImageError

from load_tests.peers.plain_classifier import Classifier, Floats

BATCH = int(os.environ["BATCH"])
WAIT_MS = 2


class Classify(Worker):
    """One single-threaded classifier."""

    def __init__(self) -> None:
        """Load the model, and run each batch size once."""
        self._classifier = Classifier(Path(os.environ["MODEL_DIR"]))
        self._classifier.warm_up(BATCH)

    def deserialize(self, data: bytes) -> Floats:
        """Decode one body; mosec answers DecodingError with 400."""
        try:
            return self._classifier.recipe.prepare(data)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DecodingError("not an image that can be decoded") from error

    def forward(self, data: Floats | list[Floats]) -> dict[str, object] | list[dict[str, object]]:
        """Classify a batch, answers in order; without batching, a single image."""
        if isinstance(data, list):
            return self._classifier.classify_prepared(data)
        return self._classifier.classify_prepared([data])[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Classify, num=2, route="/classify", max_batch_size=BATCH, max_wait_time=WAIT_MS
    )
    server.run()
