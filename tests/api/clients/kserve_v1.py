"""Classify with kserve's client of protocol v1; print what it returned.

Arguments: the server's URL, the model, an accepted image, a rejected one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
from kserve import InferenceRESTClient, RESTConfig


async def main(url: str, model: str, texts: list[str]) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    answer = await client.infer(
        url,
        {"instances": [{"image": {"b64": text}} for text in texts]},
        model_name=model,
    )
    refusal = ""
    try:
        await client.infer(url, {"instances": []}, model_name=model)
    except httpx.HTTPStatusError as error:
        refusal = str(error)
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_model_ready(url, model),
        "predictions": answer["predictions"],
        "refusal": refusal,
    }


if __name__ == "__main__":
    server, name, *photos = sys.argv[1:]
    given = [base64.b64encode(Path(photo).read_bytes()).decode() for photo in photos]
    print(json.dumps(asyncio.run(main(server, name, given))))
