"""Versions that are made of a bundle are valid, except those that are damaged on purpose."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from load_tests.rollout import versions
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.store import open_bundle
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.errors import BundleRefused


def probes_of(path: Path) -> int:
    bundle = open_bundle(path)
    return check_golden(bundle, partial(OnnxEngine(bundle.model_path).run, 0))


@pytest.mark.lengthy
@pytest.mark.parametrize("make", [versions.copied, versions.retrained])
def test_a_good_version_passes_its_probes(
    demo_bundle: Path, tmp_path: Path, make: Callable[[Path, Path, str], None]
) -> None:
    make(demo_bundle, tmp_path / "2", "2")

    sealed = open_bundle(tmp_path / "2")
    assert (sealed.manifest.name, sealed.manifest.version) == ("efficientnet-lite0", "2")
    assert sealed.digest == versions.digest_of(tmp_path / "2") != open_bundle(demo_bundle).digest
    assert probes_of(tmp_path / "2") > 0


def test_a_bundle_becomes_a_version_of_another_model(demo_bundle: Path, tmp_path: Path) -> None:
    versions.copied(demo_bundle, tmp_path / "2", "2", "parts")

    assert open_bundle(tmp_path / "2").manifest.name == "parts"


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tampered", "model.onnx has changed since it was sealed"),
        ("wrong-precision", "logits .* differ"),
        ("failing-probes", "logits .* differ by 0.1 "),
    ],
)
def test_a_damaged_version_is_refused(
    demo_bundle: Path, tmp_path: Path, name: str, reason: str
) -> None:
    versions.DAMAGED[name](demo_bundle, tmp_path / "2", "2")

    with pytest.raises(BundleRefused, match=reason):
        probes_of(tmp_path / "2")


def test_the_bundle_itself_stays_as_it_was(demo_bundle: Path, tmp_path: Path) -> None:
    before = open_bundle(demo_bundle).digest

    versions.tampered(demo_bundle, tmp_path / "2", "2")

    assert open_bundle(demo_bundle).digest == before
