from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.http_server import QuietHandler, serving
from tests.unit.bundle.signing_keys import private_key, public_key
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.bundle.signature import sign
from tidegate.service.bundle.store import open_bundle
from tidegate.service.cli import main

FILE = '[tiny]\nstable = "1"\ncanary = { version = "2", share = 0.05 }  # a try\n'
PROMOTED = '[tiny]\nstable = "2"\naliases = {previous = "1"}\n'


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three versions of one model, of which one is served and one is the canary."""
    for name in ("BUNDLE", "SERVING", "TRUSTED_KEYS", "ADMIN_TOKEN_FILE"):
        monkeypatch.delenv(f"TIDEGATE_{name}", raising=False)
    folder = tmp_path / "models"
    for version in ("1", "2", "3"):
        put_version(folder, version)
    (folder / "serving.toml").write_text(FILE)
    monkeypatch.setenv("TIDEGATE_MODELS", f"{folder}")
    return folder


def put_version(folder: Path, version: str) -> Path:
    def name_it(fields: dict[str, Any]) -> None:
        fields["version"] = version

    return put(folder / "tiny" / version, sound_files(), name_it)


def test_show_prints_what_is_served_and_what_is_there(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "tiny" / "3").rename(models / "tiny" / "4")
    (models / "other" / "7").mkdir(parents=True)
    (models / "other" / "7" / "manifest.json").write_text(
        '{"name": "other", "version": "7", "files": {}}'
    )

    assert main(["serving", "show"]) == 0

    assert capsys.readouterr().out == (
        f"{models}/serving.toml\n\n"
        "tiny (default)\n  stable     1\n  canary     2 (5 % of the requests)\n\n"
        "other (not served)\n  there is   7\n\n"
        f"ignored: the bundle in {models}/tiny/4 is tiny 3: move it to {models}/tiny/3.\n"
    )


def test_show_prints_the_plan_without_a_file(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "serving.toml").unlink()

    assert main(["serving", "show"]) == 1
    assert "[tiny]\nstable = " in capsys.readouterr().err
    for version in ("2", "3"):
        (models / "tiny" / version).rename(models / f".{version}")
    assert main(["serving", "show"]) == 0
    assert capsys.readouterr().out == (
        f"{models}/serving.toml (not there)\n\ntiny (default)\n  stable     1\n"
    )


def test_promote_prints_the_change_verifies_the_bundle_and_writes(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serving", "set", "tiny", "canary=3"]) == 0
    digest = open_bundle(models / "tiny" / "3").digest
    assert capsys.readouterr().out == (
        "tiny: canary 2 (5 % of the requests) → 3 (5 % of the requests)\n"
        f"{models}/tiny/3: valid, digest {digest}\n{models}/serving.toml: written\n"
    )

    assert main(["serving", "promote", "tiny"]) == 0

    assert capsys.readouterr().out == (
        "tiny: stable 1 → 3\ntiny: canary 3 (5 % of the requests) → none\n"
        f"tiny: previous none → 1\n{models}/serving.toml: written\n"
    )
    assert (models / "serving.toml").read_text() == PROMOTED.replace('"2"', '"3"')


def test_rollback_removes_the_canary_and_then_the_version(models: Path) -> None:
    assert main(["serving", "promote", "tiny"]) == 0
    assert (models / "serving.toml").read_text() == PROMOTED

    assert main(["serving", "rollback", "tiny"]) == 0

    assert (models / "serving.toml").read_text() == '[tiny]\nstable = "1"\n'


def test_a_shadow_becomes_the_canary_with_a_share(models: Path) -> None:
    assert main(["serving", "set", "tiny", "canary=", "shadow=3:0.2"]) == 0

    assert main(["serving", "promote", "tiny", "shadow", "--share", "0.1"]) == 0

    assert (models / "serving.toml").read_text() == (
        '[tiny]\nstable = "1"\ncanary = {version = "3", share = 0.1}\n'
    )


def test_the_order_of_assignments_does_not_matter_for_a_new_model(models: Path) -> None:
    (models / "serving.toml").unlink()

    assert main(["serving", "set", "tiny", "canary=2:0.5", "good=3", "stable=1"]) == 0

    assert (models / "serving.toml").read_text() == (
        '[tiny]\nstable = "1"\ncanary = {version = "2", share = 0.5}\naliases = {good = "3"}\n'
    )


def test_a_dry_run_prints_and_does_not_write(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serving", "promote", "tiny", "--dry-run"]) == 0

    assert capsys.readouterr().out.startswith("tiny: stable 1 → 2\n")
    assert (models / "serving.toml").read_text() == FILE
    assert sorted(item.name for item in models.iterdir()) == ["serving.toml", "tiny"]


def test_nothing_is_written_if_nothing_changes(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serving", "set", "tiny", "stable=1"]) == 0

    assert capsys.readouterr().out == "No version changes.\n"


def test_a_changed_bundle_is_not_named_unless_nobody_verifies(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = models / "tiny" / "3" / "labels.txt"
    path.write_bytes(path.read_bytes()[::-1])

    assert main(["serving", "set", "tiny", "shadow=3:1"]) == 1
    assert "labels.txt has changed since it was sealed" in capsys.readouterr().err
    assert (models / "serving.toml").read_text() == FILE
    assert main(["serving", "set", "tiny", "shadow=3:1", "--no-verify"]) == 0
    assert 'version = "3"' in (models / "serving.toml").read_text()


def test_a_bundle_must_be_signed_if_keys_are_trusted(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = private_key(tmp_path / "k.pem")
    keys = public_key(tmp_path / "trusted" / "ours.pem", key).parent
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", f"{keys}")

    assert main(["serving", "set", "tiny", "shadow=3:1"]) == 1
    assert "is not signed" in capsys.readouterr().err
    sign(open_bundle(models / "tiny" / "3"), key)
    assert main(["serving", "set", "tiny", "shadow=3:1"]) == 0


def test_options_replace_the_settings(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEGATE_MODELS")
    file = tmp_path / "other.toml"

    options = ["--models", f"{models}", "--serving", f"{file}"]
    assert main(["serving", "set", "tiny", "stable=3", *options]) == 0

    assert file.read_text() == '[tiny]\nstable = "3"\n'
    assert (models / "serving.toml").read_text() == FILE


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["set", "tiny", "canary"], "canary: write NAME=VERSION or NAME=VERSION:SHARE"),
        (["set", "tiny", "canary=3:five"], "canary=3:five: write NAME=VERSION"),
        (["set", "tiny", "canary=3:2"], "tiny.canary.share: must be at most 1, not 2.0."),
        (["set", "tiny", "stable=1:0.5"], "tiny: stable has no share"),
        (["set", "tiny", "stable="], "tiny: A model always has a stable version"),
        (["promote", "tiny", "shadow"], "tiny: There is no shadow"),
        (["promote", "tiny", "--share", "0.5"], "--share is for a shadow"),
        (["promote", "tinny"], "There is no model tinny"),
        (["promote", "tiny", "--reload", "localhost:8000"], "write http:// or https://"),
        (["promote", "tiny", "--reload", "http://"], "write http:// or https://"),
        (["promote", "tiny", "--reload", "http://a:b"], "write http:// or https://"),
    ],
)
def test_a_wrong_command_changes_nothing(
    models: Path, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serving", *words]) == 1

    assert problem in capsys.readouterr().err
    assert (models / "serving.toml").read_text() == FILE


def test_the_folder_of_the_models_must_be_given(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_MODELS", "")

    assert main(["serving", "show"]) == 1
    assert "Set TIDEGATE_MODELS or --models" in capsys.readouterr().err
    assert models.exists()


class Reloading(QuietHandler):
    """Answers a reload with `status`, and keeps what it was asked."""

    status = 200
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b'{"models": []}')


class Refusing(Reloading):
    """Refuses a reload."""

    status = 409


def test_the_service_is_told_to_reload_after_the_file_is_written(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN_FILE", f"{tmp_path / 'token'}")
    monkeypatch.setattr(Reloading, "asked", [])
    with serving(Reloading) as port:
        url = f"http://127.0.0.1:{port}/prefix/"

        assert main(["serving", "promote", "tiny", "--reload", url]) == 0

    assert Reloading.asked == [("/prefix/admin/reload", "Bearer secret")]
    assert capsys.readouterr().out.endswith('written\nreloaded: {"models": []}\n')


def test_a_reload_that_fails_has_its_own_exit_code(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Refusing) as port:
        url = f"http://127.0.0.1:{port}"
        assert main(["serving", "promote", "tiny", "--reload", url]) == 3
    assert 'not reloaded: status 409: {"models": []}' in capsys.readouterr().err
    assert (models / "serving.toml").read_text() == PROMOTED

    assert main(["serving", "rollback", "tiny", "--reload", url]) == 3
    assert "not reloaded: [Errno 111] Connection refused" in capsys.readouterr().err
