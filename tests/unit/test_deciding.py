"""What a bundle makes of outputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tidegate.service.deciding import Decided, best, softmax
from tidegate.service.types import Outputs


@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_the_class_that_is_judged_leads_the_predictions_among_equals(top_k: int) -> None:
    logits = np.zeros((1, 9), np.float32)
    bundle: Any = SimpleNamespace(labels=tuple("abcdefghi"))
    nothing: Any = None
    probabilities = softmax(logits[0], 1.0)
    decided = Decided(int(probabilities.argmax()), probabilities, nothing)

    predictions = best(bundle, decided, Outputs(logits, nothing, nothing, nothing), top_k)

    assert len(predictions) == top_k
    assert predictions[0].class_id == decided.class_id
