"""Two uvicorn workers; the blocking work runs in a thread, as FastAPI's documentation advises.

"Concurrency and async / await": blocking work belongs in a thread pool, not in `async def`.
"Server Workers": one worker process per core. A worker's pool has one thread instead of 40, so that
the thread budget equals that of every other server and there is no contention for the GIL.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import Body, FastAPI, HTTPException
from PIL import UnidentifiedImageError

from load_tests.peers.plain_classifier import Classifier

classifier = Classifier(Path(os.environ["MODEL_DIR"]))
classifier.warm_up(1)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Limit the worker's thread pool to one thread."""
    to_thread.current_default_thread_limiter().total_tokens = 1
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
def classify(image: Annotated[bytes, Body(media_type="image/*")]) -> dict[str, object]:
    """Classify a raw image body; 422 if Pillow cannot read it."""
    try:
        return classifier.classify(image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise HTTPException(422, "not an image that can be decoded") from error
