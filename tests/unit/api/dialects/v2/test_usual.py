"""The fast answer to the usual request is the answer that every other request gets."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.api.dialects.v2.model import ModelName
from tidegate.service.api.dialects.v2.request import Infer, all_outputs
from tidegate.service.api.dialects.v2.response import render, tensors
from tidegate.service.api.dialects.v2.usual import render_usual
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.deciding import Prediction
from tidegate.service.observing import Observation
from tidegate.service.ood.gates import Verdict
from tidegate.service.pipeline import Classification, Timing
from tidegate.service.types import ENERGY, MAHALANOBIS, Decision

MODELS = [ModelName("100% é", "100% é", takes_pixels=False), ModelName("m.pixels", "m", True)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(put(tmp_path_factory.mktemp("bundle"), sound_files()))


def answer(bundle: Bundle, decision: Decision) -> Classification:
    classes = bundle.manifest.task.classes
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes))
    best = int(probabilities.argmax())
    return Classification(
        predictions=(Prediction(best, "käfer", float(probabilities[best])),),
        probabilities=probabilities,
        verdict=Verdict(decision, 0.3, 50.0, {ENERGY: 0.1, MAHALANOBIS: 0.2}, 100),
        scores={ENERGY: 1.0, MAHALANOBIS: 2.0},
        nearest_class=1,
        timing=Timing(0, 0, 0, 0, 0),
        batch_size=1,
        observation=cast("Observation", None),
    )


@pytest.mark.parametrize("model", MODELS, ids=["images", "pixels"])
@pytest.mark.parametrize("decision", ["accept", "review", "reject"])
def test_it_is_byte_for_byte_the_same(bundle: Bundle, model: ModelName, decision: Decision) -> None:
    results = [answer(bundle, decision)]
    asked = Infer([b"x"], (), all_outputs(model.outputs, binary=True))

    fast = render_usual(asked, model, "1", results)
    usual = render(asked, model.given, "1", tensors(results, asked, bundle))

    assert fast is not None
    assert bytes(fast.body) == bytes(usual.body)
    assert fast.raw_headers == usual.raw_headers


def test_other_requests_are_not_of_this_kind(bundle: Bundle) -> None:
    model, result = MODELS[0], answer(bundle, "accept")
    usual = Infer([b"x"], (), all_outputs(model.outputs, binary=True))
    others = (
        replace(usual, outputs=all_outputs(model.outputs, binary=False)),
        replace(usual, outputs=list(usual.outputs)[:1]),
        replace(usual, top_k=3),
        replace(usual, id=""),
    )

    assert [render_usual(one, model, "1", [result]) for one in others] == [None] * len(others)
    assert render_usual(usual, model, "1", [result] * 2) is None
