"""Predict with aiplatform's LocalEndpoint on a running server; print what it returned.

Arguments: the server's port, an accepted image, a rejected one.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from google.cloud.aiplatform.prediction import LocalEndpoint


def main(port: str, *photos: str) -> dict[str, Any]:
    endpoint = LocalEndpoint(
        serving_container_image_uri="none",
        serving_container_predict_route="/predict",
        serving_container_health_route="/health",
    )
    endpoint.container_is_running = True  # it would start one with Docker
    endpoint.assigned_host_port = int(port)
    images = [Path(photo).read_bytes() for photo in photos]
    instances = [{"b64": base64.b64encode(image).decode()} for image in images]
    request = json.dumps({"instances": instances, "parameters": {"top_k": 2}})
    headers = {"Content-Type": "application/json"}
    raw = endpoint.predict(request=images[0], headers={"Content-Type": "image/png"})
    return {
        "health": endpoint.run_health_check().status_code,
        "predictions": endpoint.predict(request=request, headers=headers).json()["predictions"],
        "raw": raw.json(),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
