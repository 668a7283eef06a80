# mypy: disable-error-code="import-not-found, misc"
# Its packages are in a separate environment.
"""Two workers on the CPU; the image is the raw body.

"Batching" in its documentation: max_batch_size and batch_timeout (s) on the API.
"""

import os
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Body, HTTPException
from PIL import UnidentifiedImageError

from load_tests.peers.plain_classifier import Classifier, Floats

BATCH = int(os.environ["BATCH"])
WAIT_S = 0.002


class Classify(litserve.LitAPI):
    """Decodes in `decode_request` and runs in `predict`, as its documentation recommends."""

    def setup(self, device: str) -> None:
        """Load the model in each worker."""
        self._classifier = Classifier(Path(os.environ["MODEL_DIR"]))

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/*")]) -> Floats:
        """Convert encoded bytes to the model's input."""
        try:
            return self._classifier.recipe.prepare(request)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise HTTPException(422, "not an image that can be decoded") from error

    def batch(self, inputs: list[Floats]) -> list[Floats]:
        """Return the inputs unchanged, because the classifier stacks them."""
        return inputs

    def predict(self, x: Floats | list[Floats]) -> dict[str, object] | list[dict[str, object]]:
        """Classify a batch, answers in order; without batching, a single image."""
        if isinstance(x, list):
            return self._classifier.classify_prepared(x)
        return self._classifier.classify_prepared([x])[0]

    def unbatch(self, output: list[dict[str, object]]) -> list[dict[str, object]]:
        """Return the answers unchanged, because they are already separate."""
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """Return the answer unchanged, because it can be encoded as JSON."""
        return output


if __name__ == "__main__":
    window = {"max_batch_size": BATCH, "batch_timeout": WAIT_S} if BATCH > 1 else {}
    server = litserve.LitServer(
        Classify(api_path="/classify", **window), accelerator="cpu", workers_per_device=2
    )
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
