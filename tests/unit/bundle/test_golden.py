"""A bundle whose golden probes differ on the serving engine is rejected, with the probe's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.bundle.tiny_bundle import PROBES, golden_arrays, npz, put, sound_files
from tidegate.service.bundle.golden import check_golden, golden_tolerance
from tidegate.service.bundle.store import GOLDEN, Bundle, open_bundle
from tidegate.service.engines.base import EngineInfo
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.errors import BundleRefused
from tidegate.service.imaging import nvjpeg
from tidegate.service.types import Outputs, Pixels

Run = Callable[[Sequence[Pixels]], Outputs]
PROMISED = 1e-4  # relative to the largest expected magnitude, for fp32


@pytest.mark.parametrize(
    ("device", "precision", "machine", "tolerance"),
    [
        ("cpu", "fp32", "x86_64", 1e-4),
        ("cpu", "fp32", "aarch64", 1e-4),
        ("cpu", "int8", "x86_64", 1e-4),
        ("cpu", "int8", "aarch64", 5e-2),
        ("cpu", "bf16", "x86_64", 2e-2),
        ("a GPU", "int8", "aarch64", 2e-2),
    ],
)
def test_the_tolerance_follows_precision_device_and_machine(
    device: str, precision: str, machine: str, tolerance: float
) -> None:
    info = EngineInfo("an engine", "1", device, precision, 1)

    assert golden_tolerance(info, machine) == tolerance


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(put(tmp_path, sound_files()))


@pytest.fixture
def run(bundle: Bundle) -> Iterator[Run]:
    engine = OnnxEngine(bundle.model_path)
    yield lambda images: engine.run(0, images)
    engine.close()


def sealed_with(folder: Path, **changes: Any) -> Bundle:
    """Return a bundle whose expectations were changed before it was sealed."""
    files = sound_files()
    files[GOLDEN] = npz(**{**golden_arrays(files), **changes})
    return open_bundle(put(folder / "changed", files))


def expected(field: str) -> Any:
    return golden_arrays(sound_files())[field].copy()


def test_a_bundle_of_another_decoder_needs_that_decoder(
    bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvjpeg, "why_unavailable", lambda spec: "there is no GPU")
    spec = bundle.manifest.preprocess.model_copy(update={"decoder": "nvjpeg"})
    manifest = bundle.manifest.model_copy(update={"preprocess": spec})

    with pytest.raises(BundleRefused, match=r"the decoder nvjpeg.*there is no GPU"):
        check_golden(replace(bundle, manifest=manifest), run)


def test_sound_probes_pass_and_are_counted(bundle: Bundle, run: Run) -> None:
    assert check_golden(bundle, run) == len(PROBES)


@pytest.mark.parametrize("field", ["logits", "scores"])
@pytest.mark.parametrize("probe", range(len(PROBES)))
def test_outputs_that_differ_are_rejected_with_the_probe(
    tmp_path: Path, run: Run, field: str, probe: int
) -> None:
    values = expected(field)
    scale = max(1.0, float(np.abs(values[probe]).max()))
    values[probe] += 3 * PROMISED * scale

    with pytest.raises(BundleRefused, match=f"engine's {field} for {PROBES[probe]} differ by"):
        check_golden(sealed_with(tmp_path, **{field: values}), run)


def test_a_small_score_beside_a_large_one_has_its_own_tolerance(tmp_path: Path, run: Run) -> None:
    def large(images: Sequence[Pixels]) -> Outputs:
        outputs = run(images)
        return replace(outputs, scores=outputs.scores + np.array([0, 1e4], np.float32))

    values = expected("scores") + np.array([0, 1e4], np.float32)
    check_golden(sealed_with(tmp_path / "same", scores=values), large)
    values[0, 0] += 0.01

    with pytest.raises(BundleRefused, match="scores for"):
        check_golden(sealed_with(tmp_path / "other", scores=values), large)


def test_an_int8_bundle_that_differs_is_rejected_with_advice(tmp_path: Path, run: Run) -> None:
    bundle = sealed_with(tmp_path, logits=expected("logits") + 1)

    with pytest.raises(BundleRefused, match=r"sealed values\.$"):
        check_golden(bundle, run)
    in_int8 = replace(bundle, manifest=bundle.manifest.model_copy(update={"precision": "int8"}))
    with pytest.raises(BundleRefused, match="needs VNNI"):
        check_golden(in_int8, run)


@pytest.mark.parametrize("field", ["logits", "scores"])
def test_outputs_within_the_tolerance_pass(tmp_path: Path, run: Run, field: str) -> None:
    values = expected(field)
    values += 0.3 * PROMISED  # the scale is never below 1

    assert check_golden(sealed_with(tmp_path, **{field: values}), run) == len(PROBES)


def test_another_nearest_class_is_rejected(tmp_path: Path, run: Run) -> None:
    values = expected("nearest_class")
    values[1] += 1

    with pytest.raises(BundleRefused, match=f"{PROBES[1]} has another nearest class"):
        check_golden(sealed_with(tmp_path, nearest_class=values), run)


@pytest.mark.parametrize("field", ["logits", "scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_outputs_are_rejected(
    bundle: Bundle, run: Run, field: str, value: float
) -> None:
    def broken(images: Sequence[Pixels]) -> Outputs:
        outputs = run(images)
        return replace(outputs, **{field: np.full_like(getattr(outputs, field), value)})

    with pytest.raises(BundleRefused, match=f"{field} for {PROBES[0]}"):
        check_golden(bundle, broken)


@pytest.mark.parametrize("field", ["logits", "scores"])
def test_nan_among_the_expected_outputs_is_rejected(tmp_path: Path, run: Run, field: str) -> None:
    values = expected(field)
    values[0] = np.nan

    with pytest.raises(BundleRefused, match=f"{field} for {PROBES[0]}"):
        check_golden(sealed_with(tmp_path, **{field: values}), run)


@pytest.mark.parametrize("probe", range(len(PROBES)))
def test_preprocessing_that_gives_different_pixels_is_rejected(
    tmp_path: Path, run: Run, probe: int
) -> None:
    digests = expected("pixels_sha256")
    digests[probe] = "0" * 64

    with pytest.raises(BundleRefused, match=rf"preprocessing {PROBES[probe]} gives different"):
        check_golden(sealed_with(tmp_path, pixels_sha256=digests), run)


def without(field: str) -> dict[str, Any]:
    return {name: v for name, v in golden_arrays(sound_files()).items() if name != field}


MALFORMED: dict[str, bytes] = {
    "no probes": npz(**{**golden_arrays(sound_files()), "names": np.array([], "U1")}),
    "a probe that the bundle lacks": npz(
        **{**golden_arrays(sound_files()), "names": np.array([*PROBES[:2], "golden/other.png"])}
    ),
    "fewer digests than probes": npz(
        **{**golden_arrays(sound_files()), "pixels_sha256": expected("pixels_sha256")[:1]}
    ),
    "fewer outputs than probes": npz(
        **{**golden_arrays(sound_files()), "scores": expected("scores")[:1]}
    ),
    "logits of another width": npz(
        **{**golden_arrays(sound_files()), "logits": expected("logits")[:, :2]}
    ),
    "one number instead of a column": npz(
        **{**golden_arrays(sound_files()), "scores": np.float32(1.0)}
    ),
    "no logits": npz(**without("logits")),
    "no digests": npz(**without("pixels_sha256")),
    "no archive": b"not an archive",
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=list(MALFORMED))
def test_an_invalid_golden_file_is_rejected(tmp_path: Path, run: Run, content: bytes) -> None:
    bundle = open_bundle(put(tmp_path / "changed", {**sound_files(), GOLDEN: content}))

    with pytest.raises(BundleRefused, match="golden"):
        check_golden(bundle, run)


def test_a_probe_that_cannot_be_decoded_is_rejected(tmp_path: Path, run: Run) -> None:
    files = {**sound_files(), PROBES[1]: b"not an image"}
    bundle = open_bundle(put(tmp_path / "changed", files))

    with pytest.raises(BundleRefused, match=PROBES[1]):
        check_golden(bundle, run)


def test_an_engine_s_exception_on_a_probe_is_not_hidden(bundle: Bundle) -> None:
    def broken(images: Sequence[Pixels]) -> Outputs:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        check_golden(bundle, broken)
