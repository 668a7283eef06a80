"""Classify with tritonclient over HTTP, synchronously and with asyncio; print what it returned.

Arguments: the server's address as host:port, the model, image files.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

OUTPUTS = ("probabilities", "class_id", "label", "decision", "p_value")


def encoded(photos: list[bytes], shape: list[int], *, binary: bool = True) -> Any:
    tensor = triton.InferInput("image", shape, "BYTES")
    values = np.array(photos, dtype=np.object_).reshape(shape)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def rows(result: Any) -> dict[str, Any]:
    arrays = {name: result.as_numpy(name) for name in OUTPUTS}
    return {
        name: [text.decode() for text in values.ravel()]
        if values.dtype == np.object_
        else values.tolist()
        for name, values in arrays.items()
    }


def synchronous(url: str, model: str, photos: list[bytes]) -> dict[str, Any]:
    client = triton.InferenceServerClient(url)
    one = [encoded(photos[:1], [1, 1])]
    seen: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "alias_ready": client.is_model_ready(model, "stable"),
        "unknown_ready": client.is_model_ready("unknown"),
        "metadata": client.get_model_metadata(model),
        "server": client.get_server_metadata(),
        "config": client.get_model_config(model),
        "all": rows(client.infer(model, [encoded(photos, [len(photos), 1])])),
        "flat": rows(client.infer(model, [encoded(photos[:1], [1])])),
        "gzip": rows(client.infer(model, one, request_compression_algorithm="gzip")),
        "deflate": rows(client.infer(model, one, request_compression_algorithm="deflate")),
    }
    result = client.infer(
        model,
        one,
        model_version="stable",
        outputs=[
            triton.InferRequestedOutput(name, class_count=3, binary_data=False) for name in OUTPUTS
        ],
        request_id="mine",
        timeout=60_000_000,
        priority=2,
    )
    seen["classified"] = {name: result.as_numpy(name).tolist() for name in OUTPUTS}
    seen["response"] = result.get_response()
    seen["errors"] = errors(client, model, photos)
    seen["statistics"] = client.get_inference_statistics(model)
    client.close()
    return seen


def errors(client: Any, model: str, photos: list[bytes]) -> dict[str, list[str]]:
    floats = triton.InferInput("image", [1, 1], "FP32")
    floats.set_data_from_numpy(np.zeros((1, 1), np.float32))
    requests: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "unknown model": ("unknown", encoded(photos[:1], [1, 1]), {}),
        "datatype": (model, floats, {}),
        "not an image": (model, encoded([photos[0], b"text"], [2, 1]), {}),
        "too many": (model, encoded(photos[:1] * 17, [17, 1]), {}),
        "late": (model, encoded(photos[:1], [1, 1]), {"timeout": 1}),
        "output": (
            model,
            encoded(photos[:1], [1, 1]),
            {"outputs": [triton.InferRequestedOutput("logits")]},
        ),
    }
    found = {}
    for name, (model_name, tensor, options) in requests.items():
        try:
            client.infer(model_name, [tensor], **options)
        except InferenceServerException as error:
            found[name] = [str(error.status()), str(error.message())]
    return found


async def asynchronous(url: str, model: str, photos: list[bytes]) -> dict[str, Any]:
    async with triton_aio.InferenceServerClient(url) as client:
        answers = await asyncio.gather(
            *(client.infer(model, [encoded([photo], [1, 1])]) for photo in photos)
        )
        return {"each": [rows(answer) for answer in answers]}


def main() -> None:
    url, model, *files = sys.argv[1:]
    photos = [Path(file).read_bytes() for file in files]
    seen = synchronous(url, model, photos) | asyncio.run(asynchronous(url, model, photos))
    print(json.dumps(seen))


main()
