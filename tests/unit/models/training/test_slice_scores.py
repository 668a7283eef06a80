"""How good the network is on the slice that chooses the epoch."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.training.slice_scores import score

RNG = np.random.default_rng(0)
CLASS_IDS = np.repeat(np.arange(3), (60, 30, 10))
LOGITS = (RNG.normal(size=(100, 3)) + 1.5 * np.eye(3)[CLASS_IDS]).astype(np.float32)


def test_accuracies_are_those_of_the_largest_logit() -> None:
    found = score(LOGITS, CLASS_IDS, balanced=False)

    right = LOGITS.argmax(axis=1) == CLASS_IDS
    assert found.accuracy == right.mean()
    recalls = [right[c == CLASS_IDS].mean() for c in range(3)]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("factor", [0.3, 1, 7])
def test_confidence_alone_does_not_change_the_nll(factor: float) -> None:
    plain = score(LOGITS, CLASS_IDS, balanced=False).nll

    assert score(LOGITS * np.float32(factor), CLASS_IDS, balanced=False).nll == pytest.approx(
        plain, rel=1e-4
    )


def test_the_nll_is_not_above_that_of_any_temperature() -> None:
    def nll(temperature: float) -> float:
        z = LOGITS / temperature
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return float(-np.log(p[np.arange(100), CLASS_IDS]).mean())

    best = min(map(nll, np.geomspace(0.05, 20, 2000)))
    assert score(LOGITS, CLASS_IDS, balanced=False).nll == pytest.approx(best, abs=1e-5)


def test_classes_count_equally_if_that_is_wanted() -> None:
    rare_is_wrong = np.eye(3, dtype=np.float32)[np.where(CLASS_IDS == 2, 0, CLASS_IDS)]

    natural = score(rare_is_wrong, CLASS_IDS, balanced=False).nll
    assert score(rare_is_wrong, CLASS_IDS, balanced=True).nll > natural + 0.2


def test_a_class_without_images_in_the_slice_does_not_count() -> None:
    right = LOGITS.argmax(axis=1) == CLASS_IDS
    recalls = [right[c == CLASS_IDS].mean() for c in range(2)]

    found = score(LOGITS[:90], CLASS_IDS[:90], balanced=True)

    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))


def test_a_training_that_diverged_says_so() -> None:
    with pytest.raises(BuildRefused, match="the training diverged"):
        score(np.full((100, 3), np.nan, np.float32), CLASS_IDS, balanced=False)
