from __future__ import annotations

import http.client

import pytest

from tests.http_server import QuietHandler, serving
from tidegate.service.cli import main
from tidegate.service.commands import health


class Ready(QuietHandler):
    """Answers every GET as a service that is ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIDEGATE_HOST", "TIDEGATE_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("port", ["1", "not-a-port"])
def test_health_returns_1_and_the_reason_if_the_service_is_not_reachable(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_HOST", "0.0.0.0")  # noqa: S104 - as the container listens
    monkeypatch.setenv("TIDEGATE_PORT", port)

    assert main(["health"]) == 1

    assert "not reachable" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["", " ", "::", "localhost", "::1, 127.0.0.1"])
def test_health_connects_to_the_address_of_the_service(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server answers on IPv4 only, as on a host without IPv6."""
    monkeypatch.setattr(health, "_TIMEOUT_S", 60.0)
    with serving(Ready) as port:
        monkeypatch.setenv("TIDEGATE_HOST", host)
        monkeypatch.setenv("TIDEGATE_PORT", str(port))

        assert main(["health"]) == 0

    assert capsys.readouterr().out == "ready\n"


@pytest.mark.parametrize(
    ("variables", "probed"),
    [
        ({"TIDEGATE_PORT": " "}, [("127.0.0.1", 8000)]),
        ({"TIDEGATE_PLATFORM": "kserve"}, [("127.0.0.1", 8080)]),
        ({"TIDEGATE_PLATFORM": "sagemaker", "TIDEGATE_PORT": "9000"}, [("127.0.0.1", 9000)]),
    ],
)
def test_health_uses_the_port_that_the_service_uses(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], probed: list[tuple[str, int]]
) -> None:
    seen = []

    def probe(client: http.client.HTTPConnection) -> tuple[int, str]:
        seen.append((client.host, client.port))
        return 200, "ready"

    monkeypatch.setattr(health, "_probe", probe)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert main(["health"]) == 0
    assert seen == probed
