"""The layers of the packages."""

from __future__ import annotations

import tomllib
from pathlib import Path

from docs.tables.markdown import table

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def layers() -> str:
    """Return a row for each package whose layers are enforced: from top to bottom."""
    config = tomllib.loads(PROJECT.read_text("utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    rows = [
        (f"`{contract['containers'][0]}`", " → ".join(f"`{layer}`" for layer in contract["layers"]))
        for contract in contracts
        if contract["type"] == "layers"
    ]
    return table(("package", "layers, from top to bottom"), rows)
