"""The description of the served model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.api.bodies import model_body
from tidegate.service.api.schemas import MAX_CLASSES_NAMED
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.engines.base import EngineInfo

INFO = EngineInfo(name="fake", runtime="none", device="cpu", precision="fp32", threads_per_slot=1)


def with_missing(folder: Path, missing: tuple[int, ...]) -> Bundle:
    bundle = open_bundle(put(folder, sound_files()))
    gate = bundle.manifest.gate.model_copy(update={"missing_images": missing})
    labels = tuple(f"class {c}" for c in range(max(4, len(missing))))
    return replace(
        bundle, manifest=bundle.manifest.model_copy(update={"gate": gate}), labels=labels
    )


def test_classes_that_share_a_threshold_are_named_with_the_images_they_lack(tmp_path: Path) -> None:
    body = model_body(with_missing(tmp_path, (0, 70, 5, 9)), INFO, 1, 8)

    assert body.shared_threshold is not None
    assert body.shared_threshold.classes == 3
    assert [(c.class_id, c.label, c.images) for c in body.shared_threshold.first] == [
        (2, "class 2", 5),
        (3, "class 3", 9),
        (1, "class 1", 70),
    ]


def test_of_ten_thousand_classes_only_the_first_are_named(tmp_path: Path) -> None:
    body = model_body(with_missing(tmp_path, (8,) * 10_000), INFO, 1, 8)

    assert body.shared_threshold is not None
    assert body.shared_threshold.classes == 10_000
    assert len(body.shared_threshold.first) == MAX_CLASSES_NAMED
    assert body.gate.missing_images == ()


def test_a_bundle_that_does_not_say_it_has_no_such_list(tmp_path: Path) -> None:
    assert model_body(with_missing(tmp_path, ()), INFO, 1, 8).shared_threshold is None
