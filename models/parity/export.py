"""Hold the exported backbone to the framework it came from, on real images."""

from __future__ import annotations

import numpy as np

from tidegate.models.data.folders import Split
from tidegate.models.data.outputs import load_pixels
from tidegate.models.data.rows import Float32
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import quiet_session
from tidegate.models.importers.base import Imported
from tidegate.models.parity.preprocessing import normalised
from tidegate.service.imaging.spec import PreprocessSpec

TOLERANCE = 1e-4  # of the largest logit: the promise for fp32 on another runtime
_IMAGES = 8


def check_export(imported: Imported, spec: PreprocessSpec, split: Split) -> tuple[float, float]:
    """Compare logits of images of `split`: with the framework's own, and a batch with singles.

    Returns both differences, relative to the largest logit; the first is 0 where there is no
    framework to ask. Raises BuildRefused when one is beyond TOLERANCE.
    """
    pixels = [load_pixels(item.path, spec) for item in split.items[:_IMAGES]]
    batch = np.stack([normalised(image, spec) for image in pixels])
    session = quiet_session(imported.backbone.SerializeToString())
    entry = session.get_inputs()[0].name

    def run(images: Float32) -> Float32:
        return np.asarray(session.run(["logits"], {entry: images})[0])

    singles = np.concatenate([run(image[None]) for image in batch])
    in_batch = _relative(run(batch), singles)
    from_source = 0.0 if imported.forward is None else _relative(singles, imported.forward(batch))
    # Written so that a NaN fails.
    if not from_source <= TOLERANCE:
        raise BuildRefused(
            f"The exported graph's logits differ from the framework's by {from_source:.2g} of the "
            "largest: the export is not the model that was trained."
        )
    if not in_batch <= TOLERANCE:
        raise BuildRefused(
            f"A batch of {len(batch)} gives other logits than the same images one by one (by "
            f"{in_batch:.2g} of the largest): the model mixes the images of a batch."
        )
    return from_source, in_batch


def _relative(got: Float32, expected: Float32) -> float:
    return float(np.max(np.abs(got - expected)) / max(1e-6, float(np.max(np.abs(expected)))))
