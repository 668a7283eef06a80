"""Golden probes: the answers a bundle was sealed with, asked again of the engine that serves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.bundle.store import GOLDEN, Bundle, read_arrays
from tidegate.service.errors import BundleRefused, RequestError
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.types import Outputs, Pixels

Run = Callable[[Sequence[Pixels]], Outputs]
_FIELDS = ("logits", "energy", "mahalanobis", "nearest_class")
_KINDS = {
    **{"names": "U", "pixels_sha256": "U", "nearest_class": "iu"},
    **dict.fromkeys(("logits", "energy", "mahalanobis"), "f"),
}
# Another engine may add in another order: 1e-4 of the largest value, as promised for fp32.
TOLERANCE = 1e-4
# A backbone in fp16 or int8 rounds where its engine pleases: 11 bits, added up over the layers.
REDUCED_TOLERANCE = 2e-2
_PROBE_MAX_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True)
class Golden:
    """The sealed probes: image files, the digests of their pixels, and the outputs."""

    names: tuple[str, ...]
    pixels_sha256: tuple[str, ...]
    expected: dict[str, NDArray[np.generic]]


def pixels_digest(pixels: Pixels) -> str:
    """Return the sha256 of preprocessed pixels, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def check_golden(bundle: Bundle, run: Run, tolerance: float = TOLERANCE) -> int:
    """Preprocess every probe and run it, one by one; returns how many were compared.

    Raises BundleRefused, naming the probe, when pixels differ at all or outputs by more than
    `tolerance` of the largest expected magnitude.
    """
    golden = _read(bundle)
    for index, name in enumerate(golden.names):
        try:
            data = (bundle.path / name).read_bytes()
            pixels = preprocess(data, bundle.manifest.preprocess, _PROBE_MAX_PIXELS)
        except (RequestError, OSError) as error:
            raise BundleRefused(f"{bundle.path}: {name} cannot be decoded: {error}") from error
        if pixels_digest(pixels) != golden.pixels_sha256[index]:
            raise BundleRefused(
                f"{bundle.path}: preprocessing {name} here gives other pixels than when the bundle "
                f"was sealed. Is Pillow or libjpeg another version?"
            )
        _compare(bundle, golden, index, run([pixels]), tolerance)
    return len(golden.names)


def _read(bundle: Bundle) -> Golden:
    expected = read_arrays(bundle.path, GOLDEN, ("names", "pixels_sha256", *_FIELDS))
    rows = {values.shape[:1] for values in expected.values()}
    if len(rows) != 1 or rows == {()}:
        raise BundleRefused(f"{bundle.path}: {GOLDEN} has not one row per probe in every array.")
    if kinds := [n for n, values in expected.items() if values.dtype.kind not in _KINDS[n]]:
        raise BundleRefused(f"{bundle.path}: {GOLDEN}: {kinds[0]} is of another type.")
    names = tuple(str(name) for name in expected.pop("names"))
    digests = tuple(str(digest) for digest in expected.pop("pixels_sha256"))
    if not names or not set(names) <= bundle.manifest.files.keys():
        raise BundleRefused(f"{bundle.path}: {GOLDEN} names probes the bundle does not have.")
    return Golden(names, digests, expected)


def _advice_on_int8(bundle: Bundle) -> str:
    """Return what an operator may try if the outputs of an int8 bundle differ."""
    if bundle.manifest.precision != "int8":
        return ""
    return (
        " An int8 bundle made on a CPU with VNNI needs VNNI, because int8 sums end at 16 bits "
        "without it: make it anew on a CPU like this one."
    )


def _compare(
    bundle: Bundle, golden: Golden, index: int, outputs: Outputs, tolerance: float
) -> None:
    name = golden.names[index]
    for field in ("logits", "energy", "mahalanobis"):
        expected = np.asarray(golden.expected[field][index], np.float64)
        got = np.asarray(getattr(outputs, field)[0], np.float64)
        if got.shape != expected.shape:
            raise BundleRefused(
                f"{bundle.path}: the engine's {field} for {name} have shape {got.shape}, "
                f"not {expected.shape}."
            )
        difference = float(np.max(np.abs(got - expected)))
        # Written so that a NaN fails.
        if not difference <= tolerance * max(1.0, float(np.max(np.abs(expected)))):
            raise BundleRefused(
                f"{bundle.path}: the engine's {field} for {name} differ by {difference:.3g} "
                f"from those the bundle was sealed with.{_advice_on_int8(bundle)}"
            )
    # With rounding, of two classes as near as each other either may win.
    exact = tolerance <= TOLERANCE
    if exact and int(outputs.nearest_class[0]) != int(golden.expected["nearest_class"][index]):
        raise BundleRefused(f"{bundle.path}: {name} is nearest to another class than when sealed.")
