"""A whole set: silent if nothing changed, and what moved is named."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.service.drift.embedding import Embedding
from tidegate.service.drift.recent_images import P_EDGES
from tidegate.service.drift.reference import Bins, Reference
from tidegate.service.drift.whole_set import (
    FALSE_REPORTS,
    Effects,
    ImageSet,
    SetFeatures,
    SetReport,
    compare,
    reach,
)

CLASSES, WIDTH, REFERENCE, CALIBRATION = 20, 8, 1_000, 400
ALPHA = 0.01


class World:
    """A random reference and calibration, and sets of images to compare with them."""

    def __init__(self, seed: int, classes: int = CLASSES) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.shares = rng.dirichlet(np.full(classes, 0.5))
        brightness = np.sort(rng.normal(size=REFERENCE))
        edges = brightness[np.arange(1, 10) * REFERENCE // 10]
        self.calibration = np.sort(rng.random(CALIBRATION))
        self.reference = Reference(
            class_counts=rng.multinomial(REFERENCE, self.shares),
            alpha_reject=ALPHA,
            calibration_samples=CALIBRATION,
            histograms={"brightness": Bins(edges, _binned(brightness, edges))},
            confusion=None,
            embedding=Embedding(
                rng.normal(size=(REFERENCE, WIDTH)).mean(axis=0), np.eye(WIDTH), REFERENCE
            ),
        )

    def draw(
        self,
        images: int,
        shares: NDArray[np.float64] | None = None,
        darker: float = 0.0,
        moved: float = 0.0,
        rejected: float = 0.0,
        repeats: int = 1,
    ) -> ImageSet:
        """Return a set of so many images, each of them `repeats` times."""
        rng = self.rng
        scores = np.maximum(rng.random(images), rng.random(images) < rejected)
        above = CALIBRATION - self.calibration.searchsorted(scores)
        p_values = (1 + above) / (CALIBRATION + 1)
        answered = int((p_values > ALPHA).sum())
        edges = self.reference.histograms["brightness"].edges
        counts = np.bincount(P_EDGES.searchsorted(p_values), minlength=10)
        return ImageSet(
            rejected=repeats * (images - answered),
            classes=repeats * rng.multinomial(answered, self.shares if shares is None else shares),
            p_values=repeats * counts,
            histograms={"brightness": repeats * _binned(rng.normal(size=images) - darker, edges)},
            features=SetFeatures(
                repeats * images,
                moved + rng.normal(size=WIDTH) / np.sqrt(images),  # the mean of so many
            ),
        )

    def compare(self, found: ImageSet, effect: float = 1.0) -> SetReport:
        return compare(found, self.reference, Effects(effect, effect, effect))


def _binned(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(edges.searchsorted(values, "right"), minlength=len(edges) + 1)


@pytest.mark.lengthy
@pytest.mark.parametrize(("images", "classes"), [(30, 20), (300, 1_000), (3_000, 20), (10_000, 5)])
def test_an_unshifted_set_is_silent_at_the_declared_rate(images: int, classes: int) -> None:
    draws = 150
    worlds = (World(seed, classes) for seed in range(draws))

    false = [found for world in worlds if (found := world.compare(world.draw(images)).alarms)]

    assert len(false) <= FALSE_REPORTS * draws, false


@pytest.mark.parametrize("images", [300, 3_000])
def test_sets_in_runs_are_silent_if_the_runs_are_taken_into_account(images: int) -> None:
    worlds = [World(seed) for seed in range(50)]
    sets = [world.draw(images // 10, repeats=10) for world in worlds]

    in_runs = [
        bool(world.compare(found, effect=10.0).alarms)
        for world, found in zip(worlds, sets, strict=True)
    ]
    independent = [
        bool(world.compare(found).alarms) for world, found in zip(worlds, sets, strict=True)
    ]

    assert sum(in_runs) <= 1
    assert sum(independent) > 5  # the effect is what makes them silent


@pytest.mark.parametrize(
    ("shift", "names"),
    [
        ({"darker": 1.0}, {"brightness"}),
        ({"moved": 0.5}, {"embedding"}),
        ({"rejected": 0.2}, {"rejected-share", "p-value"}),
    ],
)
def test_what_moved_is_named_and_nothing_else(shift: dict[str, float], names: set[str]) -> None:
    world = World(0)

    assert world.compare(world.draw(1_000, **shift)).alarms == names  # type: ignore[arg-type]  # no shares


def test_the_classes_whose_shares_changed_are_named_the_most_evident_first() -> None:
    world = World(1)
    shares = world.shares.copy()
    grown, gone = np.argsort(shares)[[10, -1]]
    shares[grown] += shares[gone]
    shares[gone] = 0.0

    report = world.compare(world.draw(2_000, shares=shares))

    assert report.alarms == {"class-share"}
    assert set(report.classes.moved.tolist()) == {grown, gone}


def test_a_small_change_is_not_named_however_large_the_set() -> None:
    world = World(2)
    shares = world.shares * np.where(np.arange(CLASSES) % 2, 1.2, 0.85)

    report = world.compare(world.draw(1_000_000, shares=shares / shares.sum()))

    assert "class-share" not in report.alarms


def test_the_reach_is_what_would_be_named() -> None:
    world = World(3)
    found = world.draw(2_000)
    seen = reach(found.images, world.reference, Effects()).rejected
    assert seen is not None

    def alarms(share: float) -> frozenset[str]:
        rejected = round(share * found.images)
        return world.compare(
            ImageSet(rejected, found.classes * 0 + 100, found.p_values, {}, None)
        ).alarms

    assert "rejected-share" in alarms(1.1 * seen)
    assert "rejected-share" not in alarms(0.8 * seen)
    assert reach(3, world.reference, Effects()).tripled == 0
    assert reach(0, world.reference, Effects()).rejected is None


def test_an_empty_set_differs_in_nothing() -> None:
    world = World(4)
    nothing = ImageSet(
        0, np.zeros(CLASSES, np.int64), np.zeros(10, np.int64),
        {"brightness": np.zeros(10, np.int64)}, None,
    )  # fmt: skip

    assert world.compare(nothing).alarms == frozenset()


@pytest.mark.parametrize("value", [4 / 3, 0.050176])
def test_a_value_that_all_images_have_falls_into_the_bin_of_the_reference(value: float) -> None:
    edge = float(f"{np.float32(value):.9g}")  # as a manifest has it
    reference = Bins(np.array([edge / 2, edge, edge * 2]), np.array([0, 0, 100, 0]))

    assert reference.places(np.full(3, value)).tolist() == [2, 2, 2]
