"""A monitor's report on unchanged traffic, on changed traffic, and after a restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from tests.server import PHOTOS
from tests.unit.drift.month import Traffic, World
from tidegate.models.fitting.feature_axes import embedding_fit
from tidegate.service.drift import state
from tidegate.service.drift.embedding import Embedding, RecentMean, embedding_shift
from tidegate.service.drift.histograms import Recent, shift
from tidegate.service.drift.images import Images
from tidegate.service.drift.label_shift import label_shift
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift.reference import Bins, Reference
from tidegate.service.drift.sequential import rate_limit
from tidegate.service.imaging.statistics import input_statistics
from tidegate.service.types import Pixels

CLASSES, WIDTH = 10, 8
START = 1_767_571_200.0  # a Monday


def reference(classes: int = CLASSES) -> Reference:
    deciles = np.linspace(0.1, 0.9, 9)
    flat = np.full(10, 400)
    return Reference(
        class_counts=np.full(classes, 4000 // classes),
        alpha_reject=0.01,
        calibration_samples=1999,
        histograms={name: Bins(deciles, flat) for name in ("confidence", "brightness", "energy")},
        confusion=np.eye(classes, dtype=np.int64) * 95 + 1,
        embedding=Embedding(np.zeros(WIDTH), np.eye(WIDTH), 4000),
    )


def feed(
    monitor: Monitor,
    images: int,
    seed: int = 0,
    brightness: float = 0.0,
    p_power: float = 1.0,
    moved: float = 0.0,
    inputs: bool = True,
) -> None:
    """Feed images at 600 an hour."""
    rng = np.random.default_rng(seed)
    classes, confidences = rng.integers(0, CLASSES, images), rng.random(images)
    p_values = rng.random(images) ** p_power
    start = START + 6 * monitor.report().images
    for image, (c, confidence, p) in enumerate(
        zip(classes.tolist(), confidences.tolist(), p_values.tolist(), strict=True)
    ):
        features = rng.standard_normal(WIDTH, np.float32) + np.float32(moved)
        monitor.observe(c, confidence, p, features, rejected=p <= 0.01, time=start + 6 * image)
        if inputs:
            monitor.observe_inputs({"brightness": min(1.0, rng.random() + brightness), "blur": 3.0})


@pytest.mark.lengthy
def test_unchanged_traffic_causes_no_alarm() -> None:
    monitor = Monitor(reference())

    feed(monitor, 20_000)
    report = monitor.report()

    assert report.alarms == frozenset()
    assert report.images == 20_000
    assert set(report.histograms) == {"p-value", "confidence", "brightness"}
    assert report.expected_accuracy == pytest.approx(0.5, abs=0.03)


def in_runs(images: int, run: int, start: float, seed: int = 0) -> Images:
    """Return images of which `run` in a row are alike, at 600 an hour."""
    rng = np.random.default_rng(seed)
    p_values = rng.random(images // run).repeat(run)
    return Images(
        np.linspace(start, start + 6.0 * (images - 1), images),
        rng.integers(0, CLASSES, images // run).repeat(run),
        np.full(images, 0.5),
        p_values,
        p_values <= 0.01,
    )


@pytest.mark.lengthy
def test_an_alarm_of_images_that_begin_to_come_in_runs_ends() -> None:
    monitor = Monitor(reference())

    monitor.observe_all(in_runs(15_000, 1, START))
    alarmed = []
    for number in range(500):  # as many at a time as when serving
        images = in_runs(120, 10, START + 6 * 15_000 + 720 * number, seed=number)
        monitor.observe_all(images)
        alarmed.append(monitor.mix.alarm.on)

    assert any(alarmed)
    assert not any(alarmed[-50:])
    assert monitor.report().learned.class_design_effect > 5


@pytest.mark.lengthy
@pytest.mark.parametrize(("run", "least", "most"), [(1, 1.0, 1.2), (5, 4.0, 10.0)])
@pytest.mark.parametrize("rare", [0.01, 0.02])
def test_the_design_effect_is_known_although_one_class_dominates(
    rare: float, run: int, least: float, most: float
) -> None:
    """Few images show it: it is an upper limit, and wider for signals that are hardly ever 1."""
    counts = np.array([5000 - int(5000 * rare), int(5000 * rare)])
    for seed in range(4):
        monitor = Monitor(replace(reference(2), class_counts=counts, confusion=None))
        images, rng = 12_000, np.random.default_rng(seed)
        classes = (rng.random(images // run) < rare).astype(np.int64).repeat(run)
        times = START + 6 * np.arange(images, dtype=np.float64)
        p_values = rng.uniform(0.011, 1, images)
        answered = Images(times, classes, p_values, p_values, p_values < 0)
        monitor.observe_all(answered)

        assert least <= monitor.class_design_effect <= most


@pytest.mark.lengthy
@pytest.mark.parametrize("days", [2, 9])
def test_a_rate_near_its_limit_may_swing_by_half(days: int) -> None:
    """As in one of ten simulated months, which alarmed at the same hour of many days."""
    world = World(Traffic("swings", daily=0.5), np.random.default_rng(0))
    world.rate = 0.9 * rate_limit(0.01, 1000)
    monitor = Monitor(world.reference)
    for hour in range(24 * days + 7):
        monitor.observe_all(world.hour(hour, 600))

    assert monitor.ood.limit > 1.3 * world.rate


def test_a_rate_that_a_day_of_drift_has_raised_does_not_widen_its_limit() -> None:
    world = World(Traffic("drift"), np.random.default_rng(0))
    monitor = Monitor(world.reference)
    for hour in range(40):
        monitor.observe_all(world.hour(hour, 600, rate=0.2))

    assert monitor.ood.limit <= 1.5 * rate_limit(0.01, 1000)


def test_an_image_from_a_clock_that_was_ahead_does_not_stop_the_comparisons() -> None:
    monitor = Monitor(reference())
    monitor.observe_all(in_runs(6_000, 1, START))
    monitor.observe_all(in_runs(1, 1, START + 30 * 86_400))

    monitor.observe_all(in_runs(6_000, 1, START + 6 * 6_000))

    assert monitor.report().reach.window_images > 5_000


def test_a_brighter_camera_is_detected_from_its_inputs_only() -> None:
    monitor = Monitor(reference())
    feed(monitor, 2000)

    feed(monitor, 600, seed=1, brightness=0.2)

    assert monitor.report().alarms == {"brightness"}


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda image: ImageEnhance.Brightness(image).enhance(0.6), "brightness"),
        (lambda image: image.filter(ImageFilter.GaussianBlur(1.5)), "blur"),
    ],
    ids=["darker", "out of focus"],
)
def test_a_changed_camera_is_detected_in_its_photographs(
    change: Callable[[Image.Image], Image.Image], seen: str
) -> None:
    """Crops of one photograph: 300 as reference, 300 unchanged, 300 changed."""
    with Image.open(PHOTOS / "chelsea.png") as image:
        photo = image.convert("RGB")
    rng = np.random.default_rng(4)

    def looks(change: Callable[[Image.Image], Image.Image]) -> list[float]:
        found = []
        for _ in range(300):
            left, top = int(rng.integers(photo.width - 96)), int(rng.integers(photo.height - 96))
            cut = change(photo.crop((left, top, left + 96, top + 96)))
            statistics = input_statistics(Pixels(np.asarray(cut)), "rgb")
            found.append(float(getattr(statistics, seen)))
        return found

    usual = looks(lambda cut: cut)
    edges = np.quantile(usual, np.linspace(0, 1, 11)[1:-1])
    counts = np.bincount(edges.searchsorted(usual, "right"), minlength=10)
    monitor = Monitor(replace(reference(), histograms={seen: Bins(edges, counts)}))
    feed(monitor, 4200, inputs=False)  # independent images: the design effect is 1

    for value in looks(lambda cut: cut):
        monitor.observe_inputs({seen: value})
    assert not monitor.report().alarms

    for value in looks(change):
        monitor.observe_inputs({seen: value})
    assert monitor.report().alarms == {seen}


def test_moved_features_are_detected_although_classes_and_confidences_are_unchanged() -> None:
    monitor = Monitor(reference())
    feed(monitor, 2000)

    feed(monitor, 2000, seed=1, moved=0.3)

    report = monitor.report()
    assert report.alarms == {"embedding"}
    assert report.embedding is not None
    assert report.embedding.images > 1900
    assert report.embedding.shift.distance == pytest.approx(0.3 * WIDTH**0.5, abs=0.05)


def test_without_an_embedding_reference_the_features_are_not_monitored() -> None:
    monitor = Monitor(replace(reference(), embedding=None))

    feed(monitor, 100, moved=9.0)

    assert monitor.report().embedding is None


def test_ood_images_are_detected_by_rate_and_p_values() -> None:
    monitor = Monitor(reference())

    feed(monitor, 2000, p_power=3.0)

    assert monitor.report().alarms == {"ood-rate", "p-value", "rejected-share"}


def test_a_saved_state_continues_in_another_monitor(tmp_path: Path) -> None:
    kept = Monitor(reference())
    feed(kept, 700, p_power=3.0)
    state.save(tmp_path / "drift", kept.state(), "d1")
    resumed = Monitor(reference())

    assert state.load(tmp_path / "drift", resumed, "d1") == ""
    feed(kept, 300, seed=5)
    feed(resumed, 300, seed=5)

    assert repr(resumed.report()) == repr(kept.report())
    assert [path.name for path in tmp_path.iterdir()] == ["drift"]


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04damaged"])
def test_a_damaged_state_is_not_restored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "drift").write_bytes(content)

    assert "cannot be read" in state.load(tmp_path / "drift", Monitor(reference()), "d1")


@pytest.mark.lengthy
def test_an_alarm_of_single_classes_survives_a_restart() -> None:
    kept = Monitor(reference())
    rng = np.random.default_rng(0)
    for hour in range(48):
        classes = np.where(rng.random(600) < 0.3, 0, rng.integers(0, CLASSES, 600))
        kept.observe_all(
            Images(
                np.asarray(START + 3600 * hour + 6.0 * np.arange(600), np.float64),
                classes,
                rng.random(600),
                rng.random(600),
                np.zeros(600, bool),
            )
        )
    resumed = Monitor(reference())
    resumed.restore(kept.state())

    assert {"class-mix", "class-share"} <= resumed.report().alarms
    assert resumed.report().alarms == kept.report().alarms


def test_a_state_of_another_bundle_or_shape_is_not_restored(tmp_path: Path) -> None:
    state.save(tmp_path / "drift", Monitor(reference()).state(), "d1")

    assert "another bundle" in state.load(tmp_path / "drift", Monitor(reference()), "d2")
    assert "another shape" in state.load(tmp_path / "drift", Monitor(reference(7)), "d1")
    assert "no state file" in state.load(tmp_path / "absent", Monitor(reference()), "d1")


@pytest.mark.lengthy
@pytest.mark.parametrize("bins", [10, 100, 1000])
def test_z_is_standard_normal_while_nothing_drifts(bins: int) -> None:
    rng = np.random.default_rng(bins)
    shares = rng.dirichlet(np.ones(bins))
    zs = []
    for _ in range(1500):
        expected, observed = rng.multinomial(20_000, shares), rng.multinomial(5_000, shares)
        zs.append(shift(observed, expected.astype(np.float64), 20_000).z)

    assert np.mean(zs) == pytest.approx(0, abs=0.1)
    assert np.std(zs) == pytest.approx(1, abs=0.1)


@pytest.mark.lengthy
def test_the_embedding_s_z_is_standard_normal_while_nothing_drifts() -> None:
    """Features have 40 dimensions; the reference's 300 images give 15 axes."""
    rng = np.random.default_rng(5)
    spread = np.diag(np.linspace(0.2, 3, 40)) @ np.linalg.qr(rng.standard_normal((40, 40)))[0]

    def z() -> float:
        draw = (rng.standard_normal((300, 40)) @ spread).astype(np.float32)
        recent = RecentMean(40, 2000)
        for row in (rng.standard_normal((500, 40)) @ spread).astype(np.float32):
            recent.add(row)
        return embedding_shift(recent, embedding_fit(draw)).z

    found = np.array([z() for _ in range(300)])

    # The axes are those along which this draw varies most, so the statistic is conservative.
    assert -0.5 < found.mean() < 0.1
    assert found.std() == pytest.approx(1, abs=0.15)
    assert found.max() < 4


def test_nothing_observed_is_no_shift() -> None:
    found = shift(np.zeros(3, np.int64), np.ones(3), 3)

    assert (found.z, found.psi_excess) == (0.0, 0.0)


def test_recent_drops_whole_blocks() -> None:
    recent = Recent(2, window=20, blocks=4)

    recent.add(np.zeros(40, np.int64))
    for _ in range(20):
        recent.add(np.ones(1, np.int64))

    assert recent.total.tolist() == [0, 20]


@pytest.mark.parametrize("at_once", [3, 5, 12, 20, 83, 200])
def test_recent_does_not_depend_on_how_many_images_come_at_once(at_once: int) -> None:
    places = np.random.default_rng(0).integers(0, 3, 200)
    one_by_one, recent = (Recent(3, window=20, blocks=4) for _ in range(2))

    for place in places:
        one_by_one.add(np.array([place]))
    for at in range(0, len(places), at_once):
        recent.add(places[at : at + at_once])

    assert recent.counts.tolist() == one_by_one.counts.tolist()
    assert recent.total.sum() == 20


def test_label_shift_is_distinguished_from_other_shift() -> None:
    rng = np.random.default_rng(0)
    seen_as = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]])
    confusion = np.array([rng.multinomial(1000, row) for row in seen_as])
    mix = np.array([0.1, 0.2, 0.7])

    moved = label_shift(rng.multinomial(2000, mix @ seen_as), confusion)
    impossible = label_shift(np.array([0, 0, 2000]), confusion)

    assert moved.fractions == pytest.approx(mix, abs=0.05)
    assert abs(moved.residual_z) < 3
    assert impossible.residual_z > 5


def test_a_class_without_labelled_images_and_no_predictions_have_an_estimate() -> None:
    confusion = np.array([[50, 0, 0], [0, 50, 0], [0, 0, 0]])

    assert label_shift(np.array([10, 10, 20]), confusion).fractions == pytest.approx(
        [0.25, 0.25, 0.5], abs=0.02
    )
    assert label_shift(np.zeros(3, np.int64), confusion).fractions == pytest.approx([1 / 3] * 3)
