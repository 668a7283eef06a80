"""Classify with tritonclient over gRPC; print what it returned.

Arguments: the server's address as host:port, the model, image files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

OUTPUTS = ("probabilities", "class_id", "label", "decision", "p_value")


def encoded(photos: list[bytes], shape: list[int]) -> Any:
    tensor = triton.InferInput("image", shape, "BYTES")
    tensor.set_data_from_numpy(np.array(photos, dtype=np.object_).reshape(shape))
    return tensor


def rows(result: Any) -> dict[str, Any]:
    arrays = {name: result.as_numpy(name) for name in OUTPUTS}
    return {
        name: [text.decode() for text in values.ravel()]
        if values.dtype == np.object_
        else values.tolist()
        for name, values in arrays.items()
    }


def error_of(client: Any, model: str, tensor: Any, **options: Any) -> list[str]:
    try:
        client.infer(model, [tensor], **options)
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return []


def main() -> None:
    url, model, *files = sys.argv[1:]
    photos = [Path(file).read_bytes() for file in files]
    client = triton.InferenceServerClient(url)
    one = encoded(photos[:1], [1, 1])
    pixels = triton.InferInput("pixels", [1, 224, 224, 3], "UINT8")
    pixels.set_data_from_numpy(np.zeros((1, 224, 224, 3), np.uint8))
    floats = triton.InferInput("pixels", [1, 224, 224, 3], "FP32")
    floats.set_data_from_numpy(np.zeros((1, 224, 224, 3), np.float32))
    health = health_pb2_grpc.HealthStub(grpc.insecure_channel(url))
    flag = {"ood_action": "flag"}
    wanted = [triton.InferRequestedOutput(name, class_count=3) for name in OUTPUTS]
    classified = client.infer(model, [one], outputs=wanted, request_id="mine", timeout=60_000_000)
    seen = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model, "stable"),
        "unknown_ready": client.is_model_ready("unknown"),
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(f"{model}.pixels", as_json=True),
        "index": client.get_model_repository_index(as_json=True),
        "all": rows(client.infer(model, [encoded(photos, [len(photos), 1])])),
        "flat": rows(client.infer(model, [encoded(photos[:1], [1])], parameters=flag)),
        "gzip": rows(client.infer(model, [one], compression_algorithm="gzip")),
        "classified": {name: classified.as_numpy(name).tolist() for name in OUTPUTS}
        and {
            name: [text.decode() for text in classified.as_numpy(name).ravel()] for name in OUTPUTS
        },
        "id": classified.get_response().id,
        "health": health.Check(health_pb2.HealthCheckRequest()).status,
        "errors": {
            "unknown model": error_of(client, "unknown", one),
            "unknown version": error_of(client, model, one, model_version="9"),
            "not an image": error_of(client, model, encoded([photos[0], b"text"], [2, 1])),
            "too many": error_of(client, model, encoded(photos[:1] * 17, [17, 1])),
            "late": error_of(client, model, one, timeout=1),
            "rejected": error_of(
                client, f"{model}.pixels", pixels, parameters={"ood_action": "reject"}
            ),
            "datatype": error_of(client, f"{model}.pixels", floats),
        },
        "statistics": client.get_inference_statistics(model, as_json=True),
    }
    print(json.dumps(seen))


main()
