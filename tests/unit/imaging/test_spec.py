"""A PreprocessSpec is always valid, has a closed schema, and is identified by its digest."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.imaging.pictures import resize, resize_then_crop, spec
from tidegate.service.imaging.spec import PreprocessSpec

EDGE = {"op": "resize-shortest-edge", "size": 256, "rounding": "round", "filter": "bicubic"}
CROP = {"op": "centre-crop", "height": 224, "width": 224, "offset": "floor"}
FRACTION = {"op": "centre-crop-fraction", "numerator": 7, "denominator": 8, "offset": "ceil"}
GREY = {"op": "grey", "backend": "pillow"}
PAD = {"op": "pad", "height": 8, "width": 8, "colour": (1, 2, 3), "offset": "floor"}

CHANGES: dict[str, Any] = {
    "decoder": "nvjpeg",
    "exif_orientation": "ignore",
    "alpha": "composite-white",
    "sixteen_bit": "clip",
    "channel_order": "bgr",
    "scale": 2.0,
    "mean": (127.0, 127.0, 126.0),
    "std": (128.0, 128.0, 127.0),
    "steps": (resize(8, 9),),
}
STEP_CHANGES = {
    "the filter": resize(8, 8, "bilinear"),
    "the height": resize(9, 8),
    "the backend": resize(8, 8) | {"backend": "torch"},
    "OpenCV instead of torch": resize(8, 8, "bilinear") | {"backend": "cv2"},
    "a canvas": PAD,
    "another colour of the canvas": {**PAD, "colour": (1, 2, 4)},
    "another step": {**CROP, "height": 8, "width": 8},
}
REFUSED = {
    "an unknown decoder": {"decoder": "opencv"},
    "an unknown alpha rule": {"alpha": "composite-grey"},
    "no mean for blue": {"mean": (127.0, 127.0)},
    "a standard deviation of zero": {"std": (1.0, 0.0, 1.0)},
    "an infinite mean": {"mean": (1.0, float("inf"), 1.0)},
    "a scale that is no number": {"scale": float("nan")},
    "a negative scale": {"scale": -1.0},
    "no steps": {"steps": ()},
    "nine steps": {"steps": (resize(8, 8),) * 9},
    "an unknown step": {"steps": ({"op": "rotate", "degrees": 3}, resize(8, 8))},
    "a step with an unknown field": {"steps": ({**resize(8, 8), "antialias": False},)},
    "an unknown filter": {"steps": (resize(8, 8, "area"),)},
    "an unknown backend": {"steps": (resize(8, 8) | {"backend": "opencv"},)},
    "a height of zero": {"steps": (resize(0, 8),)},
    "a crop fraction above one": {"steps": ({**FRACTION, "numerator": 9}, resize(8, 8))},
    "a last step without a size": {"steps": (resize(8, 8), FRACTION)},
    "a grey step after one without a size": {"steps": (FRACTION, GREY)},
    "only a grey step": {"steps": (GREY,)},
    "a colour that no pixel has": {"steps": ({**PAD, "colour": (0, 0, 256)},)},
    "a canvas of one level": {"steps": ({**PAD, "colour": 114},)},
    "a last step with one free side": {"steps": (EDGE,)},
    "an unknown field": {"gamma": 2.2},
}


def test_the_digest_is_the_same_in_every_process_and_release() -> None:
    sealed = "669f255a46f621922787d0b5aecdb896fb9ae191110d96c5c57ac8ef6f007ec9"

    assert spec(EDGE, CROP, scale=1 / 255).digest == sealed


def test_the_digest_does_not_depend_on_how_the_spec_was_written_down() -> None:
    original = resize_then_crop(256, (224, 224))

    assert PreprocessSpec.model_validate_json(original.model_dump_json()).digest == original.digest
    assert PreprocessSpec(**dict(reversed(list(dict(original).items())))).digest == original.digest


def test_every_open_field_changes_the_digest() -> None:
    plain = spec()
    closed = {"icc_profile", "palette", "cmyk", "grey"}  # one allowed value each

    digests = {spec(**{field: value}).digest for field, value in CHANGES.items()}

    assert CHANGES.keys() | closed == PreprocessSpec.model_fields.keys()
    assert len(digests - {plain.digest}) == len(CHANGES)


@pytest.mark.parametrize("step", STEP_CHANGES.values(), ids=list(STEP_CHANGES))
def test_every_detail_of_a_step_changes_the_digest(step: dict[str, Any]) -> None:
    assert spec(step).digest != spec(resize(8, 8)).digest


def test_the_order_of_the_steps_changes_the_digest() -> None:
    assert spec(CROP, EDGE, CROP).digest != spec(EDGE, CROP, CROP).digest


@pytest.mark.parametrize("changes", REFUSED.values(), ids=list(REFUSED))
def test_a_spec_that_cannot_be_implemented_exactly_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


@pytest.mark.parametrize("field", sorted(CHANGES.keys() - {"decoder"}))
def test_no_rule_is_implied(field: str) -> None:
    fields = spec().model_dump()
    del fields[field]

    with pytest.raises(ValidationError, match=field):
        PreprocessSpec.model_validate(fields)


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec(), "scale", 2.0)  # noqa: B010 - mypy knows it is frozen


def test_the_output_size_is_the_last_step_s() -> None:
    assert spec(EDGE, {**CROP, "height": 5, "width": 7}).output_size == (5, 7)
    assert spec(FRACTION, resize(6, 4)).output_size == (6, 4)
