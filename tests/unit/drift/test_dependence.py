"""The design effect of runs is learned, and that of independent images is soon 1."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.service.drift.dependence import MAX_DESIGN_EFFECT, Dependence

Floats = NDArray[np.float64]


def learned(signals: Floats, at_once: int = 1000) -> float:
    dependence = Dependence(signals.shape[1])
    for at in range(0, len(signals), at_once):
        dependence.add(signals[at : at + at_once])
    return dependence.design_effect()


def in_runs(run: int, images: int, seed: int, geometric: bool = False) -> Floats:
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / run, images) if geometric else np.full(images // run + 1, run)
    uniform = np.repeat(rng.random(len(lengths)), lengths)[:images]
    return np.asarray(((uniform - 0.5) * np.sqrt(12))[:, None])


@pytest.mark.parametrize(("images", "most"), [(1000, 1.35), (10_000, 1.05)])
def test_independent_images_soon_have_a_design_effect_near_1(images: int, most: float) -> None:
    found = [learned(in_runs(1, images, seed)) for seed in range(20)]

    assert np.median(found) <= most


@pytest.mark.parametrize("images", [1000, 10_000])
@pytest.mark.parametrize("run", [2, 5, 10, 30])
def test_runs_have_their_length(run: int, images: int) -> None:
    found = [learned(in_runs(run, images, seed)) for seed in range(20)]

    assert np.quantile(found, 0.1) >= 0.85 * run
    assert np.median(found) <= (3 if images < 4096 else 1.7) * run


def test_runs_of_varying_length_have_their_size_biased_mean() -> None:
    """E[k²]/E[k] of a geometric distribution of mean 5 is 9."""
    found = [learned(in_runs(5, 30_000, seed, geometric=True)) for seed in range(20)]

    assert np.median(found) == pytest.approx(9, rel=0.35)


def test_the_first_images_count_as_one_run() -> None:
    assert learned(np.zeros((5, 1))) == MAX_DESIGN_EFFECT
    assert learned(np.ones((200, 1))) == MAX_DESIGN_EFFECT


def test_a_slow_change_is_not_taken_for_dependence() -> None:
    level = 0.5 * np.sin(np.arange(60_000) / 14_400 * 2 * np.pi)[:, None]  # a day at 600 an hour

    assert learned(in_runs(1, 60_000, 0) + level) < 1.3


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_it_does_not_matter_how_many_images_come_at_once(at_once: int) -> None:
    signals = in_runs(5, 700, 1)

    assert learned(signals, at_once) == pytest.approx(learned(signals), rel=1e-9)


def test_a_restored_state_continues() -> None:
    signals = in_runs(5, 3000, 2)
    kept, resumed = Dependence(1), Dependence(1)
    kept.add(signals[:1001])
    resumed.restore(kept.state())
    for dependence in (kept, resumed):
        dependence.add(signals[1001:])

    assert resumed.design_effect() == kept.design_effect()
