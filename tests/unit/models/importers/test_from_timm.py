from __future__ import annotations

import json
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.imported import check_logits, check_pixels
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import from_timm, torch_checkpoint
from tidegate.models.importers.from_timm import Overrides
from tidegate.models.importers.torch_export import export
from tidegate.models.importers.torch_runtime import require
from tidegate.models.importers.torchvision_transforms import translate

pytestmark = pytest.mark.torch

NAME = "resnet18"
SMALL = Overrides(size=64)


def resnet18(classes: int = 5) -> Any:
    require("torch").manual_seed(1)
    return require("timm").create_model(NAME, num_classes=classes)


def saved(path: Path, content: Any) -> Path:
    require("torch").save(content, path)
    return path


@pytest.mark.parametrize("name", [NAME, "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_a_timm_model_is_served_as_timm_runs_it(name: str) -> None:
    imported = from_timm.load(name, random_weights=True)

    assert imported.transform is not None
    check_pixels(imported.spec, imported.transform)
    check_logits(imported)


def test_random_weights_are_reproducible_and_are_noted() -> None:
    first, second = (from_timm.load(NAME, random_weights=True, overrides=SMALL) for _ in range(2))

    assert first.backbone.SerializeToString() == second.backbone.SerializeToString()
    assert first.checkpoint_sha256 == second.checkpoint_sha256
    assert any("random" in note for note in first.notes)


def test_no_trace_of_the_exporting_machine_is_in_the_graph() -> None:
    exported = export(resnet18(), (64, 64)).SerializeToString()

    assert b"site-packages" not in exported
    assert b"aten." not in exported


def test_the_number_of_classes_is_the_checkpoints(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "best.pt", resnet18(classes=7).state_dict())

    imported = from_timm.load(NAME, checkpoint=checkpoint, overrides=SMALL)

    assert imported.backbone.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 7
    check_logits(imported)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("vit_small_patch14_dinov2", 42),
        ("vit_base_patch32_clip_224", 64),
        ("vit_base_patch16_siglip_224", 32),
    ],
)
def test_an_encoder_needs_no_classifier(name: str, size: int, tmp_path: Path) -> None:
    options = {} if name == "resnet18" else {"img_size": size}
    encoder = require("timm").create_model(name, num_classes=0, **options)
    checkpoint = saved(tmp_path / "encoder.pt", encoder.state_dict())

    imported = from_timm.load(
        name, checkpoint=checkpoint, overrides=Overrides(size=size), encoder=True
    )

    features = imported.backbone.graph.output[1].type.tensor_type.shape.dim[1].dim_value
    assert features == encoder.num_features
    check_logits(imported)


def test_a_single_logit_is_served_as_two_classes(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "best.pt", resnet18(classes=1).state_dict())

    imported = from_timm.load(NAME, checkpoint=checkpoint, overrides=SMALL)

    assert imported.backbone.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 2
    check_logits(imported)


ARGUMENTS = {"model": NAME, "img_size": 64, "crop_pct": 1.0, "mean": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize("place", ["checkpoint", "file"])
def test_the_preprocessing_is_that_of_timms_own_training_arguments(
    tmp_path: Path, place: str
) -> None:
    content: dict[str, Any] = {"state_dict": resnet18().state_dict()}
    if place == "checkpoint":
        content["args"] = Namespace(**ARGUMENTS, std=None)
    else:
        (tmp_path / "args.yaml").write_text(json.dumps(ARGUMENTS))  # JSON is YAML
    path = saved(tmp_path / "last.pth.tar", content)

    imported = from_timm.load(NAME, checkpoint=path)

    assert imported.spec.output_size == (64, 64)
    assert imported.spec.mean == (0.5, 0.5, 0.5)
    assert not imported.rivals
    assert from_timm.load(NAME, checkpoint=path, overrides=SMALL).spec.mean == (0.5, 0.5, 0.5)
    with pytest.raises(BuildRefused, match="says that a resnet18 was trained, not a resnet34"):
        from_timm.load("resnet34", checkpoint=path)


def test_usual_preprocessings_are_rivals_of_a_default_that_nobody_stated(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pt", resnet18().state_dict())

    options = {rival.options for rival in from_timm.load(NAME, checkpoint=path).rivals}

    assert {"--size 32", "--size 224", "--crop-pct 0.875", "--mean 0 0 0 --std 1 1 1"} <= options
    assert "--size 288" not in options  # the default
    stated = from_timm.load(NAME, checkpoint=path, overrides=SMALL).rivals
    assert not any("--size" in rival.options for rival in stated)


def test_own_transforms_are_served_and_proved_as_they_are(tmp_path: Path) -> None:
    transforms = require("torchvision.transforms")
    chain = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
    own = translate(chain, None)
    path = saved(tmp_path / "best.pt", resnet18().state_dict())

    imported = from_timm.load(NAME, checkpoint=path, own=own)

    assert imported.transform is not None
    check_pixels(imported.spec, imported.transform)
    assert list(imported.spec.mean) == [0, 0, 0]
    assert not imported.rivals
    with pytest.raises(BuildRefused, match="your own preprocessing or timm's options"):
        from_timm.load(NAME, checkpoint=path, own=own, overrides=SMALL)


def test_class_names_in_the_checkpoint_are_the_labels(tmp_path: Path) -> None:
    names = {"eel": 4, "cat": 0, "dog": 1, "fox": 3, "cow": 2}
    content = {"model": resnet18().state_dict(), "class_to_idx": names}

    imported = from_timm.load(
        NAME, checkpoint=saved(tmp_path / "best.pt", content), overrides=SMALL
    )

    assert imported.labels == ("cat", "dog", "cow", "fox", "eel")


def test_timms_test_size_is_used_and_noted() -> None:
    imported = from_timm.load(NAME, random_weights=True)

    assert imported.spec.output_size == (288, 288)  # as timm's own validate.py evaluates it
    assert any("224 × 224" in note for note in imported.notes)


def test_a_model_of_one_size_is_made_for_the_size_stated() -> None:
    imported = from_timm.load(
        "vit_tiny_patch16_224", random_weights=True, overrides=Overrides(size=64)
    )

    assert imported.spec.output_size == (64, 64)
    check_logits(imported)


def test_a_folder_saved_by_timm_has_its_own_preprocessing_and_labels(tmp_path: Path) -> None:
    config = {
        "architecture": NAME,
        "num_classes": 5,
        "label_names": ["a", "b", "c", "d", "e"],
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "classifier": "fc",
            "first_conv": "conv1",
            "license": "mit",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    require("safetensors.torch").save_file(resnet18().state_dict(), tmp_path / "model.safetensors")

    whole = from_timm.load(f"local-dir:{tmp_path}")
    beside = from_timm.load(NAME, checkpoint=tmp_path / "model.safetensors")

    assert whole.spec == beside.spec
    assert whole.spec.steps[0].op == "resize"
    assert whole.spec.mean == (0.5, 0.5, 0.5)
    assert whole.labels == ("a", "b", "c", "d", "e")
    assert whole.licence == "mit"
    check_logits(whole)


@pytest.mark.parametrize("nest", ["state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod."])
def test_the_usual_nesting_is_unwrapped(tmp_path: Path, nest: str, prefix: str) -> None:
    module = resnet18()
    weights = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    path = saved(tmp_path / "last.ckpt", {"epoch": 3, nest: weights})

    other = require("timm").create_model(NAME, num_classes=5)
    notes = torch_checkpoint.read(path).fill(other)

    assert nest in notes[0]
    assert all(map(require("torch").equal, same(module), same(other)))


def same(module: Any) -> Any:
    return module.state_dict().values()


def test_averaged_weights_are_taken_unless_others_are_chosen(tmp_path: Path) -> None:
    last, averaged = (resnet18().state_dict() for _ in range(2))
    averaged["fc.bias"] = averaged["fc.bias"] + 1
    path = saved(tmp_path / "last.pt", {"state_dict": last, "state_dict_ema": averaged})
    module = resnet18()

    notes = torch_checkpoint.read(path).fill(module)

    assert require("torch").equal(module.fc.bias, averaged["fc.bias"])
    assert "`state_dict_ema`" in notes[0]
    assert "state_dict;" in notes[1]
    torch_checkpoint.read(path, "state_dict").fill(module)
    assert require("torch").equal(module.fc.bias, last["fc.bias"])


def test_a_checkpoint_of_another_model_names_what_does_not_fit(tmp_path: Path) -> None:
    weights = resnet18().state_dict()
    weights["head.weight"] = weights.pop("conv1.weight")
    path = saved(tmp_path / "other.pt", weights)

    with pytest.raises(BuildRefused, match=r"missing: conv1.weight; unexpected: head.weight"):
        from_timm.load(NAME, checkpoint=path)


class _Runs:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (_Runs, "ran", True)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "evil.pt", {"state_dict": _Runs()})

    with pytest.raises(BuildRefused, match=r"torch.save\(model.state_dict\(\)"):
        torch_checkpoint.read(path)
    assert not _Runs.ran


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.pt", b"", "damaged"),
        ("text.pt", b"hello", "damaged"),
        ("numbers.pt", pickle.dumps({"epoch": 3}), "damaged"),
        ("short.safetensors", b"\x08\0\0\0\0\0\0\0{}", "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(BuildRefused, match=reason):
        torch_checkpoint.read(tmp_path / name)


def test_a_file_without_weights_is_rejected_with_its_content(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match="it contains epoch, best"):
        torch_checkpoint.read(saved(tmp_path / "x.pt", {"epoch": 3, "best": 0.5}))


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"name": NAME}, "--checkpoint FILE"),
        ({"name": "resnet19", "random_weights": True}, "no model 'resnet19'"),
        ({"name": "hf-hub:timm/resnet18", "random_weights": True}, "nothing is downloaded"),
        ({"name": NAME, "backend": "torch", "random_weights": True}, "Pillow"),
        ({"name": NAME, "checkpoint": Path("nowhere.pt")}, "nowhere.pt does not exist"),
        ({"name": "local-dir:nowhere"}, "nowhere"),
    ],
)
def test_a_source_that_cannot_be_imported_is_rejected_with_a_remedy(
    arguments: dict[str, Any], advice: str
) -> None:
    with pytest.raises(BuildRefused, match=advice):
        from_timm.load(**arguments)


def test_a_size_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(BuildRefused, match="does not run on images of 65 × 64"):
        export(require("timm").create_model("vit_tiny_patch16_224", img_size=64), (65, 64))


def test_a_network_that_is_no_classifier_is_refused() -> None:
    with pytest.raises(BuildRefused, match="not an image classifier"):
        export(require("torch").nn.Conv2d(3, 4, 1), (8, 8))
