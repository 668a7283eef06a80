"""Requests of the Open Inference Protocol v2 in its binary form, as tritonclient sends them."""

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from load_tests.client.requests import Target
from load_tests.client.synthetic_images import Picture

_JSON = json.dumps(
    {
        "inputs": [
            {
                "name": "image",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": 0},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
)


def v2_requests(pictures: Iterable[Picture], target: Target, bundle: Path) -> Sequence[bytes]:
    """Return one request per image for the bundle's model; all outputs come back binary."""
    model = json.loads((bundle / "manifest.json").read_bytes())["name"]
    return [_request(picture.data, target, model) for picture in pictures]


def _request(image: bytes, target: Target, model: str) -> bytes:
    tensor = struct.pack("<I", len(image)) + image
    head_json = _JSON.replace('"binary_data_size": 0', f'"binary_data_size": {len(tensor)}')
    head = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(head_json)}",
        f"Content-Length: {len(head_json) + len(tensor)}",
    ]
    return "\r\n".join([*head, "", head_json]).encode("ascii") + tensor
