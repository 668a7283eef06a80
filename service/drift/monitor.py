"""The drift monitors of one model's traffic. Not thread-safe, and without a clock.

There are three kinds. Sequential detectors may alarm after any image. Histograms of the last
images, and their mean features, alarm if the difference is both significant and large. Shares of
single classes are compared over 36 hours. All of them take into account how dependent the images
are, and each declares how rarely it alarms without a change. Rejected images count only towards
the rejection rate and the p-values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.alarm import LONGEST_HOLD, Alarm
from tidegate.service.drift.days import Baseline, Comparison, Days
from tidegate.service.drift.dependence import Dependence
from tidegate.service.drift.duplicates import Duplicates, Fingerprint
from tidegate.service.drift.embedding import EmbeddingShift, RecentMean, embedding_shift
from tidegate.service.drift.histograms import Recent, Shift, shift
from tidegate.service.drift.label_shift import LabelShift, label_shift
from tidegate.service.drift.reference import Reference
from tidegate.service.drift.sequential import (
    Evidence,
    MixDetector,
    RateDetector,
    rate_limit,
    share_limits,
)

RUN_LENGTH = 1_000_000  # images; a monitor's false alarms are at least so far apart on average
WINDOW = 2_000  # images
RATE_WINDOW = 200  # images, for a rejected share in words
INPUTS_WINDOW = 500  # images with measured input statistics
Z_LIMIT = 5.0
PSI_LIMIT = 0.1
DISTANCE_LIMIT = 0.5  # standard deviations of one image
INPUTS = (
    "brightness",
    "contrast",
    "blur",
    "megapixels",
    "aspect",
    "bytes_per_pixel",
    "mode",
)
MAX_WAITING_IMAGES = 128  # observed and not yet evaluated
_MOST_IMAGES = 2**53  # beyond it a float64 cannot represent every integer
_MOST_AT_ONCE = 1_000  # images between two comparisons of 36 hours, in its budget of false alarms
_LEARNED = (
    0.8  # of that budget is for the comparison with what was learned, once there is something
)
_FEWER = 0.1  # of a comparison's budget is for shares that shrink
_P_EDGES = np.linspace(0, 1, 11)[1:-1]
_SIGNALS = 8  # random signs per class, whose correlation is that of the classes
_LEAST_VARIANCE = 0.004  # of a sign: below, nearly all images have the same one
_SIGN_IMAGES = 4_096  # over which a sign's mean fades
_REACHED = (2.0, 5.0, 20.0)  # times alpha
_ALL = 1 - 1e-9  # a share's limit is below 1, because odds are computed

State = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class HistogramFinding:
    """A histogram of recent images compared with its reference."""

    images: int
    shift: Shift
    alarm: bool


@dataclass(frozen=True, slots=True)
class EmbeddingFinding:
    """The mean features of recent images compared with the reference."""

    images: int
    shift: EmbeddingShift
    alarm: bool


@dataclass(frozen=True, slots=True)
class ShareFinding:
    """Shares of the last 36 hours compared with the reference or with what was learned."""

    comparison: Comparison | None  # None before the first hour is over

    @property
    def evidence(self) -> float:
        """Return the evidence divided by what an alarm needs."""
        return 0.0 if self.comparison is None else self.comparison.evidence

    @property
    def alarm(self) -> bool:
        """Return whether a share has changed."""
        return self.comparison is not None and len(self.comparison.moved) > 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What the monitors have learned about ordinary traffic."""

    days: int
    ood_design_effect: float
    class_design_effect: float
    near_duplicates: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Changes that the monitors would notice, with the expected number of images; inf: never."""

    counted: int  # images that the detectors have seen
    rejections: tuple[tuple[float, float], ...]  # (share of rejected images, images)
    typical_class: int  # of the median share
    fifth: float  # images until a fifth of them in the typical class is noticed
    window_images: int  # in the last 36 hours
    tripled: int  # classes whose tripled share the window would show


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all monitors at one moment."""

    images: int  # observed since the state was created
    detectors: Mapping[str, Evidence]  # ood-rate, class-mix
    alarm_states: Mapping[str, Alarm]  # of the detectors
    shares: Mapping[str, ShareFinding]  # rejected-share, class-share
    histograms: Mapping[str, HistogramFinding]  # p-value, confidence, brightness, …
    embedding: EmbeddingFinding | None  # None if the bundle has no embedding reference
    label_shift: LabelShift | None  # None without a sealed confusion matrix
    expected_accuracy: float | None  # an estimate: the mean probability of the predicted classes
    recent_classes: NDArray[np.int64]  # counts of the last predictions, [classes]
    recent_rejected: tuple[int, int]  # (rejected, all) of the last images
    reference_counts: NDArray[np.int64]  # [classes]
    rate_limit: float  # the highest usual share of rejected images
    run_length: float
    learned: Learned
    reach: Reach

    @property
    def alarms(self) -> frozenset[str]:
        """Return the names of the monitors that alarm."""
        alarms = {name for name, found in self.detectors.items() if found.alarm}
        alarms |= {name for name, share in self.shares.items() if share.alarm}
        alarms |= {name for name, compared in self.histograms.items() if compared.alarm}
        if self.embedding is not None and self.embedding.alarm:
            alarms.add("embedding")
        return frozenset(alarms)


@dataclass(frozen=True, slots=True)
class Images:
    """Answered and rejected images in the order of their answers, [n] each."""

    times: NDArray[np.float64]  # Unix times
    classes: NDArray[np.int64]
    confidences: NDArray[np.float64]
    p_values: NDArray[np.float64]
    rejected: NDArray[np.bool_]


class Monitor:
    """Compares one model's answers with its calibration."""

    def __init__(self, reference: Reference, run_length: float = RUN_LENGTH) -> None:
        self.reference = reference
        self._run_length = run_length
        classes = len(reference.class_counts)
        self._rate_limit = rate_limit(reference.alpha_reject, reference.calibration_samples)
        self._lower, self._upper = share_limits(reference.class_counts)
        self.ood = RateDetector(self._rate_limit, run_length)
        self.mix = MixDetector(self._lower, self._upper, run_length)
        self._rejected_days, self._class_days = Days(1), Days(classes)
        n, counts = reference.calibration_samples, reference.class_counts
        self._sealed = {
            "rejected-share": Baseline(np.array([reference.alpha_reject * n]), float(n)),
            "class-share": Baseline(counts.astype(np.float64), float(counts.sum())),
        }
        self._shares = {name: ShareFinding(None) for name in self._sealed}
        self._share_alarms = dict.fromkeys(self._sealed, False)
        self._signs = np.random.default_rng(0).choice([-1.0, 1.0], (classes, _SIGNALS))
        self._sign_means = np.zeros(_SIGNALS)
        self._sign_images = 0
        self._p_dependence, self._class_dependence = Dependence(1), Dependence(_SIGNALS)
        self._duplicates = Duplicates()
        self._near_duplicates = 0
        self._alarmed_images = 0  # since both detectors were quiet, in this process
        self._hour = 0  # of the last image, since 1970
        self._predicted = Recent(classes, WINDOW)
        self._rejections = Recent(2, RATE_WINDOW)
        self._p_values = Recent(len(_P_EDGES) + 1, WINDOW)
        self._binned = {
            name: Recent(len(bins.counts), INPUTS_WINDOW if name in INPUTS else WINDOW)
            for name, bins in reference.histograms.items()
            if name in (*INPUTS, "confidence")
        }
        width = 0 if reference.embedding is None else len(reference.embedding.mean)
        self._features = RecentMean(width, WINDOW)  # width 0 without a reference
        self._images = 0
        self._counted = 0  # without near-duplicates
        self._compared = 0  # counted images when the shares were last compared
        self._new_images = 0  # in the hour before that
        self._confidence = 0.0  # mean probability of the last images' predicted classes
        self._answered = 0
        self._waiting: list[tuple[float, int, float, float, bool]] = []
        self.ood_design_effect = self.class_design_effect = 1.0
        self._reach_of, self._tripled = (-2, 1.0, 1.0), 0
        self._nulls = (-1, 1.0, 1.0)  # hour and design effects for which the detectors are set
        self._usual = (self._rejected_days.profile(0, 1.0), self._class_days.profile(0, 1.0))
        self._set_nulls()

    @property
    def watches_inputs(self) -> bool:
        """Return whether the bundle contains a reference for input statistics."""
        return any(name in self._binned for name in INPUTS)

    def observe(
        self,
        class_id: int,
        confidence: float,
        p_value: float,
        features: NDArray[np.float32],
        *,
        rejected: bool,
        time: float,
        client: str = "",
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Add one answered or rejected image; `features` are [D].

        A near-duplicate of an image that was just counted is not counted again.
        """
        self._images += 1
        if fingerprint is not None and not self._duplicates.is_new(fingerprint, client, time):
            self._near_duplicates += 1
            return
        if self.reference.embedding is not None and not rejected:
            self._features.add(features)
        self._waiting.append((time, class_id, confidence, p_value, rejected))
        if len(self._waiting) >= MAX_WAITING_IMAGES:
            self._evaluate_waiting()

    def observe_all(self, images: Images) -> None:
        """Add images that are no near-duplicates, without features."""
        self._evaluate_waiting()
        self._images += len(images.times)
        self._evaluate(images)

    def observe_inputs(self, values: Mapping[str, float]) -> None:
        """Add the statistics of one image, by the names in INPUTS."""
        for name, value in values.items():
            self._count(name, np.array([value]))

    def report(self) -> Report:
        """Compute the current results. Takes some milliseconds."""
        self._evaluate_waiting()
        reference = self.reference
        histograms = {"p-value": self._of_p_values()}
        for name, recent in self._binned.items():
            counts = reference.histograms[name].counts
            histograms[name] = _finding(
                recent, counts.astype(np.float64), float(counts.sum()), self.class_design_effect
            )
        predicted = self._predicted.total
        return Report(
            images=self._images,
            detectors={"ood-rate": self.ood.evidence, "class-mix": self.mix.evidence},
            alarm_states={"ood-rate": self.ood.alarm, "class-mix": self.mix.alarm},
            shares=dict(self._shares),
            histograms=histograms,
            embedding=self._of_features(),
            label_shift=(
                None if reference.confusion is None else label_shift(predicted, reference.confusion)
            ),
            expected_accuracy=self._confidence if self._answered else None,
            recent_classes=predicted,
            recent_rejected=(int(self._rejections.total[1]), int(self._rejections.total.sum())),
            reference_counts=reference.class_counts,
            rate_limit=self.ood.limit,
            run_length=self._run_length,
            reach=self._reach(),
            learned=Learned(
                self._rejected_days.learned_days,
                self.ood_design_effect,
                self.class_design_effect,
                self._near_duplicates,
            ),
        )

    def _reach(self) -> Reach:
        counts = self.reference.class_counts
        typical = int(np.argsort(counts)[len(counts) // 2])
        alpha = self.reference.alpha_reject
        rates = [min(0.9, factor * alpha) for factor in _REACHED]
        if self._reach_of != self._nulls:  # 10,000 classes take milliseconds
            self._reach_of = self._nulls
            needed = self._needed("class-share", _LEARNED * (1 - _FEWER))
            self._tripled = self._class_days.visible(
                self._hour, 3.0, self._sealed["class-share"], self.class_design_effect, needed
            )
        return Reach(
            self._counted,
            tuple((rate, self.ood.delay(rate)) for rate in rates),
            typical,
            self.mix.delay(typical, min(0.99, 0.2 + 0.8 * counts[typical] / counts.sum())),
            self._class_days.window_images(self._hour),
            self._tripled,
        )

    def _evaluate_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            times, classes, confidences, p_values, rejected = zip(*waiting, strict=True)
            self._evaluate(
                Images(
                    np.array(times),
                    np.array(classes),
                    np.array(confidences),
                    np.array(p_values),
                    np.array(rejected),
                )
            )

    def _evaluate(self, images: Images) -> None:
        """Evaluate images hour by hour: what is usual depends on the hour."""
        hours = (images.times // 3600).astype(np.int64)
        if len(hours) and int(hours.max()) < self._hour - 1:  # the clock was ahead before
            self._hour = int(hours[0])
            for days in (self._rejected_days, self._class_days):
                days.forget_after(self._hour)
        hours = np.maximum(np.maximum.accumulate(hours), self._hour)
        for at in np.flatnonzero(np.diff(hours, prepend=-1)):
            same = slice(at, int(np.searchsorted(hours, hours[at], "right")))
            if hours[at] != self._hour:
                self._next_hour(int(hours[at]))
            self._evaluate_hour(
                Images(
                    images.times[same],
                    images.classes[same],
                    images.confidences[same],
                    images.p_values[same],
                    images.rejected[same],
                )
            )

    def _evaluate_hour(self, images: Images) -> None:
        answered = ~images.rejected
        classes, times = images.classes[answered], images.times[answered]
        # Learn first, so that a run is known to be one before its images are weighed. The begin of
        # an incident is no run, but an alarm that lasts may be one of images in runs.
        alarmed = self.ood.alarm.on or self.mix.alarm.on
        self._alarmed_images = self._alarmed_images + len(images.times) if alarmed else 0
        if not 0 < self._alarmed_images <= LONGEST_HOLD:
            self._p_dependence.add((images.p_values[:, None] - 0.5) * np.sqrt(12))
            self._class_dependence.add(self._class_signals(classes))
            self._set_nulls()
        self.ood.observe(images.rejected, images.times)
        self.mix.observe(classes, times)
        clean = not (
            self.ood.alarm.on
            or self.mix.alarm.on
            or any(share.alarm for share in self._shares.values())
        )
        counts = np.bincount(classes, minlength=len(self.reference.class_counts))
        hits = np.array([int(images.rejected.sum())])
        self._rejected_days.add(hits, len(images.times), self._hour, clean=clean)
        self._class_days.add(counts, len(classes), self._hour, clean=clean)
        self._p_values.add(_P_EDGES.searchsorted(images.p_values))  # a bin includes its upper edge
        self._rejections.add(images.rejected.astype(np.int64))
        self._predicted.add(classes)
        self._count("confidence", images.confidences[answered])
        for confidence in images.confidences[answered].tolist():
            self._answered += 1
            self._confidence += (confidence - self._confidence) / min(self._answered, WINDOW)
        self._counted += len(images.times)

    def _next_hour(self, hour: int) -> None:
        started, self._hour = self._hour > 0, hour
        if started:
            self._new_images, self._compared = self._counted - self._compared, self._counted
            self._compare_shares()
        self._set_nulls()

    def _set_nulls(self) -> None:
        """Adjust the detectors to the hour of the day and to the dependence of the images."""
        self.ood_design_effect = self._p_dependence.design_effect()
        self.class_design_effect = max(self._of_classes(), self.ood_design_effect)
        ood, mix = _rounded(self.ood_design_effect), _rounded(self.class_design_effect)
        if (self._hour, ood, mix) == self._nulls:
            return
        if self._hour != self._nulls[0]:
            self._usual = (
                self._rejected_days.profile(self._hour, ood),
                self._class_days.profile(self._hour, mix),
            )
        self._nulls = (self._hour, ood, mix)
        rejected, classes = self._usual
        usual = min(self._rejected_days.usual_share(self._hour), self._rate_limit)
        highest = max(self.reference.alpha_reject, usual) * float(rejected.highest[0])
        most = max(self._rate_limit, highest)
        self.ood.set_null(min(most, 0.5), ood)
        self.mix.set_null(
            self._lower * classes.lowest, np.minimum(self._upper * classes.highest, _ALL), mix
        )

    def _of_classes(self) -> float:
        """Return the design effect of the predicted classes."""
        variance = float(self._sign_variances.min())
        return self._class_dependence.design_effect(
            independent=min(_SIGNALS, len(self._signs) - 1), kurtosis=4 / variance - 6
        )

    def _class_signals(self, classes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return signals of mean 0 and variance 1 whose correlation is that of the classes."""
        signs = self._signs[classes]
        if len(signs):
            self._sign_images = min(self._sign_images + len(signs), _SIGN_IMAGES)
            weight = min(1.0, len(signs) / self._sign_images)
            self._sign_means += weight * (signs.mean(axis=0) - self._sign_means)
        return (signs - self._sign_means) / np.sqrt(self._sign_variances)

    @property
    def _sign_variances(self) -> NDArray[np.float64]:
        return np.maximum(1 - self._sign_means**2, _LEAST_VARIANCE)

    def _compare_shares(self) -> None:
        """Compare the last 36 hours with the calibration and with what was learned."""
        for name, days, effect in (
            ("rejected-share", self._rejected_days, self.ood_design_effect),
            ("class-share", self._class_days, self.class_design_effect),
        ):
            baselines = [(self._sealed[name], 1.0)]
            if days.learned:
                baselines = [(days.baseline(), _LEARNED), (self._sealed[name], 1 - _LEARNED)]
            fewer = _FEWER if name == "class-share" else 0.0
            found = [
                days.compare(
                    self._hour,
                    baseline,
                    effect,
                    self._needed(name, weight * (1 - fewer)),
                    self._needed(name, weight * fewer),
                    alarmed=self._share_alarms[name],
                )
                for baseline, weight in baselines
            ]
            best = max(found, key=lambda one: (len(one.moved) > 0, one.evidence))
            self._shares[name] = ShareFinding(best)
            self._share_alarms[name] = self._shares[name].alarm

    def _needed(self, name: str, weight: float) -> float:
        """Return the evidence that a column of 36 hours needs for an alarm.

        Each hour may spend its images over the run length, and a comparison `weight` of that.
        """
        if weight == 0:
            return math.inf
        columns = len(self._sealed[name].counts)
        new_images = min(max(self._new_images, 1), _MOST_AT_ONCE)
        return math.log(columns * self._run_length / (new_images * weight))

    def state(self) -> State:
        """Return the state as arrays, for `restore` in another process."""
        self._evaluate_waiting()
        recent = self._recent
        return {
            "totals": np.array(
                [
                    self._images,
                    self._counted,
                    self._compared,
                    self._new_images,
                    self._near_duplicates,
                    self._answered,
                    self._sign_images,
                    self._hour,
                ]
            ),
            "confidence": np.array(self._confidence),
            "share_alarms": np.array(list(self._share_alarms.values())),
            "sign_means": self._sign_means.copy(),
            "r.ood-rate": self.ood.r.copy(),
            "r.class-mix": self.mix.r.copy(),
            "alarm.ood-rate": self.ood.alarm.state(),
            "alarm.class-mix": self.mix.alarm.state(),
            **{
                f"{name}.{field}": array
                for name, part in self._learning.items()
                for field, array in part.state().items()
            },
            **{f"recent.{name}": counted.counts.copy() for name, counted in recent.items()},
            "features.counts": self._features.counts.copy(),
            "features.sums": self._features.sums.copy(),
        }

    @property
    def _recent(self) -> dict[str, Recent]:
        return {
            "predicted": self._predicted,
            "rejected": self._rejections,
            "p-value": self._p_values,
            **self._binned,
        }

    @property
    def _learning(self) -> dict[str, Days | Dependence]:
        return {
            "rejected_days": self._rejected_days,
            "class_days": self._class_days,
            "p_dependence": self._p_dependence,
            "class_dependence": self._class_dependence,
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the state of a monitor with the same reference.

        Raises KeyError or ValueError if the state does not fit; then the monitor is unchanged.
        """
        mine = self.state()
        given = {name: np.asarray(state[name]) for name in mine}
        for name, array in mine.items():
            if given[name].shape != array.shape or given[name].dtype != array.dtype:
                raise ValueError(f"{name} has another shape or type")
        self._refuse_unsound(given)
        (
            self._images,
            self._counted,
            self._compared,
            self._new_images,
            self._near_duplicates,
            self._answered,
            self._sign_images,
            self._hour,
        ) = given["totals"].tolist()
        self._confidence = float(given["confidence"])
        self._sign_means[:] = given["sign_means"]
        self.ood.r[...] = given["r.ood-rate"]
        self.mix.r[...] = given["r.class-mix"]
        self.ood.alarm.restore(given["alarm.ood-rate"].astype(np.float64))
        self.mix.alarm.restore(given["alarm.class-mix"].astype(np.float64))
        for name, part in self._learning.items():
            fields = part.state()
            part.restore({field: given[f"{name}.{field}"] for field in fields})
        for name, counted in self._recent.items():
            counted.restore(given[f"recent.{name}"])
        self._features.restore(given["features.counts"], given["features.sums"])
        self._share_alarms = dict(zip(self._sealed, given["share_alarms"].tolist(), strict=True))
        self._set_nulls()
        if self._compared:
            self._compare_shares()

    def _refuse_unsound(self, given: State) -> None:
        """Raise ValueError if the values are impossible for a monitor."""
        for name, array in given.items():
            _refuse_impossible(name, array)
        images, counted, compared, _, _, answered, *_ = given["totals"].tolist()
        if not (answered <= counted <= images and compared <= counted):
            raise ValueError("totals must be counts of images and of parts of them")
        if float(given["confidence"]) > 1 or (np.abs(given["sign_means"].astype(float)) > 1).any():
            raise ValueError("a probability or a mean of signs is above 1")
        for name, recently in self._recent.items():
            recently.check(given[f"recent.{name}"])
        self._features.check(given["features.counts"])

    def _count(self, name: str, values: NDArray[np.float64]) -> None:
        if (recent := self._binned.get(name)) is not None:
            edges = self.reference.histograms[name].edges
            recent.add(edges.searchsorted(values, "right"))

    def _of_features(self) -> EmbeddingFinding | None:
        if self.reference.embedding is None:
            return None
        effect = self.class_design_effect
        found = embedding_shift(self._features, self.reference.embedding, effect)
        alarm = found.z > Z_LIMIT and found.distance > DISTANCE_LIMIT
        return EmbeddingFinding(self._features.images, found, alarm)

    def _of_p_values(self) -> HistogramFinding:
        """Compare p-values with calibration, where 1/(n + 1), 2/(n + 1), … are equally frequent."""
        n = self.reference.calibration_samples
        ranks = np.floor(np.concatenate([[0], _P_EDGES, [1]]) * (n + 1) + 1e-9)
        return _finding(self._p_values, np.diff(ranks), n + 1, self.ood_design_effect)


def _refuse_impossible(name: str, array: NDArray[np.generic]) -> None:
    """Raise ValueError if an array of a state has a value that a monitor's never has."""
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is not finite")
    low = 0.0
    if name.endswith((".recent_hour", ".day")):
        low = -1.0  # nothing was seen
    elif name.endswith((".waiting", ".last", "features.sums", "sign_means")):
        low = -math.inf
    if (numbers < low).any():
        raise ValueError(f"{name} is negative")
    if array.dtype.kind != "b" and not name.startswith("r.") and (numbers > _MOST_IMAGES).any():
        raise ValueError(f"{name} is too large")


def _rounded(design_effect: float) -> float:
    """Return a design effect rounded up to a power of 1.02, so that it rarely changes."""
    return float(1.02 ** math.ceil(math.log(design_effect, 1.02) - 1e-9))


def _finding(
    recent: Recent, expected: NDArray[np.float64], samples: float, design_effect: float
) -> HistogramFinding:
    counts = recent.total
    found = shift(counts, expected, samples, design_effect)
    alarm = found.z > Z_LIMIT and found.psi_excess > PSI_LIMIT
    return HistogramFinding(int(counts.sum()), found, alarm)
