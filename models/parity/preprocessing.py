"""Prove that our preprocessing gives the same pixels and floats as the source library's.

Both run over the probe set. A difference is an error with figures that help to locate it, unless
the user allows differences: then it is measured and recorded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import SourceTransform
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.probes.probe_set import probe_set, probes_digest
from tidegate.models.progress import follow
from tidegate.service.bundle.evidence import Parity
from tidegate.service.errors import RequestError
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Float32, Pixels

FLOAT_TOLERANCE = 1e-6  # absolute, of the network's input
_MAX_PIXELS = 25_000_000  # the service's default
_MOST_REFUSED_BY_LIBRARY = 0.1  # of the probes; above it, its transform is broken
_GOLDEN_SIDES = (150, 113)
_GOLDEN_PROBES = (
    "exif-6.jpeg",
    "exif-5.webp",
    "jpeg-cmyk-33x21.jpg",
    "jpeg-progressive-420-33x21.jpg",
    "mode-p-transparent-61x47.png",
    "mode-la-61x47.png",
    "grey-16-whole-61x47.png",
    "gif-animated.gif",
    "noise-31x33.png",
    "noise-9x1.png",
)


def normalised(pixels: Pixels, spec: PreprocessSpec) -> Float32:
    """Return `(pixel · scale − mean) / std` of [H, W, 3] as float32 [3, H, W].

    Bit for bit as in the sealed graph: one product, one sum, constants computed in float64.
    """
    std = np.asarray(spec.std, np.float64).reshape(3, 1, 1)
    mean = np.asarray(spec.mean, np.float64).reshape(3, 1, 1)
    gain, bias = (spec.scale / std).astype(np.float32), (-mean / std).astype(np.float32)
    planes = pixels.transpose(2, 0, 1).astype(np.float32)
    return np.asarray(planes * gain + bias)


def prove(
    spec: PreprocessSpec,
    transform: SourceTransform,
    *,
    probes: Mapping[str, bytes] | None = None,
    allow_difference: bool = False,
) -> Parity:
    """Compare `spec` with the library's own `transform` on `probes` (name → file; the probe set).

    Floats are compared for all 256 levels of each channel. Raises BuildRefused if anything differs
    and `allow_difference` is false, or if nothing can be compared.
    """
    files = probe_set() if probes is None else probes
    found = _Found()
    for name, file in follow(files.items(), "Proving the preprocessing"):
        _compare(name, file, spec, transform, found)
    _check_library(found, len(files), transform.library)
    if not found.differing:
        for level in np.flatnonzero(~found.levels.all(axis=0)):
            _compare(f"level {level}", _flat(int(level), spec), spec, transform, found)
    exact = not found.differing and found.largest_float <= FLOAT_TOLERANCE
    if not exact and not allow_difference:
        raise BuildRefused(_reason(found, transform))
    return Parity(
        library=transform.library,
        backend=transform.backend,
        probes=len(files),
        probe_set=probes_digest(files),
        compared_values=found.compared,
        differing_values=found.differing,
        largest_level_difference=found.largest_level,
        largest_float_difference=found.largest_float,
        exact=exact,
        refused_probes=tuple(found.refused),
    )


def golden_probes(spec: PreprocessSpec) -> dict[str, bytes]:
    """Return a bundle's probe files by their name in it: about ten, together under 200 kB.

    They cover cases on which preprocessing code differs: crops of photographs, EXIF, CMYK,
    transparency, 16 bits and odd sizes. Files that `spec` rejects are left out.
    """
    known = probe_set()
    files = {name: known[name] for name in _GOLDEN_PROBES}
    for path in PHOTOS[2:4]:
        with Image.open(path) as photo:
            crop = photo.convert("RGB").crop((60, 40, 60 + _GOLDEN_SIDES[0], 40 + _GOLDEN_SIDES[1]))
        file = io.BytesIO()
        crop.save(file, "JPEG", quality=90)
        files[f"{path.stem}.jpg"] = file.getvalue()
    return {f"golden/{name}": file for name, file in files.items() if _is_accepted(file, spec)}


def _is_accepted(file: bytes, spec: PreprocessSpec) -> bool:
    try:
        preprocess(file, spec, _MAX_PIXELS)
    except RequestError:
        return False
    return True


@dataclass
class _Found:
    """The results of the comparison so far."""

    compared: int = 0
    differing: int = 0
    largest_level: int = 0
    largest_float: float = 0.0
    worst: tuple[int, str] = (0, "")  # differing values, probe
    worst_float: str = ""
    refused: list[str] = field(default_factory=list)  # by us
    unread: dict[str, str] = field(default_factory=dict)  # by the library: probe → why
    levels: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((3, 256), bool))


def _compare(
    name: str, file: bytes, spec: PreprocessSpec, transform: SourceTransform, found: _Found
) -> None:
    try:
        ours = preprocess(file, spec, _MAX_PIXELS)
    except RequestError:
        found.refused.append(name)  # the library is not run either: a sliver could need gigabytes
        return
    try:
        theirs, floats = transform.pixels(file), transform.floats(file)
    except Exception as error:  # noqa: BLE001 - codecs and libraries raise anything; it is reported
        found.unread[name] = f"{type(error).__name__}: {error}"
        return
    if theirs.dtype != np.uint8 or theirs.shape != ours.shape:
        raise BuildRefused(
            f"For probe {name}, {transform.library} returns {theirs.dtype} {list(theirs.shape)}, "
            f"but the spec gives uint8 {list(ours.shape)}: check the sizes of resize and crop."
        )
    gap = np.abs(ours.astype(np.int16) - theirs)
    differing = int(np.count_nonzero(gap))
    found.compared += ours.size
    found.differing += differing
    found.largest_level = max(found.largest_level, int(gap.max()))
    found.worst = max(found.worst, (differing, name))
    for channel in range(3):
        found.levels[channel, np.unique(ours[..., channel])] = True
    _compare_floats(name, normalised(ours, spec), floats, transform.library, found)


def _compare_floats(
    name: str, ours: Float32, theirs: NDArray[np.float32], library: str, found: _Found
) -> None:
    if theirs.shape != ours.shape:
        raise BuildRefused(
            f"{library}'s input to the network is {list(theirs.shape)}, but the spec's is "
            f"{list(ours.shape)}."
        )
    largest = float(np.max(np.abs(ours.astype(np.float64) - theirs)))
    if not np.isfinite(largest):
        raise BuildRefused(f"{library}'s input to the network is not finite for probe {name}.")
    if largest > found.largest_float:
        found.largest_float, found.worst_float = largest, name


def _check_library(found: _Found, probes: int, library: str) -> None:
    if not found.compared or len(found.unread) > _MOST_REFUSED_BY_LIBRARY * probes:
        name, why = next(iter(found.unread.items()), ("any", "the spec rejects all of them"))
        raise BuildRefused(
            f"{library} could not preprocess {len(found.unread)} of {probes} probes, so the "
            f"preprocessing cannot be proved; {name}: {why}."
        )


def _reason(found: _Found, transform: SourceTransform) -> str:
    way_out = "To build anyway and record the difference in the card, give --allow-difference."
    if not found.differing:
        return (
            f"The spec's floats differ from {transform.library}'s by up to "
            f"{found.largest_float:.3g} (limit {FLOAT_TOLERANCE:g}), but all pixels are equal: "
            f"check scale, mean, std and channel order. {way_out}"
        )
    differing, name = found.worst
    return (
        f"The spec's pixels differ from {transform.library}'s in {found.differing:,} of "
        f"{found.compared:,} values, by up to {found.largest_level} levels; worst in probe {name} "
        f"({differing:,} values). Check {_suspect(name)}, then size rounding, crop offset, filter "
        f"and backend (the library's is {transform.backend}). {way_out}"
    )


def _suspect(probe: str) -> str:
    """Return the rule of the spec that a probe tests."""
    for part, rule in _SUSPECTS.items():
        if part in probe:
            return rule
    return "channel order"


_SUSPECTS = {
    "exif": "EXIF orientation",
    "16": "the 16-bit rule",
    "transparent": "the alpha rule",
    "alpha": "the alpha rule",
    "rgba": "the alpha rule",
    "-la": "the alpha rule",
    "palette": "the alpha rule",
    "cmyk": "the CMYK conversion",
}


def _flat(level: int, spec: PreprocessSpec) -> bytes:
    height, width = spec.output_size
    file = io.BytesIO()
    Image.new("RGB", (width, height), (level,) * 3).save(file, "PNG")
    return file.getvalue()
