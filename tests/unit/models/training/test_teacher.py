"""A teacher sees the student's view, at its own size and in its own order of channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.models import tiny
from tests.unit.models.colour_folders import imported
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import run_once
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.training.teacher import Teacher, as_seen, attention, grids_of
from tidegate.service.imaging.spec import CentreCrop, Grey, ResizeShortestEdge

VIEWS = np.random.default_rng(0).integers(0, 256, (11, tiny.SIDE, tiny.SIDE, 3), np.uint8)


def test_views_of_its_size_give_the_outputs_of_its_backbone() -> None:
    source = imported()

    taught = Teacher(source).see(VIEWS)

    batch = np.stack([normalised(view, tiny.SPEC) for view in VIEWS])
    logits, features = run_once(source.backbone, ("logits", "features"), batch)
    np.testing.assert_allclose(taught.logits, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(taught.features, features, rtol=1e-5, atol=1e-5)
    assert taught.attention == ()


def test_neither_the_batch_nor_the_threads_change_a_bit() -> None:
    whole = Teacher(imported(), threads=1).see(VIEWS)

    first = Teacher(imported(), threads=3).see(VIEWS[:8])

    np.testing.assert_array_equal(first.logits, whole.logits[:8])


def test_channels_are_in_the_teachers_order() -> None:
    source = imported()
    turned = replace(source, spec=tiny.SPEC.model_copy(update={"channel_order": "bgr"}))

    taught = Teacher(turned).see(VIEWS)

    same = Teacher(source).see(np.ascontiguousarray(VIEWS[..., ::-1]))
    np.testing.assert_array_equal(taught.logits, same.logits)


def test_the_whole_view_is_resized_without_a_crop() -> None:
    steps = (
        ResizeShortestEdge(size=9, filter="bicubic", rounding="round"),
        CentreCrop(height=tiny.SIDE, width=tiny.SIDE, offset="floor"),
        Grey(backend="pillow"),
    )
    spec = tiny.SPEC.model_copy(update={"steps": steps})

    seen = as_seen(spec)

    assert [step.op for step in seen.steps] == ["resize", "grey"]
    assert seen.output_size == (tiny.SIDE, tiny.SIDE)
    assert seen.steps[0].filter == "bicubic"  # type: ignore[union-attr]  # it is a resize
    assert (seen.mean, seen.std, seen.alpha) == (spec.mean, spec.std, spec.alpha)


def test_attention_is_where_activations_are_strong() -> None:
    activations = np.zeros((1, 2, 2, 2), np.float32)
    activations[0, :, 1, 0] = 3, 4
    activations[0, 0, 0, 1] = 5

    assert attention(activations)[0] == pytest.approx(np.array([0, 1, 1, 0]) / np.sqrt(2))
    assert not attention(np.zeros((1, 2, 2, 2), np.float32)).any()


def test_the_inside_of_another_precision_is_not_read() -> None:
    with pytest.raises(BuildRefused, match=r"The teacher is in int8.* needs a teacher in fp32"):
        grids_of(replace(imported(), precision="int8"))
