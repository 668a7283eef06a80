from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tidegate.service import cli
from tidegate.service.cli import main
from tidegate.service.settings import PREFIX, Settings


class Ready(BaseHTTPRequestHandler):
    """Answers every GET as a service that is ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def test_describe_prints_the_model_and_every_setting(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", "--bundle", str(demo_bundle)]) == 0

    output = capsys.readouterr().out
    assert "efficientnet-lite0 1" in output
    for name in Settings.model_fields:
        assert PREFIX + name.upper() in output


def test_describe_can_print_json(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--bundle", str(demo_bundle), "--json"]) == 0

    output = json.loads(capsys.readouterr().out)
    assert output["serves"]["name"] == "efficientnet-lite0"
    assert output["settings"]["port"] == 8000


def test_inspect_prints_the_manifest(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "inspect", str(demo_bundle)]) == 0

    assert json.loads(capsys.readouterr().out)["task"]["classes"] == 1000


def test_verify_runs_the_golden_probes(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "verify", str(demo_bundle)]) == 0

    assert ": valid." in capsys.readouterr().out


def test_verify_names_the_file_that_changed(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo_bundle, copy)
    (copy / "MODEL_CARD.md").write_text("a better card", "utf-8")

    assert main(["bundle", "verify", str(copy)]) == 1

    assert "MODEL_CARD.md has changed" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["bundle", "verify"], ["describe", "--bundle"]])
def test_a_missing_bundle_prints_a_message_and_no_traceback(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, str(tmp_path / "nothing")]) == 1

    assert "There is no bundle folder" in capsys.readouterr().err


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
    monkeypatch.setattr(cli, "_HEALTH_S", 60.0)
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("TIDEGATE_HOST", host)
        monkeypatch.setenv("TIDEGATE_PORT", str(server.server_port))

        assert main(["health"]) == 0

    assert capsys.readouterr().out == "ready\n"


def test_health_uses_the_default_port_if_the_setting_is_blank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probed = []

    def probe(host: str, port: int, _: float) -> tuple[int, str]:
        probed.append((host, port))
        return 200, "ready"

    monkeypatch.setattr(cli, "_probe", probe)
    monkeypatch.setenv("TIDEGATE_PORT", " ")

    assert main(["health"]) == 0
    assert probed == [("127.0.0.1", 8000)]


@pytest.mark.parametrize("arguments", [["serve", "--bundle", ""], ["describe", "--bundle", " "]])
def test_a_blank_bundle_is_not_the_working_directory(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served: list[Path] = []
    monkeypatch.setattr("tidegate.service.app.run", lambda settings: served.append(settings.bundle))
    monkeypatch.setenv("TIDEGATE_BUNDLE", str(tmp_path / "nothing"))

    main(arguments)

    assert served == [tmp_path / "nothing"] or "nothing" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--port", "high"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)

    assert end.value.code == 2
    assert "usage: tidegate" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    output = capsys.readouterr().out
    assert all(command in output for command in ("serve", "health", "describe", "bundle"))
