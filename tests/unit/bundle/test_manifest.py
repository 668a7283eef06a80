"""manifest.json has a closed schema, a canonical form and consistent fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.bundle.evidence import comparison, coverage, evaluation, parity
from tests.unit.bundle.tiny_bundle import Change, fields_for, sound_files
from tidegate.service.bundle.manifest import Manifest, ReferenceFit

FIELDS = fields_for(sound_files())


def manifest() -> Manifest:
    return Manifest.model_validate(FIELDS)


def changed(change: Change) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(FIELDS))
    change(fields)
    return fields


def set_gate(**values: Any) -> Change:
    return lambda fields: fields["gate"].update(values)


INCONSISTENT: dict[str, tuple[Change, str]] = {
    "another model": (set_gate(calibrated_for_model="1" * 64), "calibrated for another model"),
    "another preprocessing": (
        set_gate(calibrated_for_preprocess="1" * 64),
        "calibrated for another preprocessing",
    ),
    "a changed preprocessing": (
        lambda f: f["preprocess"].update(alpha="composite-white"),
        "calibrated for another preprocessing",
    ),
    "an alpha that n cannot reach": (
        set_gate(alpha_reject=0.004),
        "needs at least 249 images in each fold, not 199",
    ),
    "a small fold A": (set_gate(fold_a=98), "needs at least 99 images in each fold, not 98"),
    "a small fold B": (set_gate(fold_b=98), "needs at least 99 images in each fold, not 98"),
    "a pac guarantee without its delta": (
        set_gate(guarantee="pac"),
        "guarantee_delta is required",
    ),
    "a delta without a pac guarantee": (
        set_gate(guarantee_delta=0.1),
        "guarantee_delta is required",
    ),
    "a pac alpha that n cannot reach": (
        set_gate(guarantee="pac", guarantee_delta=0.05),
        "needs at least 299 images in each fold, not 199",
    ),
    "own thresholds out of order": (set_gate(own_threshold=[2, 1]), "must be ascending"),
    "an own threshold for an unknown class": (set_gate(own_threshold=[4]), "contains class 4"),
    "a histogram that does not fit": (
        lambda f: f["reference"].update(histograms={"blur": {"edges": [1.0], "counts": [1]}}),
        "one more count than edges",
    ),
    "a parity that is not exact": (
        lambda f: f.update(parity={**parity().model_dump(), "differing_values": 1}),
        "some values differ",
    ),
    "reject above review": (set_gate(alpha_reject=0.06), "must not be above alpha_review"),
    "an alpha of zero": (set_gate(alpha_reject=0), "greater than 0"),
    "an alpha of one": (set_gate(alpha_review=1), "less than 1"),
    "another size": (lambda f: f["task"].update(height=9), "output_size differs"),
    "a class without a count": (
        lambda f: f["reference"].update(class_counts=[5, 3, 2]),
        "must contain one value per class",
    ),
    "a reference without images": (
        lambda f: f["reference"].update(class_counts=[0, 0, 0, 0]),
        "at least one image",
    ),
    "a negative count": (
        lambda f: f["reference"].update(class_counts=[4, 3, 2, -1]),
        "greater than or equal to 0",
    ),
    "no model": (lambda f: f["files"].pop("model.onnx"), "calibrated for another model"),
    "buckets that do not ascend": (lambda f: f["engine"].update(buckets=[1, 4, 2]), "ascend"),
    "buckets that do not start at one": (
        lambda f: f["engine"].update(buckets=[2, 4]),
        "must start at",
    ),
    "scores without energy": (set_gate(scores=("mahalanobis", "entropy")), "scores must be"),
    "a score twice": (set_gate(scores=("energy", "mahalanobis", "energy")), "scores must be"),
    "no score that decides": (set_gate(combination=()), "combination must name"),
    "an unknown score that decides": (set_gate(combination=("entropy",)), "combination must name"),
    "an unknown field": (lambda f: f.update(threshold=0.5), "Extra inputs"),
    "an unknown field inside": (set_gate(threshold=0.5), "Extra inputs"),
    "a temperature of zero": (lambda f: f["calibration"].update(temperature=0), "greater than 0"),
    "another format": (lambda f: f.update(format="tidegate-bundle/2"), "tidegate-bundle/3"),
    "a name that is a path": (lambda f: f.update(name="../tiny"), "match pattern"),
    "an invalid digest": (set_gate(calibrated_for_model="model"), "match pattern"),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_an_inconsistent_manifest_is_rejected(name: str) -> None:
    change, reason = INCONSISTENT[name]

    with pytest.raises(ValidationError, match=reason):
        Manifest.model_validate(changed(change))


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "golden/../../x", ".hidden", "", "a b", "x\n", "a\\b", "é", "a" * 201],
)
def test_a_file_name_that_could_lead_outside_is_rejected(name: str) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["files"][name] = {"bytes": 0, "sha256": "0" * 64}

    with pytest.raises(ValidationError, match="unsafe file name"):
        Manifest.model_validate(changed(change))


def test_a_written_manifest_is_read_back() -> None:
    assert Manifest.from_file(manifest().to_file()) == manifest()


def test_the_file_contains_the_digest() -> None:
    assert json.loads(manifest().to_file())["digest"] == manifest().digest


def test_the_digest_covers_every_field() -> None:
    originals = manifest()
    others = {
        "name": "other",
        "version": "2",
        "calibration": originals.calibration.model_copy(update={"temperature": 2.0}),
        "reference": originals.reference.model_copy(update={"class_counts": (161, 120, 80, 40)}),
        "provenance": originals.provenance.model_copy(update={"licence": "MIT"}),
        "engine": originals.engine.model_copy(update={"buckets": (1, 2)}),
        "gate": originals.gate.model_copy(update={"alpha_review": 0.06}),
        "task": originals.task.model_copy(update={"features": 7}),
        "preprocess": originals.preprocess.model_copy(update={"scale": 2.0}),
        "precision": "int8",
        "parity": parity(),
        "evaluation": evaluation(),
        "coverage": coverage(),
        "comparison": comparison(),
        "files": {},
    }

    digests = {originals.model_copy(update={f: v}).digest for f, v in others.items()}

    assert others.keys() | {"format"} == Manifest.model_fields.keys()
    assert len(digests - {originals.digest}) == len(others)


NOT_CANONICAL = {
    "another indent": lambda fields: json.dumps(fields, indent=2, sort_keys=True) + "\n",
    "one line": lambda fields: json.dumps(fields, sort_keys=True) + "\n",
    "keys in another order": lambda fields: (
        json.dumps(dict(reversed(list(fields.items()))), indent=1) + "\n"
    ),
    "no digest": lambda fields: (
        json.dumps({k: v for k, v in fields.items() if k != "digest"}, indent=1) + "\n"
    ),
    "another digest": lambda fields: (
        json.dumps({**fields, "digest": "0" * 64}, indent=1, sort_keys=True) + "\n"
    ),
    "a list": lambda fields: "[]",
    "a number": lambda fields: "1",
    "nothing": lambda fields: "",
    "half of it": lambda fields: json.dumps(fields, indent=1, sort_keys=True)[:400],
    "NaN": lambda fields: '{"name": NaN}',
}


@pytest.mark.parametrize("write", NOT_CANONICAL.values(), ids=list(NOT_CANONICAL))
def test_only_the_canonical_form_is_read(write: Any) -> None:
    content = write(json.loads(manifest().to_file())).encode()

    with pytest.raises(ValueError):  # noqa: PT011 - the store words it; see test_store.py
        Manifest.from_file(content)


@pytest.mark.parametrize("extra", [b" ", b"\n", b"\0", b"{}"])
def test_trailing_bytes_are_rejected(extra: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the store words it; see test_store.py
        Manifest.from_file(manifest().to_file() + extra)


def test_a_duplicate_key_is_rejected() -> None:
    content = manifest().to_file().replace(b'"name": ', b'"name": "x",\n "name": ', 1)

    with pytest.raises(ValueError, match="does not match its digest"):
        Manifest.from_file(content)


def test_published_shares_are_smoothed_and_counts_are_not() -> None:
    reference = ReferenceFit(class_counts=(3, 1, 0))

    assert reference.samples == 4
    assert reference.class_fraction == pytest.approx((3.1 / 4.3, 1.1 / 4.3, 0.1 / 4.3))
