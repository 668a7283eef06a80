from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.service.cli import main
from tidegate.service.settings import PREFIX, Settings


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


@pytest.mark.lengthy
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.bin"), "out.bin: No space left on"),
        (OSError("the image is truncated"), "file system: the image is truncated"),
    ],
)
def test_an_error_of_a_file_is_one_line(
    error: OSError,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(options: object) -> None:
        raise error

    monkeypatch.setattr("tidegate.models.commands.probe_images.run", run)

    assert main(["probe-images", "out"]) == 1
    assert capsys.readouterr().err.startswith(f"tidegate: {words}")


def test_a_closed_stream_is_open_in_processes_that_are_started() -> None:
    child = [sys.executable, "-c", "import os; os.fstat(2)"]
    code = (
        "import os, subprocess, sys; from tidegate.service import cli; os.close(2); "
        f"cli._open_closed_streams(); sys.exit(subprocess.run({child}).returncode)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
