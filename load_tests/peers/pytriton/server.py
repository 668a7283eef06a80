# mypy: disable-error-code="import-not-found"
# Its packages are in a separate environment.
"""Two instances of the model; the image is the raw body of an inference request.

"Binding configuration" in its documentation: a list of functions creates one instance for each, and
the batcher forms a batch of the waiting requests without delay. A raw body uses Triton's binary
tensor extension: `Inference-Header-Content-Length: 0` and a model with one input.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from pytriton.decorators import batch
from pytriton.exceptions import PyTritonRuntimeError
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

from load_tests.peers.plain_classifier import Classifier

BATCH = int(os.environ["BATCH"])
Bytes = NDArray[np.bytes_]


def instance(folder: Path) -> Callable[..., dict[str, Bytes]]:
    """Return an inference function with one single-threaded classifier."""
    classifier = Classifier(folder)

    def classify(image: Bytes) -> dict[str, Bytes]:  # [batch, 1]
        try:
            images = [classifier.recipe.prepare(data) for data in image[:, 0]]
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise PyTritonRuntimeError("not an image that can be decoded") from error
        answers = [json.dumps(answer).encode() for answer in classifier.classify_prepared(images)]
        return {"answer": np.array(answers, dtype=object)[:, np.newaxis]}

    decorated: Callable[..., dict[str, Bytes]] = batch(classify)
    return decorated


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(os.environ["PORT"]),
        allow_grpc=False,
        allow_metrics=False,
    )
    # perf_analyzer reads the statistics, which otherwise need a token.
    security = TritonSecurityConfig(
        restricted_endpoints=["shared-memory", "model-repository", "trace", "logging"]
    )
    with Triton(config=config, security_config=security) as triton:
        triton.bind(
            model_name="classifier",
            infer_func=[instance(Path(os.environ["MODEL_DIR"])) for _ in range(2)],
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(max_batch_size=BATCH, batcher=DynamicBatcher()),
        )
        triton.serve()
