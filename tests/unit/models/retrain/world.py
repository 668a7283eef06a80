"""A fake Prometheus over HTTP that answers from a list, and notifications to send."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.http_server import QuietHandler, serving

Series = tuple[dict[str, str], float | str]
DIGEST = "d" * 12
INFO = ({"instance": "a:8000", "digest": DIGEST, "engine": "onnx"}, 1)
GATE = ({"alertname": "TidegateOodRateHigh", "alertstate": "firing"}, 1)
# What a query names → its series.
USUAL: dict[str, list[Series]] = {
    "tidegate_model_info": [INFO],
    "tidegate:.+": [
        ({"__name__": "tidegate:class_mix:psi1h", "model": "m", "version": "1"}, 0.5),
        ({"__name__": "tidegate:ood_rate:z1h", "threshold": "reject"}, "NaN"),
    ],
    "tidegate_drift_.+": [
        ({"__name__": "tidegate_drift_alarm", "monitor": "embedding"}, 1),
        ({"__name__": "tidegate_drift_z", "monitor": "embedding"}, 7.5),
        ({"__name__": "tidegate_drift_embedding_distance"}, 0.8),
    ],
    "tidegate_predictions_total": [({"class": "0"}, 90), ({"class": "1"}, 10)],
    "tidegate_reference_class_fraction": [
        ({"class": "0", "label": "left"}, 0.5),
        ({"class": "1", "label": "right"}, 0.5),
    ],
    "tidegate_reference_samples": [({}, 100)],
    "tidegate_ood_p_value_bucket": [({"le": "0.5"}, 4), ({"le": "1.0"}, 10), ({"le": "+Inf"}, 10)],
    "tidegate_ood_decisions_total": [({"decision": "accept"}, 9), ({"decision": "reject"}, 1)],
    "tidegate_ood_alpha": [({"threshold": "reject"}, 0.01)],
}


@contextmanager
def prometheus(answers: Mapping[str, list[Series]]) -> Iterator[str]:
    """Serve /api/v1/query; a query that names none of `answers` has no series."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["query"][0]
            series = next((found for name, found in answers.items() if name in query), [])
            result = [{"metric": labels, "value": [0, str(v)]} for labels, v in series]
            data = {"resultType": "vector", "result": result}
            body = json.dumps({"status": "success", "data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def payload(status: str = "firing", fingerprint: str = "ab12", **labels: str) -> dict[str, Any]:
    """One alert in one notification, as Alertmanager writes it."""
    named = {"alertname": "TidegateClassMixDrift", "model": "m", "version": "1", **labels}
    alert = {
        "status": status,
        "labels": named,
        "annotations": {"summary": "m 1 predicts other classes"},
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "2026-01-01T01:00:00Z",
        "fingerprint": fingerprint,
    }
    return {
        "version": "4",
        "groupKey": "{}:{}",
        "status": status,
        "groupLabels": {"model": named["model"], "version": named["version"]},
        "alerts": [alert],
    }
