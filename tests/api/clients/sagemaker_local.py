"""Invoke the service with the runtime client of sagemaker's local mode; print what it returned.

Arguments: the server's port, an accepted image, a rejected one.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from sagemaker.local.local_session import LocalSagemakerRuntimeClient


def main(port: str, *photos: str) -> dict[str, Any]:
    client = LocalSagemakerRuntimeClient({"local": {"serving_port": int(port)}})
    images = [Path(photo).read_bytes() for photo in photos]
    instances = [{"b64": base64.b64encode(image).decode()} for image in images]

    def invoke(body: bytes, content_type: str, **more: str) -> Any:
        answer = client.invoke_endpoint(body, "tidegate", ContentType=content_type, **more)
        return json.loads(answer["Body"].read())

    few = {"CustomAttributes": "top_k=2"}
    lines = b"\n".join(json.dumps(instance).encode() for instance in instances)
    answer = client.invoke_endpoint(lines, "tidegate", ContentType="application/jsonlines")
    return {
        "raw": invoke(images[0], "application/x-image"),
        "few": invoke(images[0], "image/png", **few),
        "rejected": invoke(images[1], "image/png"),
        "instances": invoke(json.dumps({"instances": instances}).encode(), "application/json"),
        "lines": [json.loads(line) for line in answer["Body"].read().splitlines()],
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
