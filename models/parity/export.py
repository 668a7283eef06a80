"""Compare the exported backbone with its source framework on real images."""

from __future__ import annotations

from itertools import islice

import numpy as np

from tidegate.models.data.folders import Split
from tidegate.models.data.outputs import decodable
from tidegate.models.data.rows import Float32
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import quiet_session
from tidegate.models.importers.base import Imported
from tidegate.models.parity.preprocessing import normalised
from tidegate.service.imaging.spec import PreprocessSpec

TOLERANCE = 1e-4  # of the largest logit, for fp32 on another runtime
_IMAGES = 8


def check_export(imported: Imported, spec: PreprocessSpec, split: Split) -> tuple[float, float]:
    """Compare logits on images of `split`: with the framework's, and a batch with single images.

    Returns both differences, relative to the largest logit; the first is 0 if the source has no
    framework. Raises BuildRefused if either exceeds TOLERANCE, or if no image can be decoded.
    """
    pixels = list(islice(decodable((item.path for item in split.items), spec), _IMAGES))
    if not pixels:
        raise BuildRefused(
            f"No image of {split.name} can be decoded, such as {split.items[0].path}."
        )
    batch = np.stack([normalised(image, spec) for image in pixels])
    session = quiet_session(imported.backbone.SerializeToString())
    entry = session.get_inputs()[0].name

    def run(images: Float32) -> Float32:
        return np.asarray(session.run(["logits"], {entry: images})[0])

    singles = np.concatenate([run(image[None]) for image in batch])
    in_batch = _relative(run(batch), singles)
    from_source = 0.0 if imported.forward is None else _relative(singles, imported.forward(batch))
    # `not <=`, so that NaN fails.
    if not from_source <= TOLERANCE:
        raise BuildRefused(
            f"The exported graph's logits differ from the framework's by {from_source:.2g} of the "
            "largest logit: the export does not equal the trained model."
        )
    if not in_batch <= TOLERANCE:
        raise BuildRefused(
            f"The logits of a batch of {len(batch)} differ from those of its images one by one, by "
            f"{in_batch:.2g} of the largest logit: the model mixes the images of a batch."
        )
    return from_source, in_batch


def _relative(got: Float32, expected: Float32) -> float:
    return float(np.max(np.abs(got - expected)) / max(1e-6, float(np.max(np.abs(expected)))))
