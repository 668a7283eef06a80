"""`tidegate retrain` explains mistakes before long work; `tests/api` has the whole loop."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.models.retrain.retraining import Retraining
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.cli import main


def filed(path: Path, bundle: Bundle, **changes: Any) -> Path:
    """Write a request about a bundle."""
    manifest = bundle.manifest
    fields = {
        "format": "tidegate-retrain-request/1",
        "filed_at": "2026-01-01T00:00:00Z",
        "job": "tidegate",
        "model": manifest.name,
        "version": manifest.version,
        "digests": [bundle.short_digest],
        "group": "0" * 16,
        "fingerprints": ["ab12"],
    }
    path.write_text(json.dumps(fields | changes))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(put(tmp_path / "models/tiny/1", sound_files()))


def words(request: Path, bundle: Bundle, *more: str) -> list[str]:
    root = request.parent
    (root / "export/0").mkdir(parents=True, exist_ok=True)
    (root / "export/0/x.png").write_bytes(b"not read")
    given = {"data": root / "data", "images": root / "export", "bundle": bundle.path}
    options = [f"--{name}={value}" for name, value in given.items()]
    return ["retrain", str(request), *options, "--version=2", f"--out={root / 'out'}", *more]


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": "other"}, "is not a request for retraining"),
    "another model": ({"model": "other"}, "The request is about other 1, but"),
    "another digest": ({"digests": ["d" * 12]}, "the bundle with digest dddddddddddd, but"),
    "no images of the training": ({}, "/data does not exist"),
}


@pytest.mark.lengthy
@pytest.mark.parametrize(("changes", "message"), CHANGES.values(), ids=list(CHANGES))
def test_a_request_that_does_not_fit_is_explained(
    changes: dict[str, Any],
    message: str,
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = filed(tmp_path / "request.json", bundle, **changes)

    assert main(words(request, bundle)) == 1

    assert message in capsys.readouterr().err


def test_where_the_versions_are_must_be_given_once(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = filed(tmp_path / "request.json", bundle)

    assert main(words(request, bundle, f"--models={tmp_path / 'models'}")) == 1
    assert "--bundle is for a retraining without --models" in capsys.readouterr().err
    assert main(["retrain", str(request), "--data=x", "--images=x"]) == 1
    assert "Give --models DIR, the service's folder, or --bundle" in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_refused(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = filed(tmp_path / "request.json", bundle)
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()

    assert main(words(request, bundle, f"--checkpoint={checkpoint}")) == 1
    assert "has no model.safetensors: give the folder `model`" in capsys.readouterr().err
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    assert main(words(request, bundle, f"--checkpoint={checkpoint}")) == 1
    assert "is not the checkpoint of" in capsys.readouterr().err
    assert main(words(request, bundle, "--set=stages.full=2")) == 1
    assert "--set is for training with --checkpoint" in capsys.readouterr().err
    assert main(words(request, bundle, "--fresh")) == 1
    assert "--fresh is for training with --checkpoint" in capsys.readouterr().err


def test_the_new_version_has_the_precision_of_the_old_one(bundle: Bundle, tmp_path: Path) -> None:
    manifest = bundle.manifest.model_copy(update={"precision": "int8"})
    old = dataclasses.replace(bundle, manifest=manifest)

    task = Retraining("request.json", old, "2", tmp_path, tmp_path, tmp_path, tmp_path)

    assert task.build.precision == "int8"


def test_a_folder_that_is_not_divided_is_refused(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data/cat").mkdir(parents=True)

    assert main(words(filed(tmp_path / "request.json", bundle), bundle)) == 1

    assert "has no folders train, calibrate and test" in capsys.readouterr().err
