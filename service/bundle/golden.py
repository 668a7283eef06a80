"""Golden probes: stored images whose sealed outputs are verified on the serving engine."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.bundle.store import GOLDEN, Bundle, read_arrays
from tidegate.service.engines.base import EngineInfo
from tidegate.service.errors import BundleRefused, EngineFailed, RequestError
from tidegate.service.imaging import nvjpeg
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.types import Outputs, Pixels

Run = Callable[[Sequence[Pixels]], Outputs]
_FIELDS = ("logits", "scores", "nearest_class")
_KINDS = {
    **{"names": "U", "pixels_sha256": "U", "nearest_class": "iu"},
    **dict.fromkeys(("logits", "scores"), "f"),
}
# fp32: engines may sum in different orders. Relative to the largest expected value.
TOLERANCE = 1e-4
# fp16 and int8 on a GPU: engines round at different points (11 bits), and errors add up over the
# layers. bf16: CPUs sum in different orders (AMX and AVX-512 differ by 7.6e-3 on the demo).
REDUCED_TOLERANCE = 2e-2
# int8 on arm64: ONNX Runtime's kernels round other values to the next step (2.1e-2 on the demo,
# which was sealed on x86-64). Sums do not saturate there.
ARM64_INT8_TOLERANCE = 5e-2
PROBE_MAX_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True)
class Golden:
    """The sealed probes: image files, the digests of their pixels, and the outputs."""

    names: tuple[str, ...]
    pixels_sha256: tuple[str, ...]
    expected: dict[str, NDArray[np.generic]]


def pixels_digest(pixels: Pixels) -> str:
    """Return the sha256 of preprocessed pixels, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def check_decoder(bundle: Bundle) -> None:
    """Raise BundleRefused if the decoder with which a bundle was sealed cannot be used here."""
    spec = bundle.manifest.preprocess
    if why := nvjpeg.why_unavailable(spec):
        raise BundleRefused(
            f"{bundle.path}: it was sealed with the decoder {spec.decoder}, whose pixels no other "
            f"decoder gives, and {why}."
        )


def golden_tolerance(engine: EngineInfo, machine: str = platform.machine()) -> float:
    """Return by how much the engine's outputs may differ from the sealed ones, on `machine`."""
    if engine.device == "cpu" and engine.precision == "int8" and machine == "aarch64":
        return ARM64_INT8_TOLERANCE
    exact = engine.precision == "fp32" or (engine.device == "cpu" and engine.precision != "bf16")
    return TOLERANCE if exact else REDUCED_TOLERANCE


def check_golden(bundle: Bundle, run: Run, tolerance: float = TOLERANCE) -> int:
    """Preprocess and run every probe, one at a time; return the number of probes.

    Raises BundleRefused, with the probe's name, if any pixel differs, or if an output differs by
    more than `tolerance` times the largest expected magnitude; each score has its own.
    """
    check_decoder(bundle)
    golden = _read(bundle)
    for index, name in enumerate(golden.names):
        try:
            data = (bundle.path / name).read_bytes()
            pixels = preprocess(data, bundle.manifest.preprocess, PROBE_MAX_PIXELS)
        except (RequestError, EngineFailed, OSError) as error:
            raise BundleRefused(f"{bundle.path}: {name} cannot be decoded: {error}") from error
        if pixels_digest(pixels) != golden.pixels_sha256[index]:
            raise BundleRefused(
                f"{bundle.path}: preprocessing {name} gives different pixels than when the bundle "
                f"was sealed. Check the versions of Pillow and libjpeg{_advice_on_decoder(bundle)}."
            )
        _compare(bundle, golden, index, run([pixels]), tolerance)
    return len(golden.names)


def _read(bundle: Bundle) -> Golden:
    expected = read_arrays(bundle.path, GOLDEN, ("names", "pixels_sha256", *_FIELDS))
    rows = {values.shape[:1] for values in expected.values()}
    if len(rows) != 1 or rows == {()}:
        raise BundleRefused(f"{bundle.path}: {GOLDEN}: every array must have one row per probe.")
    if kinds := [n for n, values in expected.items() if values.dtype.kind not in _KINDS[n]]:
        raise BundleRefused(f"{bundle.path}: {GOLDEN}: {kinds[0]} has the wrong type.")
    names = tuple(str(name) for name in expected.pop("names"))
    digests = tuple(str(digest) for digest in expected.pop("pixels_sha256"))
    if not names or not set(names) <= bundle.manifest.files.keys():
        raise BundleRefused(f"{bundle.path}: {GOLDEN} lists no probes, or some that are missing.")
    return Golden(names, digests, expected)


def _advice_on_decoder(bundle: Bundle) -> str:
    return " or of nvJPEG" * (bundle.manifest.preprocess.decoder == "nvjpeg")


def _advice_on_int8(bundle: Bundle) -> str:
    """Return what an operator may try if the outputs of an int8 bundle differ."""
    if bundle.manifest.precision != "int8":
        return ""
    advice = (
        " An int8 bundle made on a CPU with VNNI needs VNNI, because int8 sums saturate at 16 bits "
        "without it: make the bundle again on a CPU like this one."
    )
    if bundle.manifest.gate.calibrated_for_engine is not None:
        return advice
    return advice + (
        " Its gate is calibrated for ONNX Runtime, and OpenVINO rounds differently: on a CPU set "
        "TIDEGATE_ENGINE=onnx-cpu, or make the bundle with --int8-for openvino. On arm64 ONNX "
        "Runtime rounds differently than on x86-64: make the bundle on arm64, or serve fp32."
    )


def _compare(
    bundle: Bundle, golden: Golden, index: int, outputs: Outputs, tolerance: float
) -> None:
    name = golden.names[index]
    for field in ("logits", "scores"):
        expected = np.asarray(golden.expected[field][index], np.float64)
        got = np.asarray(getattr(outputs, field)[0], np.float64)
        if got.shape != expected.shape:
            raise BundleRefused(
                f"{bundle.path}: the engine's {field} for {name} have shape {got.shape}, "
                f"not {expected.shape}."
            )
        magnitude = np.abs(expected) if field == "scores" else np.max(np.abs(expected))
        differences = np.abs(got - expected)
        # `not … <=` instead of `>`, so that a NaN fails.
        if not np.all(differences <= tolerance * np.maximum(1.0, magnitude)):
            raise BundleRefused(
                f"{bundle.path}: the engine's {field} for {name} differ by "
                f"{np.max(differences):.3g} from the sealed values.{_advice_on_int8(bundle)}"
            )
    # With reduced precision, rounding may decide between two nearly equally near classes.
    exact = tolerance <= TOLERANCE
    if exact and int(outputs.nearest_class[0]) != int(golden.expected["nearest_class"][index]):
        raise BundleRefused(f"{bundle.path}: {name} has another nearest class than when sealed.")
