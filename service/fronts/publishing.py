"""Turn what is served into values for front ends, with a number for each lane."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.service.batching.board import LANES
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.ring import Layout
from tidegate.service.catalog import Catalog, Model
from tidegate.service.fronts.published import (
    CatalogFacts,
    LaneChange,
    LaneFacts,
    ModelFacts,
    TrialFacts,
)
from tidegate.service.lifecycle import Service
from tidegate.service.rollouts import Trial
from tidegate.service.served import Served


class Publishing:
    """Numbers the lanes that are loaded, and describes them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.places: dict[Lane, int] = {}  # the numbers of the loaded lanes

    def catalog(self, catalog: Catalog) -> tuple[dict[Lane, LaneFacts], CatalogFacts]:
        """Return the versions of a catalog by lane, and the catalog."""
        self._renumber()
        versions = {
            served.lane: self._facts(served)
            for model in catalog.models.values()
            for served in model.versions.values()
        }
        models = {name: self._model(model) for name, model in catalog.models.items()}
        return versions, CatalogFacts(catalog.default, models)

    def changes(self) -> Mapping[int, LaneChange]:
        """Return what may have changed of each loaded lane."""
        return {number: _change(lane) for lane, number in self.places.items()}

    def _renumber(self) -> None:
        loaded = [served.lane for served in self._service.loaded()]
        self.places = {lane: number for lane, number in self.places.items() if lane in loaded}
        free = iter(sorted(set(range(LANES)) - set(self.places.values())))
        for lane in loaded:
            if lane not in self.places:
                self.places[lane] = next(free)

    def _facts(self, served: Served) -> LaneFacts:
        bundle, lane = served.bundle, served.lane
        task = bundle.manifest.task
        scores = len(bundle.gate.folds_a)
        return LaneFacts(
            self.places[lane],
            bundle,
            Layout(task.height, task.width, task.classes, task.features, scores),
            lane.engine.info,
            lane.engine.slots,
            served.observer.watches_inputs,
            lane.limits.side_by_side,
            _change(lane),
        )

    def _model(self, model: Model) -> ModelFacts:
        rollout = model.rollout
        return ModelFacts(
            model.plan,
            {version: self.places[served.lane] for version, served in model.versions.items()},
            dict(model.aliases),
            None if rollout is None else self._trial(rollout.canary),
            None if rollout is None else self._trial(rollout.shadow),
        )

    def _trial(self, trial: Trial | None) -> TrialFacts | None:
        return None if trial is None else TrialFacts(self.places[trial.served.lane], trial.share)


def _change(lane: Lane) -> LaneChange:
    return LaneChange(lane.latency.learned(), lane.limits.max_batch_size, lane.weight)
