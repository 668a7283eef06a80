"""The training loop: stages of epochs of steps, from any place where it was stopped.

Every random number is drawn from a seed that is a function of its place, and the learning rate is
one of the step. So a place, the weights and the optimiser are all that a resumed training needs,
and on a CPU it ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from tidegate.models.errors import BuildRefused
from tidegate.models.progress import follow, say
from tidegate.models.training import imbalance, slice_scores
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.curves import Curves
from tidegate.models.training.images import Images, batches, batches_of, epoch_batches
from tidegate.models.training.network import Network
from tidegate.models.training.recipe import Stage
from tidegate.models.training.run_folder import RunFolder
from tidegate.models.training.schedule import Remaining, duration
from tidegate.models.training.stepper import Mix, Stepper
from tidegate.models.training.stop import Stop, Stopped
from tidegate.models.training_record import Epoch, StageRecord

_PLACE = 5  # among the seeds
_PLAIN_EVERY_S = 60.0


@dataclass
class Place:
    """How far a training is. Its epochs and steps are those that are done."""

    stage: int = 0
    epoch: int = 0  # of the stage
    step: int = 0  # of the epoch
    loss: float = 0.0  # sum over the images of the epoch
    seconds: float = 0.0  # of the epoch
    worse: int = 0  # epochs since the best one of the stage
    stage_best: dict[str, Any] | None = None  # an Epoch
    best: dict[str, Any] | None = None  # file, stage and NLL of the weights that are kept
    epochs: list[dict[str, Any]] = field(default_factory=list)  # Epochs
    stages: list[dict[str, Any]] = field(default_factory=list)  # StageRecords


@dataclass(frozen=True)
class Course:
    """What a training is made of."""

    network: Network
    stages: Sequence[Stage]
    images: Images
    held_out: Images
    config: TrainConfig
    mix: Mix | None
    device: str
    workers: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training ends with."""

    weights_file: str  # in the run's folder
    kept: str  # name of the stage that they come from
    stages: tuple[StageRecord, ...]
    epochs: tuple[Epoch, ...]


class Loop:
    """Runs a course in a folder, from the place that the folder has saved."""

    def __init__(self, course: Course, folder: RunFolder) -> None:
        self._course, self._folder = course, folder
        classes = course.network.module.num_classes
        self._counts = np.bincount(course.images.class_ids, minlength=classes).tolist()
        chosen = course.config.optimisation
        in_epoch = batches_of(len(course.images), chosen.batch)
        self._steps = -(-in_epoch // chosen.accumulate)  # per epoch
        self._remaining = Remaining()
        self._saved_at = time.monotonic()
        self._saved = folder.load()
        self._place = Place() if self._saved is None else Place(**self._saved["place"])

    def run(self, stop: Stop) -> Outcome:
        """Train to the end. Raises Stopped, with everything saved, once `stop` is wanted."""
        saved, self._saved = self._saved, None
        if saved is not None:
            say(f"Resuming {self._words()}.")
        curves = Curves(self._folder.folder)
        try:
            while self._place.stage < len(self._course.stages):
                stepper = self._stepper(saved and saved["stepper"])
                saved = None
                self._run_stage(stepper, stop, curves)
            if stop.wanted:
                self._stop()
        finally:
            curves.close()
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return what the best epoch so far gives. Raises BuildRefused before the first epoch."""
        place = self._place
        if place.best is None:
            raise BuildRefused(
                f"No epoch is done in {self._folder.folder}: train without --finish."
            )
        stages = [*place.stages]
        if place.stage_best is not None:  # of a stage that was not trained to its end
            stages.append(self._stage_record("ended by --finish"))
        return Outcome(
            place.best["file"],
            self._course.stages[place.best["stage"]].name,
            tuple(StageRecord(**{**s, "best": Epoch(**s["best"])}) for s in stages),
            tuple(Epoch(**epoch) for epoch in place.epochs),
        )

    def _stepper(self, state: dict[str, Any] | None) -> Stepper:
        """Return a stepper for the stage, with its saved state or with the best weights so far."""
        course, place = self._course, self._place
        if state is None and place.best is not None:
            course.network.module.load_state_dict(self._folder.load_best(place.best["file"]))
        stage = course.stages[place.stage]
        stepper = Stepper(
            course.network, stage, self._counts, course.config, place=place.stage,
            steps=stage.epochs * self._steps, mix=course.mix, device=course.device,
        )  # fmt: skip
        if state is not None:
            stepper.restore(state)
        return stepper

    def _run_stage(self, stepper: Stepper, stop: Stop, curves: Curves) -> None:
        place, stage = self._place, self._stage
        patience = self._course.config.stages.patience
        while not self._is_stage_done:
            self._run_epoch(stepper, stop)
            self._end_epoch(stepper, curves)
            if stop.wanted:
                self._stop()
        early = place.epoch < stage.epochs
        ended = f"no better epoch in {patience}" if early else "all epochs done"
        place.stages.append(self._stage_record(ended))
        place.stage, place.epoch, place.worse, place.stage_best = place.stage + 1, 0, 0, None
        self._save(None)

    def _stage_record(self, ended: str) -> dict[str, Any]:
        place, stage = self._place, self._stage
        return {
            "name": stage.name,
            "words": stage.words,
            "best": place.stage_best,
            "epochs": place.epoch,
            "ended": ended,
        }

    def _run_epoch(self, stepper: Stepper, stop: Stop) -> None:
        place, course = self._place, self._course
        groups = self._groups()[place.step :]
        places = [batch for group in groups for batch in group]
        with closing(batches(course.images, places, course.workers)) as loader:
            for group in follow(groups, self._title(), _PLAIN_EVERY_S):
                begun = time.monotonic()
                number = place.epoch * self._steps + place.step
                place.loss += stepper.step(number, islice(loader, len(group)), sum(map(len, group)))
                place.step += 1
                seconds = time.monotonic() - begun
                place.seconds += seconds
                self._remaining.step(seconds)
                if place.step < self._steps:  # the end of the epoch saves too
                    self._save_if_due(stepper, stop)

    def _save_if_due(self, stepper: Stepper, stop: Stop) -> None:
        since_s = time.monotonic() - self._saved_at
        if stop.wanted or since_s > self._course.config.save_every_s:
            self._save(stepper)
        if stop.wanted:
            self._stop()

    def _end_epoch(self, stepper: Stepper, curves: Curves) -> None:
        """Measure the slice, keep the weights if they are the best so far, and save."""
        place, stage, course = self._place, self._stage, self._course
        begun = time.monotonic()
        logits = stepper.outputs(course.held_out, course.workers)
        self._remaining.evaluation(time.monotonic() - begun)
        found = slice_scores.score(logits, course.held_out.class_ids, stage.balanced)
        epoch = Epoch(
            stage=stage.name,
            number=place.epoch + 1,
            rate=stepper.rate,
            loss=place.loss / len(course.images),
            seconds=round(place.seconds, 3),
            **asdict(found),
        )
        place.epochs.append(asdict(epoch))
        better = place.stage_best is None or epoch.nll < place.stage_best["nll"]
        place.stage_best = asdict(epoch) if better else place.stage_best
        place.worse = 0 if better else place.worse + 1
        if better and self._is_best(epoch.nll):
            file = self._folder.save_best(place.stage, place.epoch + 1, stepper.weights())
            place.best = {"file": file, "stage": place.stage, "nll": epoch.nll}
        place.epoch, place.step, place.loss, place.seconds = place.epoch + 1, 0, 0.0, 0.0
        curves.write([Epoch(**e) for e in place.epochs])
        self._save(stepper)
        say(self._line(epoch, better))

    def _is_best(self, nll: float) -> bool:
        """Return whether weights with this NLL replace the best of all stages.

        Those of a stage that measures another NLL are not comparable, and give way.
        """
        best = self._place.best
        if best is None:
            return True
        other = self._course.stages[best["stage"]]
        return other.balanced != self._stage.balanced or bool(nll < best["nll"])

    def _groups(self) -> list[list[list[tuple[int, int]]]]:
        """Return the places of the images of an epoch: by step, batch and image."""
        course, place = self._course, self._place
        seed = (course.config.seed, _PLACE, place.stage, place.epoch)
        order = imbalance.draw(course.images.class_ids, self._counts, self._stage.sampling, seed)
        chosen = course.config.optimisation
        places = epoch_batches(order, chosen.batch, seed)
        size = chosen.accumulate
        return [places[at : at + size] for at in range(0, len(places), size)]

    def _save(self, stepper: Stepper | None) -> None:
        state = None if stepper is None else stepper.state()
        self._folder.save(
            {"place": asdict(self._place), "best": self._place.best, "stepper": state}
        )
        self._saved_at = time.monotonic()

    def _stop(self) -> None:
        best = self._place.best
        on = "The same command goes on from here"
        if best is None:
            raise Stopped(f"stopped {self._words()}; no epoch is done yet. {on}")
        raise Stopped(
            f"stopped {self._words()}; the best so far is in {best['file']}. {on}; with "
            "--finish it makes the bundle of the best so far"
        )

    @property
    def _stage(self) -> Stage:
        return self._course.stages[self._place.stage]

    @property
    def _is_stage_done(self) -> bool:
        place, stages = self._place, self._course.config.stages
        return place.epoch >= self._stage.epochs or place.worse >= stages.patience

    def _words(self) -> str:
        place, stages = self._place, self._course.stages
        if place.stage == len(stages):
            return "at the end of the training"
        stage = f"stage {place.stage + 1} of {len(stages)} ({self._stage.name})"
        if self._is_stage_done:
            return f"at the end of {stage}"
        return (
            f"in {stage}, epoch {place.epoch + 1} of at most {self._stage.epochs}, step "
            f"{place.step}"
        )

    def _title(self) -> str:
        return f"{self._stage.name} {self._place.epoch + 1}/{self._stage.epochs}{self._left()}"

    def _line(self, epoch: Epoch, better: bool) -> str:
        return (
            f"{epoch.stage} {epoch.number}/{self._stage.epochs}: loss {epoch.loss:.4f}; slice: "
            f"NLL {epoch.nll:.4f}{' (best)' if better else ''}, accuracy {epoch.accuracy:.2%}, "
            f"balanced {epoch.balanced_accuracy:.2%}; {duration(epoch.seconds)}{self._left()}"
        )

    def _left(self) -> str:
        """Return how long the rest takes if no stage ends early."""
        place, stages = self._place, self._course.stages
        epochs = self._stage.epochs - place.epoch + sum(s.epochs for s in stages[place.stage + 1 :])
        words = self._remaining.words(epochs * self._steps - place.step, epochs)
        return f", at most {words} left" if words and epochs else ""
