"""The drift monitors of one model's traffic. Not thread-safe, and without a clock.

There are three kinds. Sequential detectors may alarm after any image. Histograms of the last
images, and their mean features, alarm if the difference is both significant and large. Shares of
single classes are compared over 20 and 36 hours. All of them take into account how dependent the
images are, and each declares how rarely it alarms without a change. Rejected images count only
towards the rejection rate and the p-values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.alarm import LONGEST_HOLD, Alarm
from tidegate.service.drift.class_dependence import ClassDependence
from tidegate.service.drift.dependence import Dependence
from tidegate.service.drift.duplicates import Duplicates, Fingerprint
from tidegate.service.drift.images import Images
from tidegate.service.drift.label_shift import label_shift
from tidegate.service.drift.recent_images import RecentImages
from tidegate.service.drift.reference import Reference
from tidegate.service.drift.report import Learned, Reach
from tidegate.service.drift.report import Report as Report  # for api.routes.drift
from tidegate.service.drift.sequential import MixDetector, RateDetector, rate_limit, share_limits
from tidegate.service.drift.shares import Shares
from tidegate.service.drift.state_arrays import State, checked, named, part_of

RUN_LENGTH = 1_000_000  # images; a monitor's false alarms are at least so far apart on average
MAX_WAITING_IMAGES = 128  # observed and not yet evaluated
_REACHED = (2.0, 5.0, 20.0)  # times alpha
_ALL = 1 - 1e-9  # a share's limit is below 1, because odds are computed


class Monitor:
    """Compares one model's answers with its calibration."""

    def __init__(self, reference: Reference, run_length: float = RUN_LENGTH) -> None:
        self.reference = reference
        self._run_length = run_length
        self._rate_limit = rate_limit(reference.alpha_reject, reference.calibration_samples)
        self._lower, self._upper = share_limits(reference.class_counts)
        self.ood = RateDetector(self._rate_limit, run_length)
        self.mix = MixDetector(self._lower, self._upper, run_length)
        self._shares = Shares(reference, run_length)
        self._recent = RecentImages(reference)
        self._p_dependence = Dependence(1)
        self._class_dependence = ClassDependence(len(reference.class_counts))
        self._duplicates = Duplicates()
        self._near_duplicates = 0
        self._alarmed_images = 0  # since both detectors were quiet, in this process
        self._hour = 0  # of the last image, since 1970
        self._images = 0
        self._counted = 0  # without near-duplicates
        self._compared = 0  # counted images when the shares were last compared
        self._waiting: list[tuple[float, int, float, float, bool]] = []
        self.ood_design_effect = self.class_design_effect = 1.0
        self._reach_of, self._tripled = (-2, 1.0, 1.0), 0
        self._nulls = (-1, 1.0, 1.0)  # hour and design effects for which the detectors are set
        self._usual = self._shares.usual(0, 1.0, 1.0)
        self._set_nulls()

    @property
    def alarm_states(self) -> dict[str, Alarm]:
        """Return the alarms of the sequential detectors."""
        return {"ood-rate": self.ood.alarm, "class-mix": self.mix.alarm}

    @property
    def watches_inputs(self) -> bool:
        """Return whether the bundle contains a reference for input statistics."""
        return self._recent.has_inputs

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
        if not rejected:
            self._recent.add_features(features)
        self._waiting.append((time, class_id, confidence, p_value, rejected))
        if len(self._waiting) >= MAX_WAITING_IMAGES:
            self._evaluate_waiting()

    def observe_all(self, images: Images) -> None:
        """Add images that are no near-duplicates, without features."""
        self._evaluate_waiting()
        self._images += len(images)
        self._evaluate(images)

    def observe_inputs(self, values: Mapping[str, float]) -> None:
        """Add the statistics of one image, by the names in INPUTS."""
        for name, value in values.items():
            self._recent.add_value(name, np.array([value]))

    def report(self) -> Report:
        """Compute the current results. Takes some milliseconds."""
        self._evaluate_waiting()
        reference, recent = self.reference, self._recent
        predicted = recent.predicted
        return Report(
            images=self._images,
            detectors={"ood-rate": self.ood.evidence, "class-mix": self.mix.evidence},
            alarm_states=self.alarm_states,
            shares=dict(self._shares.findings),
            histograms=recent.histograms(self.ood_design_effect, self.class_design_effect),
            embedding=recent.embedding(self.class_design_effect),
            label_shift=(
                None if reference.confusion is None else label_shift(predicted, reference.confusion)
            ),
            expected_accuracy=recent.confidence if recent.answered else None,
            recent_classes=predicted,
            recent_rejected=recent.rejected,
            reference_counts=reference.class_counts,
            rate_limit=self.ood.limit,
            run_length=self._run_length,
            reach=self._reach(),
            learned=Learned(
                self._shares.learned_days,
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
            self._tripled = self._shares.visible_classes(self._hour, 3.0, self.class_design_effect)
        return Reach(
            self._counted,
            tuple((rate, self.ood.delay(rate)) for rate in rates),
            typical,
            self.mix.delay(typical, min(0.99, 0.2 + 0.8 * counts[typical] / counts.sum())),
            self._shares.window_images(self._hour),
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
            self._shares.forget_after(self._hour)
        hours = np.maximum(np.maximum.accumulate(hours), self._hour)
        for at in np.flatnonzero(np.diff(hours, prepend=-1)):
            same = slice(at, int(np.searchsorted(hours, hours[at], "right")))
            if hours[at] != self._hour:
                self._next_hour(int(hours[at]))
            self._evaluate_hour(images[same])

    def _evaluate_hour(self, images: Images) -> None:
        answered = ~images.rejected
        classes, times = images.classes[answered], images.times[answered]
        # Learn first, so that a run is known to be one before its images are weighed. The begin of
        # an incident is no run, but an alarm that lasts may be one of images in runs.
        alarmed = self.ood.alarm.on or self.mix.alarm.on
        self._alarmed_images = self._alarmed_images + len(images) if alarmed else 0
        if not 0 < self._alarmed_images <= LONGEST_HOLD:
            self._p_dependence.add((images.p_values[:, None] - 0.5) * np.sqrt(12))
            self._class_dependence.add(classes)
            self._set_nulls()
        self.ood.observe(images.rejected, images.times)
        self.mix.observe(classes, times)
        clean = not (self.ood.alarm.on or self.mix.alarm.on or self._shares.alarm)
        counts = np.bincount(classes, minlength=len(self.reference.class_counts))
        self._shares.add(int(images.rejected.sum()), len(images), counts, self._hour, clean=clean)
        self._recent.add(images)
        self._counted += len(images)

    def _next_hour(self, hour: int) -> None:
        started, self._hour = self._hour > 0, hour
        if started:
            self._shares.new_images = self._counted - self._compared
            self._compared = self._counted
            self._compare_shares()
        self._set_nulls()

    def _compare_shares(self) -> None:
        self._shares.compare(self._hour, self.ood_design_effect, self.class_design_effect)

    def _set_nulls(self) -> None:
        """Adjust the detectors to the hour of the day and to the dependence of the images."""
        self.ood_design_effect = self._p_dependence.design_effect()
        of_classes = self._class_dependence.design_effect()
        self.class_design_effect = max(of_classes, self.ood_design_effect)
        ood, mix = _rounded(self.ood_design_effect), _rounded(self.class_design_effect)
        if (self._hour, ood, mix) == self._nulls:
            return
        if self._hour != self._nulls[0]:
            self._usual = self._shares.usual(self._hour, ood, mix)
        self._nulls = (self._hour, ood, mix)
        rejected, classes = self._usual
        usual = min(self._shares.usual_rejected(self._hour), self._rate_limit)
        highest = max(self.reference.alpha_reject, usual) * float(rejected.highest[0])
        most = max(self._rate_limit, highest)
        self.ood.set_null(min(most, 0.5), ood)
        self.mix.set_null(
            self._lower * classes.lowest, np.minimum(self._upper * classes.highest, _ALL), mix
        )

    def state(self) -> State:
        """Return the state as arrays, for `restore` in another process."""
        self._evaluate_waiting()
        return {
            "totals": np.array(
                [
                    self._images,
                    self._counted,
                    self._compared,
                    self._shares.new_images,
                    self._near_duplicates,
                    self._recent.answered,
                    self._class_dependence.images,
                    self._hour,
                ]
            ),
            "r.ood-rate": self.ood.r.copy(),
            "r.class-mix": self.mix.r.copy(),
            "alarm.ood-rate": self.ood.alarm.state(),
            "alarm.class-mix": self.mix.alarm.state(),
            **named("p_dependence", self._p_dependence.state()),
            **self._class_dependence.state(),
            **self._shares.state(),
            **self._recent.state(),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore the state of a monitor with the same reference.

        Raises KeyError or ValueError if the state does not fit; then the monitor is unchanged.
        """
        given = checked(state, self.state())
        images, counted, compared, new_images, near_duplicates, answered, signs, hour = given[
            "totals"
        ].tolist()
        if not (answered <= counted <= images and compared <= counted):
            raise ValueError("totals must be counts of images and of parts of them")
        self._class_dependence.check(given)
        self._recent.check(given)

        self._images, self._counted, self._compared = images, counted, compared
        self._near_duplicates, self._hour = near_duplicates, hour
        self.ood.r[...] = given["r.ood-rate"]
        self.mix.r[...] = given["r.class-mix"]
        self.ood.alarm.restore(given["alarm.ood-rate"].astype(np.float64))
        self.mix.alarm.restore(given["alarm.class-mix"].astype(np.float64))
        self._p_dependence.restore(part_of(given, "p_dependence"))
        self._class_dependence.restore(given, signs)
        self._shares.restore(given, new_images)
        self._recent.restore(given, answered)
        self._set_nulls()
        if self._compared:
            self._compare_shares()


def _rounded(design_effect: float) -> float:
    """Return a design effect rounded up to a power of 1.02, so that it rarely changes."""
    return float(1.02 ** math.ceil(math.log(design_effect, 1.02) - 1e-9))
