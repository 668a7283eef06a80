# mypy: disable-error-code="attr-defined, import-not-found, untyped-decorator"
# Its packages are in a separate environment.
"""Two replicas, one core each; the image is the raw body.

"Performance tuning" in its documentation: cores reserved through ray_actor_options, and
RAY_SERVE_THROUGHPUT_OPTIMIZED for short requests. "Dynamic request batching": serve.batch.
"""

import os
from pathlib import Path

import ray
from PIL import UnidentifiedImageError
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from load_tests.peers.plain_classifier import Classifier, Floats

BATCH = int(os.environ["BATCH"])
WAIT_S = 0.002


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
class Classify:
    """One single-threaded classifier per replica."""

    def __init__(self) -> None:
        """Load the model."""
        self._classifier = Classifier(Path(os.environ["MODEL_DIR"]))

    async def __call__(self, request: Request) -> JSONResponse:
        """Classify a raw image body; 422 if Pillow cannot read it."""
        try:
            image = self._classifier.recipe.prepare(await request.body())
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            return JSONResponse({"error": f"not an image: {error}"}, 422)
        if BATCH > 1:
            return JSONResponse(await self.run(image))
        return JSONResponse(self._classifier.classify_prepared([image])[0])

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
    async def run(self, images: list[Floats]) -> list[dict[str, object]]:
        """Classify a batch; answers in order."""
        return self._classifier.classify_prepared(images)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Classify.bind(), route_prefix="/classify", blocking=True)
