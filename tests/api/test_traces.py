"""Traces of a real server in a real collector's protocol."""

import re
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.otlp import Collector, attributes, collecting, of
from tests.server import PATIENCE_S, PHOTOS, Server, running

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OTHER = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Server]:
    """A server that samples nothing by itself."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        environment.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
        environment.setenv("OTEL_SERVICE_NAME", "sorter")
        environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        with running(log_share=0) as server:
            yield server


@pytest.fixture(scope="module")
def client(traced: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=traced.url, timeout=PATIENCE_S) as opened:
        yield opened


def test_a_request_of_a_sampled_trace_has_a_span_for_each_step(
    client: httpx.Client, collector: Collector
) -> None:
    answer = client.post(
        "/classify",
        content=(PHOTOS / "coffee.png").read_bytes(),
        headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=a"},
    )

    spans = collector.trace(TRACE)
    server = spans.pop("POST /classify")
    assert set(spans) == {"read", "queue", "decode", "engine", "gates"}
    assert answer.headers["traceparent"] == f"00-{TRACE}-{server.span_id.hex()}-01"
    assert answer.headers["tracestate"] == server.trace_state == "vendor=a"
    assert server.parent_span_id.hex() == CALLER
    for span in spans.values():
        assert span.parent_span_id == server.span_id
        assert server.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= server.end_time_unix_nano
    facts, body = attributes(server.attributes), answer.json()
    assert facts["http.route"] == "/classify"
    assert facts["http.response.status_code"] == 200
    assert facts["http.request.body.size"] == (PHOTOS / "coffee.png").stat().st_size
    assert facts["tidegate.model.digest"] == body["model"]["digest"]
    assert facts["tidegate.decision"] == body["decision"]
    assert facts["tidegate.p_value"] == body["ood"]["p_value"]
    assert facts["tidegate.batch_size"] == 1
    engine_ms = (spans["engine"].end_time_unix_nano - spans["engine"].start_time_unix_nano) / 1e6
    assert engine_ms == pytest.approx(body["timing_ms"]["engine"], abs=0.01)
    assert collector.resource["service.name"] == "sorter"
    assert collector.resource["deployment.environment.name"] == "test"
    [batch] = [span for span in collector.spans if span.name == "batch"]
    assert [link.span_id for link in spans["engine"].links] == [batch.span_id]
    assert [link.span_id for link in batch.links] == [spans["engine"].span_id]


def test_only_sampled_and_forced_requests_are_traced(
    client: httpx.Client, collector: Collector, traced: Server
) -> None:
    image = (PHOTOS / "coffee.png").read_bytes()
    unsampled = client.post(
        "/classify", content=image, headers={"traceparent": f"00-{OTHER}-{CALLER}-00"}
    )
    undecided = client.post("/classify", content=image)
    forced = client.post("/classify", content=b"no image", headers={"X-Force-Trace": "1"})

    trace_id = forced.headers["traceparent"].split("-")[1]
    spans = collector.trace(trace_id)
    assert set(spans) == {"POST /classify", "read"}
    facts = attributes(spans["POST /classify"].attributes)
    assert facts["tidegate.problem"] == "unsupported-image-type"
    assert unsampled.headers["traceparent"] == f"00-{OTHER}-{CALLER}-00"
    assert "traceparent" not in undecided.headers
    assert of(collector.spans, OTHER) == []
    assert traced.wait_for("request", trace_id=trace_id)["status"] == 415


def test_successes_are_left_out_of_the_log_and_counted(
    client: httpx.Client, traced: Server
) -> None:
    answers = [client.get("/models"), client.get("/nowhere")]
    [left_out] = re.findall(
        r"^tidegate_log_lines_left_out_total (\S+)", client.get("/metrics").text, re.M
    )

    assert traced.wait_for("request", request_id=answers[1].headers["x-request-id"])
    assert not [line for line in traced.lines if line.get("status") == 200]
    assert float(left_out) >= 1


def test_requests_of_other_protocols_are_traced_and_timed(
    client: httpx.Client, collector: Collector
) -> None:
    answer = client.post(
        "/v2/models/efficientnet-lite0/infer",
        content=(PHOTOS / "coffee.png").read_bytes(),
        headers={"Inference-Header-Content-Length": "0", "X-Force-Trace": "1"},
    )

    spans = collector.trace(answer.headers["traceparent"].split("-")[1])
    assert "POST /v2/models/{name}/infer" in spans
    assert {"read", "queue", "decode", "engine", "gates"} < set(spans)
    assert "engine;dur=" in answer.headers["Server-Timing"]


def test_the_images_of_a_batch_are_below_spans_of_their_own(
    client: httpx.Client, collector: Collector
) -> None:
    files = [("files", (PHOTOS / name).read_bytes()) for name in ("coffee.png", "brick.png")]
    answer = client.post("/classify/batch", files=files, headers={"X-Force-Trace": "1"})

    trace_id = answer.headers["traceparent"].split("-")[1]
    server = collector.trace(trace_id)["POST /classify/batch"]
    spans = of(collector.spans, trace_id)
    images = [span for span in spans if span.name == "image"]
    engines = [span for span in spans if span.name == "engine"]
    assert {span.parent_span_id for span in images} == {server.span_id}
    assert {span.parent_span_id for span in engines} == {span.span_id for span in images}


def test_a_sampled_request_is_an_exemplar(client: httpx.Client) -> None:
    answer = client.get("/models", headers={"X-Force-Trace": "1"})
    trace_id = answer.headers["traceparent"].split("-")[1]

    accepting = {"Accept": "application/openmetrics-text; version=1.0.0"}
    text = client.get("/metrics", headers=accepting).text
    assert re.search(rf'route="/models"}} [\d.]+ # {{trace_id="{trace_id}"}} ', text)
    assert "trace_id" not in client.get("/metrics").text


def test_the_last_traces_are_exported_in_the_drain(
    client: httpx.Client, collector: Collector, traced: Server
) -> None:
    answer = client.get("/models", headers={"X-Force-Trace": "1"})
    traced.process.send_signal(signal.SIGTERM)
    assert traced.process.wait(PATIENCE_S) == 0

    assert of(collector.spans, answer.headers["traceparent"].split("-")[1])
