"""Print what is installed in the arm64 system: what the images have, and what its tests need."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("cpu", "grpc", "models", "remote", "oci", "otel", "signing")  # as in docker/Dockerfile
TESTS = ("httpx", "hypothesis", "pytest", "pytest-timeout", "setuptools")


def main() -> None:
    """Print a line for each requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = list(project["dependencies"])
    for extra in EXTRAS:
        needed += project["optional-dependencies"][extra]
    sys.stdout.write("\n".join([*needed, *TESTS, ""]))


if __name__ == "__main__":
    main()
