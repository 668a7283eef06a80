"""What a bundle makes of outputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tidegate.service.deciding import (
    Decided,
    best,
    largest,
    largest_by_numpy,
    softmax,
    softmax_by_numpy,
)
from tidegate.service.types import Float32

logits = npst.arrays(
    np.float32,
    st.integers(1, 1500),
    elements=st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1e-20, 2e-20, 7.5]),
)


@pytest.mark.lengthy
@given(logits=logits, temperature=st.floats(0.05, 20.0), top_k=st.integers(1, 40))
@settings(deadline=None)
def test_the_class_that_is_judged_leads_the_most_probable_ones(
    logits: Float32, temperature: float, top_k: int
) -> None:
    class_id, probabilities = softmax(logits, temperature)
    count = min(top_k, len(logits))

    chosen = largest(probabilities, count)

    assert chosen[0] == class_id
    everything = sorted(range(len(logits)), key=lambda c: (-probabilities[c], c))
    assert chosen == everything[:count] == largest_by_numpy(probabilities, count)


@pytest.mark.lengthy
@given(logits=logits, temperature=st.floats(0.05, 20.0))
@settings(deadline=None)
def test_the_compiled_softmax_is_numpys(logits: Float32, temperature: float) -> None:
    _softmax = pytest.importorskip("tidegate.service._softmax", reason="built without a compiler")
    made = np.empty(len(logits))
    by_numpy = softmax_by_numpy(logits, temperature)[1]

    class_id = _softmax.softmax(logits, temperature, made)

    np.testing.assert_allclose(made, by_numpy, rtol=1e-13, atol=1e-300)
    assert class_id == int(made.argmax())


def test_buffers_that_do_not_match_are_rejected() -> None:
    _softmax = pytest.importorskip("tidegate.service._softmax", reason="built without a compiler")
    three, four = np.zeros(3, np.float32), np.zeros(4)

    for given_, out in ((three, four), (three[:0], four[:0]), (four, four)):
        with pytest.raises(ValueError, match="same number"):
            _softmax.softmax(given_, 1.0, out)
    for count in (0, 5):
        with pytest.raises(ValueError, match="count must be"):
            _softmax.largest(four, count)


def test_predictions_have_labels_and_probabilities() -> None:
    bundle: Any = SimpleNamespace(labels=("a", "b", "c"))
    nothing: Any = None
    class_id, probabilities = softmax(np.array([0.0, 2.0, 1.0], np.float32), 1.0)

    predictions = best(bundle, Decided(class_id, probabilities, nothing), 2)

    assert [(p.class_id, p.label) for p in predictions] == [(1, "b"), (2, "c")]
    assert predictions[0].probability == pytest.approx(0.66524, abs=1e-5)
