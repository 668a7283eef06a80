"""Golden probes: image files, digests of their pixels, and the sealed graph's outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from tidegate.models.sealing.check import check_against_float64, run
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.npz import npz
from tidegate.service.bundle.golden import PROBE_MAX_PIXELS, pixels_digest
from tidegate.service.bundle.manifest import File
from tidegate.service.bundle.store import GOLDEN
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec


def golden_files(
    sealed: bytes, head: GateHead, spec: PreprocessSpec, probes: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return `probes` (name in the bundle → image file) with golden/expected.npz.

    Raises BuildRefused if the graph's scores of them differ from float64's.
    """
    images = [preprocess(content, spec, PROBE_MAX_PIXELS) for content in probes.values()]
    outputs = run(sealed, images)
    check_against_float64(outputs, head)
    expected = {
        "names": np.array(list(probes)),
        "pixels_sha256": np.array([pixels_digest(pixels) for pixels in images]),
        "logits": outputs.logits,
        "scores": outputs.scores,
        "nearest_class": outputs.nearest_class,
    }
    return {**probes, GOLDEN: npz(expected)}


def listed(files: Mapping[str, bytes]) -> dict[str, File]:
    """Return the manifest's entries for the files."""
    return {
        name: File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    }
