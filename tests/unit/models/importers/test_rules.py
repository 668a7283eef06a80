from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.models.errors import BuildRefused
from tidegate.models.importers import huggingface_rules, timm_rules, torchvision_rules
from tidegate.models.importers.torchvision_rules import (
    Cropping,
    Greying,
    Normalising,
    Resizing,
    Stage,
    ToBytes,
    ToFloats,
)
from tidegate.service.imaging.spec import (
    CentreCrop,
    Grey,
    Pad,
    Resize,
    ResizeKeepRatio,
    ResizeShortestEdge,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ── timm ──────────────────────────────────────────────────────────────────────────────────────


def timm_config(**changes: Any) -> dict[str, Any]:
    return {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": MEAN,
        "std": STD,
        "crop_pct": 0.875,
        "crop_mode": "center",
    } | changes


def test_timms_centre_mode_resizes_the_shorter_edge_and_crops() -> None:
    spec = timm_rules.translate(timm_config())

    assert spec.steps == (
        ResizeShortestEdge(size=256, rounding="truncate", filter="bicubic"),
        CentreCrop(height=224, width=224, offset="half-even"),
    )
    assert (spec.scale, spec.mean, spec.std) == (1 / 255, MEAN, STD)


def test_timm_loads_without_exif_and_drops_transparency() -> None:
    spec = timm_rules.translate(timm_config())

    assert (spec.exif_orientation, spec.alpha, spec.sixteen_bit) == ("ignore", "drop", "clip")


@given(size=st.integers(8, 1024), crop_pct=st.floats(0.5, 1.1))
def test_timms_scale_size_is_rounded_down(size: int, crop_pct: float) -> None:
    spec = timm_rules.translate(timm_config(input_size=(3, size, size), crop_pct=crop_pct))

    resize = spec.steps[0]
    assert isinstance(resize, ResizeShortestEdge)
    assert resize.size <= size / crop_pct < resize.size + 1


def test_timms_squash_mode_resizes_both_edges() -> None:
    spec = timm_rules.translate(
        timm_config(crop_mode="squash", input_size=(3, 160, 320), crop_pct=0.8)
    )

    assert spec.steps == (
        Resize(height=200, width=400, filter="bicubic"),
        CentreCrop(height=160, width=320, offset="half-even"),
    )


def test_timms_border_mode_fits_the_image_into_a_canvas_of_the_mean_colour() -> None:
    spec = timm_rules.translate(timm_config(crop_mode="border", crop_pct=1.0))

    assert spec.steps == (
        ResizeKeepRatio(
            height=224,
            width=224,
            fit="inside",
            factor="quotient",
            rounding="round",
            filter="bicubic",
        ),
        Pad(height=224, width=224, colour=(124, 116, 104), offset="half-even"),
    )


def test_timms_centre_mode_covers_a_size_that_is_not_square() -> None:
    spec = timm_rules.translate(timm_config(input_size=(3, 160, 320), crop_pct=0.8))

    assert spec.steps == (
        ResizeKeepRatio(
            height=200,
            width=400,
            fit="cover",
            factor="quotient",
            rounding="round",
            filter="bicubic",
        ),
        CentreCrop(height=160, width=320, offset="half-even"),
    )


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"crop_mode": "centre"}, "--crop-mode center, squash or border"),
        ({"interpolation": "random"}, "--interpolation"),
        ({"input_size": (1, 224, 224)}, "three channels"),
        ({"crop_pct": None}, "--crop-pct"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"tta": 2}, "tta"),
    ],
)
def test_what_timm_leaves_open_or_no_spec_states_is_refused(
    changes: dict[str, Any], advice: str
) -> None:
    with pytest.raises(BuildRefused, match=advice):
        timm_rules.translate(timm_config(**changes))


def test_a_timm_configuration_without_a_key_is_refused() -> None:
    config = timm_config()
    del config["crop_mode"]

    with pytest.raises(BuildRefused, match="crop_mode"):
        timm_rules.translate(config)


# ── torchvision ───────────────────────────────────────────────────────────────────────────────


def resizing(*size: int, **changes: Any) -> Resizing:
    fields: dict[str, Any] = {
        "interpolation": "bilinear",
        "antialias": True,
        "max_size": None,
        "api": "v2",
    }
    return Resizing(size=size, **fields | changes)


CROP = Cropping((224, 224))
TO_TENSOR = ToFloats(1 / 255, takes_images=True)
TO_IMAGE = ToBytes(takes_images=True)
TO_FLOAT32 = ToFloats(1 / 255, takes_images=False)
NORMALISE = Normalising(MEAN, STD)


def test_a_resize_of_the_image_is_pillows() -> None:
    found = torchvision_rules.translate([resizing(256), CROP, TO_TENSOR, NORMALISE])

    assert found.spec.steps == (
        ResizeShortestEdge(size=256, rounding="truncate", filter="bilinear"),
        CentreCrop(height=224, width=224, offset="half-even"),
    )
    assert (found.backend, found.to_pixels) == ("pillow", 2)


def test_a_resize_of_a_tensor_is_torchs() -> None:
    found = torchvision_rules.translate([TO_IMAGE, resizing(256), CROP, TO_FLOAT32, NORMALISE])

    assert found.spec.steps[0] == ResizeShortestEdge(
        size=256, rounding="truncate", filter="bilinear", backend="torch"
    )
    assert found.backend == "torch"


def test_grayscale_of_an_image_is_a_step() -> None:
    steps = torchvision_rules.translate([resizing(8, 8), Greying(3), TO_TENSOR]).spec.steps

    assert steps == (Resize(height=8, width=8, filter="bilinear"), Grey(backend="pillow"))


def test_floats_that_are_not_scaled_stay_so() -> None:
    stages: list[Stage] = [resizing(8, 8), TO_IMAGE, ToFloats(1.0, takes_images=False)]

    spec = torchvision_rules.translate(stages).spec

    assert (spec.scale, spec.mean, spec.std) == (1.0, (0, 0, 0), (1, 1, 1))


def test_a_dtype_of_bytes_makes_no_tensor_of_an_image() -> None:
    stages: list[Stage] = [ToBytes(takes_images=False), resizing(8, 8), TO_TENSOR]

    assert torchvision_rules.translate(stages).backend == "pillow"


@pytest.mark.parametrize(
    ("stages", "advice"),
    [
        ([resizing(8, 8)], "never convert to floats"),
        ([resizing(256), TO_TENSOR], "resize, centre-crop or pad"),
        ([TO_TENSOR, resizing(8, 8)], "Resize after"),
        ([resizing(256), TO_TENSOR, CROP], "CenterCrop after"),
        ([resizing(8, 8, max_size=9), TO_TENSOR], "max_size"),
        ([resizing(8, 8, interpolation="nearest-exact"), TO_TENSOR], "nearest-exact"),
        ([TO_IMAGE, resizing(8, 8, antialias=False), TO_FLOAT32], "antialias=True"),
        ([TO_IMAGE, resizing(8, 8, antialias=None), TO_FLOAT32], "antialias=True"),
        ([TO_IMAGE, resizing(8, 8, interpolation="nearest"), TO_FLOAT32], "bilinear or bicubic"),
        ([TO_IMAGE, resizing(8, 8, api="v1"), TO_FLOAT32], "before ToTensor"),
        ([resizing(8, 8), TO_FLOAT32], "ToImage"),
        ([TO_IMAGE, resizing(8, 8), TO_TENSOR], "does not accept a tensor"),
        ([NORMALISE, TO_TENSOR], "Normalize comes before"),
        ([resizing(8, 8), TO_TENSOR, NORMALISE, NORMALISE], "only one Normalize"),
        ([Greying(1), resizing(8, 8), TO_TENSOR], "one channel"),
        ([resizing(8, 8), TO_IMAGE, Greying(3), TO_FLOAT32], "before ToTensor"),
    ],
)
def test_unsupported_transforms_are_rejected(stages: list[Any], advice: str) -> None:
    with pytest.raises(BuildRefused, match=advice):
        torchvision_rules.translate(stages)


# ── Hugging Face ──────────────────────────────────────────────────────────────────────────────


def hugging(name: str, backend: str | None = "pillow", **keys: Any) -> Any:
    return huggingface_rules.translate({"image_processor_type": name, **keys}, backend)


def test_absent_keys_and_none_mean_the_processors_defaults() -> None:
    assert hugging("DeiTImageProcessor", crop_size=None).spec.steps == (
        Resize(height=256, width=256, filter="bicubic"),
        CentreCrop(height=224, width=224, offset="floor"),
    )


def test_hugging_faces_loader_applies_exif() -> None:
    spec = hugging("ViTImageProcessor").spec

    assert (spec.exif_orientation, spec.alpha, spec.sixteen_bit) == ("apply", "drop", "clip")


@pytest.mark.parametrize(
    ("name", "square"), [("ViTImageProcessor", True), ("BitImageProcessor", False)]
)
def test_one_number_is_a_square_or_the_shorter_edge_by_the_processor(
    name: str, square: bool
) -> None:
    step = hugging(name, size=240).spec.steps[0]

    assert isinstance(step, Resize if square else ResizeShortestEdge)


def test_a_fast_processor_resizes_tensors() -> None:
    found = hugging("ViTImageProcessorFast", None)

    assert found.backend == "torch"
    assert found.spec.steps[0].backend == "torch"


def test_an_old_feature_extractor_is_understood() -> None:
    config = {"feature_extractor_type": "ViTFeatureExtractor", "size": 384, "resample": 2}

    found = huggingface_rules.translate(config, "pillow")

    assert found.spec.output_size == (384, 384)


def test_a_file_without_a_backend_requires_one() -> None:
    with pytest.raises(BuildRefused, match="--backend pillow or --backend torch"):
        hugging("ViTImageProcessor", None)


def test_convnext_crops_below_384_and_squeezes_from_there_on() -> None:
    below = hugging("ConvNextImageProcessor", size={"shortest_edge": 224}, crop_pct=0.875)
    above = hugging("ConvNextImageProcessor", size={"shortest_edge": 384})

    assert below.spec.steps == (
        ResizeShortestEdge(size=256, rounding="truncate", filter="bicubic"),
        CentreCrop(height=224, width=224, offset="floor"),
    )
    assert above.spec.steps == (Resize(height=384, width=384, filter="bicubic"),)


def test_levit_and_poolformer_enlarge_the_shorter_edge_first() -> None:
    edges = [
        hugging(name).spec.steps[0].size
        for name in ("LevitImageProcessor", "PoolFormerImageProcessor")
    ]

    assert edges == [256, 248]


def test_efficientnet_normalises_twice_and_shifts() -> None:
    spec = hugging(
        "EfficientNetImageProcessor",
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        image_mean=[0.25, 0.5, 0.75],
        image_std=[0.5, 0.5, 0.25],
    ).spec

    assert (spec.mean, spec.std) == ((1.25, 1.5, 1.75), (0.25, 0.25, 0.0625))


def test_mobilevit_has_blue_first_and_never_normalises() -> None:
    spec = hugging("MobileViTImageProcessor", size={"shortest_edge": 288}, do_normalize=True).spec

    assert (spec.channel_order, spec.mean, spec.std) == ("bgr", (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("name", "keys", "advice"),
    [
        ("Mask2FormerImageProcessor", {}, "supported are ViTImageProcessor"),
        ("ViTImageProcessor", {"size_divisor": 32}, "size_divisor"),
        ("ViTImageProcessor", {"crop_pct": 0.9}, "crop_pct"),
        ("ViTImageProcessor", {"auto_map": {}}, "auto_map"),
        ("ViTImageProcessor", {"do_pad": True}, "do_pad"),
        ("ViTImageProcessor", {"do_resize": False}, "do_resize"),
        ("ViTImageProcessor", {"data_format": "channels_last"}, "channels_first"),
        ("ViTImageProcessor", {"size": {"longest_edge": 224}}, "longest_edge"),
        ("ViTImageProcessor", {"size": {"shortest_edge": 224}}, "resize, centre-crop or pad"),
        ("ViTImageProcessor", {"do_center_crop": True}, "crop_size"),
        ("ViTImageProcessor", {"resample": 9}, "resample"),
        ("ViTImageProcessor", {"image_mean": [0.5]}, "image_mean"),
        ("ViTImageProcessor", {"image_std": 0.0}, "std"),
        ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}, "floats"),
        ("ViTImageProcessorFast", {}, "omit --backend"),
        ("ConvNextImageProcessor", {"size": {"height": 8, "width": 8}}, "shortest_edge"),
        ("PoolFormerImageProcessor", {"crop_pct": 0}, "crop_pct"),
        ("MobileViTImageProcessor", {}, "padding"),
    ],
)
def test_an_ambiguous_or_unsupported_preprocessor_config_is_rejected(
    name: str, keys: dict[str, Any], advice: str
) -> None:
    with pytest.raises(BuildRefused, match=advice):
        hugging(name, **keys)


def test_tensors_are_resized_only_with_torchs_filters() -> None:
    with pytest.raises(BuildRefused, match="bilinear or bicubic"):
        hugging("ViTImageProcessor", "torch", resample=0)


def test_tensors_padded_before_the_crop_are_served() -> None:
    spec = hugging("MobileViTImageProcessor", "torch").spec

    assert spec.output_size == (256, 256)


def test_a_file_without_a_processor_requires_one() -> None:
    with pytest.raises(BuildRefused, match="image_processor_type"):
        huggingface_rules.translate({"size": 224}, "pillow")
