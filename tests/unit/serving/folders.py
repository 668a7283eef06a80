"""Folders of models whose bundles have a manifest and one small file, for tests that open none."""

from __future__ import annotations

import json
from pathlib import Path

from tidegate.service.serving.repository import Repository, list_repository

MODEL = b"model"


def add_version(root: Path, name: str, version: str, folder: str | None = None) -> Path:
    """Write a version; `folder` is its folder if it is not NAME/VERSION."""
    path = root / (folder or f"{name}/{version}")
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(MODEL)
    manifest = {"name": name, "version": version, "files": {"model.onnx": {"bytes": len(MODEL)}}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def repository(root: Path, **versions: str) -> Repository:
    """Write models with versions separated by spaces, and list them."""
    for name, there in versions.items():
        for version in there.split():
            add_version(root, name, version)
    return list_repository(root)
