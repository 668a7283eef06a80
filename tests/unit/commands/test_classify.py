"""`tidegate classify` ends with a sentence, whatever is wrong, and at SIGTERM."""

from __future__ import annotations

import errno
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.unit.bundle.signing_keys import private_key, public_key
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.cli import main
from tidegate.service.offline import run
from tidegate.service.offline.predictor import Predictor


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that classifies no image with a small bundle, and measures no batch sizes."""
    monkeypatch.setattr(run, "Predictor", partial(Predictor, batch_size=1))
    (tmp_path / "images").mkdir()
    bundle = put(tmp_path / "tiny" / "1", sound_files())
    out = tmp_path / "r.jsonl"
    return ["classify", str(tmp_path / "images"), "--bundle", str(bundle), "--out", str(out)]


def test_a_service_of_several_models_does_not_matter(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_MODELS", "/srv/models")

    assert main(words) == 0


def test_a_bundle_that_no_trusted_key_signed_is_refused(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = private_key(tmp_path / "key.pem")
    monkeypatch.setenv(
        "TIDEGATE_TRUSTED_KEYS", str(public_key(tmp_path / "keys/a.pem", key).parent)
    )

    assert main(words) == 1
    assert "is not signed" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/results/part")

    monkeypatch.setattr("tidegate.service.offline.job.write_atomically", full)

    assert main(words) == 1
    assert "/results/part: No space left on device. What is" in capsys.readouterr().err


def test_sigterm_ends_it_as_ctrl_c_does(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run, "shared", lambda _: os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(SystemExit, match="143"):
        main(words)

    assert "with --resume goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_source_whose_name_is_no_text_is_classified_and_resumed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()

    assert main(["classify", str(odd), *words[1:]]) == 0
    assert main(["classify", str(odd), *words[1:], "--resume"]) == 0
    assert "is complete already" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_count_that_is_none_is_named(
    words: list[str], number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*words, f"--top-k={number}"])

    assert f"'{number}' is not a whole number of at least 1" in capsys.readouterr().err
