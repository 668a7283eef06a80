# mypy: disable-error-code="import-not-found, misc, untyped-decorator"
# Its packages are in a separate environment.
"""A runtime with a custom endpoint, so that the image is the raw body and not base64 in JSON.

"Custom inference endpoints" and "Parallel inference" in its documentation; the latter has the
number of workers. Its adaptive batching merges only tensors of the standard endpoint, so it is not
used here.
"""

import os
from pathlib import Path
from typing import Annotated

from fastapi import Body
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.handlers import custom_handler
from PIL import UnidentifiedImageError

from load_tests.peers.plain_classifier import Classifier


class Classify(MLModel):
    """One single-threaded classifier in each inference worker."""

    async def load(self) -> bool:
        """Load the model."""
        self._classifier = Classifier(Path(os.environ["MODEL_DIR"]))
        return True

    @custom_handler(rest_path="/classify")
    async def classify(
        self, image: Annotated[bytes, Body(media_type="image/*")]
    ) -> dict[str, object]:
        """Classify a raw image body."""
        try:
            return self._classifier.classify(image)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise InferenceError("not an image that can be decoded") from error
