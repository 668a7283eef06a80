"""What shall be served: one bundle, or what the serving file says of a folder of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tidegate.service.bundle.store import read_manifest
from tidegate.service.serving.plan import ModelPlan, ServingPlan
from tidegate.service.serving.repository import Repository
from tidegate.service.serving.serving_file import Place, find
from tidegate.service.serving.watch import Watch


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plan, and the folder of each of its versions."""

    plan: ServingPlan
    folders: Mapping[tuple[str, str], Path]  # by model and version
    drift_states: Mapping[tuple[str, str], Path]  # the file of each version's drift state


class Source(Protocol):
    """Where the plan is. Its methods read files, so they block."""

    def read(self) -> Wanted:
        """Return what shall be served. Raises BundleRefused or ServingInvalid."""
        ...

    def poll(self) -> Wanted | None:
        """Return what shall be served if that has changed. Raises ServingInvalid."""
        ...


class OneBundle:
    """The bundle in one folder. A reload opens it again; it is not polled."""

    def __init__(self, bundle: Path, drift_state: Path | None) -> None:
        self._bundle = bundle
        self._drift_state = drift_state

    def read(self) -> Wanted:
        """Return the plan of the bundle's only version. Raises BundleRefused."""
        manifest = read_manifest(self._bundle)
        name, version = manifest.name, manifest.version
        states = {} if self._drift_state is None else {(name, version): self._drift_state}
        plan = ServingPlan(name, {name: ModelPlan(stable=version)})
        return Wanted(plan, {(name, version): self._bundle}, states)

    def poll(self) -> Wanted | None:
        """Return None: a folder that is being copied cannot be told from one that has changed."""
        return None


class ModelFolder:
    """The folder of TIDEGATE_MODELS and its serving file."""

    def __init__(self, place: Place, drift_state: Path | None) -> None:
        self.place = place
        self._drift_state = drift_state
        self._watch: Watch | None = None
        self._repository = Repository(place.models, {}, {})

    def read(self) -> Wanted:
        """Read the folder and the serving file. Raises ServingInvalid."""
        found = find(self.place)
        self._watch = Watch(found)
        self._repository = found.repository
        return self.wanted(found.plan())

    def poll(self) -> Wanted | None:
        """Return what shall be served if the file or the folder has changed.

        Raises ServingInvalid.
        """
        found = None if self._watch is None else self._watch.poll()
        if found is None:
            return None
        self._repository = found.repository
        return self.wanted(found.plan())

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a model when the folder was read, from the oldest on."""
        return self._repository.versions[name]

    def wanted(self, plan: ServingPlan) -> Wanted:
        """Return a resolved plan with the folders of its versions."""
        versions = {
            (name, version)
            for name, model in plan.models.items()
            for version in model.named.values()
        }
        state = self._drift_state
        return Wanted(
            plan,
            {(name, version): self._repository.path(name, version) for name, version in versions},
            {}
            if state is None
            else {(n, v): state.with_name(f"{state.name}.{n}.{v}") for n, v in versions},
        )
