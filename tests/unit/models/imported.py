"""Checks of every importer's result against its library's pixels, floats and logits."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from tests.unit.imaging.pictures import MAX_PIXELS, encode, noise
from tidegate.models.importers.base import Imported, SourceTransform
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec

# Odd and even, wide and tall, smaller than any crop, and one pixel high.
SIZES = ((300, 401), (401, 300), (57, 100), (224, 224), (9, 1))
FLOATS = 1e-6  # the issue's: float32 rounding of values up to three
LOGITS = 1e-4  # the issue's: relative to the largest logit


def check_pixels(spec: PreprocessSpec, transform: SourceTransform) -> None:
    """Compare ours with the library's own: no value differs, and the floats are the spec's."""
    for seed, (width, height) in enumerate(SIZES):
        file = encode(noise(width, height, seed), "PNG")
        theirs = transform.pixels(file)

        ours = preprocess(file, spec, MAX_PIXELS)

        np.testing.assert_array_equal(ours, theirs)
        floats = (theirs * spec.scale - spec.mean) / spec.std
        np.testing.assert_allclose(transform.floats(file), floats.transpose(2, 0, 1), atol=FLOATS)


def check_logits(imported: Imported, batch: int = 3) -> None:
    """Compare the backbone with the library's own logits on a batch of noise."""
    assert imported.forward is not None
    shape = (batch, 3, *imported.spec.output_size)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = imported.backbone.SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])

    (logits,) = session.run(["logits"], {"input": images})

    expected = imported.forward(images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGITS * np.abs(expected).max())
