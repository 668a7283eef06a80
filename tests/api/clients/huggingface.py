"""Classify with huggingface_hub's InferenceClient; print what it returned.

Arguments: the server's URL, an accepted image, a rejected one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError


def refused(client: Any, photo: str) -> Any:
    try:
        client.image_classification(photo)
    except HfHubHTTPError as error:
        return error
    raise SystemExit("not refused")


def main(url: str, accepted: str, rejected: str) -> dict[str, Any]:
    client = InferenceClient(model=url)
    raw = client.image_classification(Path(accepted).read_bytes())
    few = client.image_classification(accepted, top_k=2, function_to_apply="softmax")
    refusal = refused(client, rejected)
    return {
        "raw": [(one.label, one.score) for one in raw],
        "few": [(one.label, one.score) for one in few],
        "status": refusal.response.status_code,
        "text": str(refusal),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
