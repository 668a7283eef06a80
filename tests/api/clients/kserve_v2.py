"""Classify with KServe's client for the Open Inference Protocol; print what it returned.

Arguments: the server's URL, the gRPC address as host:port, the model, image files.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(model: str, photos: list[bytes]) -> Any:
    tensor = InferInput("image", [len(photos)], "BYTES")
    tensor.set_data_from_numpy(np.array(photos, dtype=np.object_))
    return InferRequest(model, [tensor])


def rows(response: Any) -> dict[str, Any]:
    return {
        output.name: output.as_numpy().tolist()
        for output in response.outputs
        if output.datatype != "BYTES"
    }


async def over_rest(url: str, model: str, photos: list[bytes]) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=100))
    seen: dict[str, Any] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, model),
    }
    response = await client.infer(url, request(model, photos), model_name=model)
    seen["model"] = [response.model_name, response.model_version]
    seen["answer"] = rows(response)
    try:
        await client.infer(url, request(model, [b"text"]), model_name=model)
    except Exception as error:  # noqa: BLE001 - its class is an HTTP library's
        seen["error"] = str(error)
    return seen


async def over_grpc(address: str, model: str, photos: list[bytes]) -> dict[str, Any]:
    client = InferenceGRPCClient(address)
    response = await client.infer(request(model, photos), timeout=100)
    seen = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready(model),
        "answer": rows(response),
    }
    await client.close()
    return seen


async def answers(url: str, address: str, model: str, photos: list[bytes]) -> None:
    seen = {
        "rest": await over_rest(url, model, photos),
        "grpc": await over_grpc(address, model, photos),
    }
    print(json.dumps(seen))


def main() -> None:
    url, address, model, *files = sys.argv[1:]
    photos = [Path(file).read_bytes() for file in files]
    asyncio.run(answers(url, address, model, photos))


main()
