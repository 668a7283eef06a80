"""Tracing starts only if the standard variables ask for it."""

import logging
import sys

import pytest

from tidegate.service.tracing.start import start_tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
TRACES = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "True"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_starts_unasked(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    assert start_tracing(environment, "1", lambda *_: None) is None
    assert caplog.records == []


@pytest.mark.parametrize("environment", [ENDPOINT, TRACES])
def test_an_endpoint_starts_it(environment: dict[str, str]) -> None:
    tracing = start_tracing(environment, "1", lambda *_: None)

    assert tracing is not None
    assert tracing.close(30)


def test_what_cannot_be_done_is_said_and_the_service_starts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start_tracing({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "1", print) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert start_tracing(ENDPOINT, "1", print) is None

    assert "'grpc' is not supported, use http/protobuf" in caplog.messages[0]
    assert "install tidegate[otel]" in caplog.messages[1]
