"""What shall be served: one bundle, or what the serving file says of a folder of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tidegate.service.bundle.store import read_manifest
from tidegate.service.serving.edit import Change
from tidegate.service.serving.plan import ModelPlan, ServingPlan
from tidegate.service.serving.repository import LATEST
from tidegate.service.serving.serving_file import Found, Place, find
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


@dataclass(frozen=True, slots=True)
class _Held:
    """Plans in memory, as they would be written, and the content of the file that they replace."""

    content: bytes | None
    plans: Mapping[str, ModelPlan]


class ModelFolder:
    """The folder of TIDEGATE_MODELS and its serving file."""

    def __init__(self, place: Place, drift_state: Path | None) -> None:
        self.place = place
        self._drift_state = drift_state
        self._watch: Watch | None = None
        self._held = _Held(None, {})

    def read(self) -> Wanted:
        """Read the folder and the serving file. Raises ServingInvalid."""
        found = find(self.place)
        self._watch = Watch(found)
        return self._wanted(found)

    def poll(self) -> Wanted | None:
        """Return what shall be served if the file or the folder has changed.

        Raises ServingInvalid.
        """
        found = None if self._watch is None else self._watch.poll()
        return None if found is None else self._wanted(found)

    @property
    def holds_plans(self) -> bool:
        """Return whether another plan than the file's is served."""
        return bool(self._held.plans)

    def hold(self, name: str, change: Change) -> None:
        """Change the plan of model `name` in memory, until the file's content changes.

        For a file that cannot be written. Raises ServingInvalid.
        """
        found = find(self.place)
        written = self._written(found)
        after = change(written.models.get(name), found.repository.versions.get(name, ()))
        self._held = _Held(found.content, {**self._held.plans, name: after})

    def _written(self, found: Found) -> ServingPlan:
        """Return the plan of the file, with what is held of it. Raises ServingInvalid."""
        written, there = found.written(), found.repository.versions
        if self._held.content != found.content:
            self._held = _Held(found.content, {})
        held = {
            name: plan
            for name, plan in self._held.plans.items()
            if {*plan.named.values()} - {LATEST} <= {*there.get(name, ())}
        }
        return replace(written, models={**written.models, **held})

    def _wanted(self, found: Found) -> Wanted:
        """Return the resolved plan with the folders of its versions. Raises ServingInvalid."""
        plan = self._written(found).resolve(found.repository)
        versions = {
            (name, version)
            for name, model in plan.models.items()
            for version in model.named.values()
        }
        state = self._drift_state
        return Wanted(
            plan,
            {(name, version): found.repository.path(name, version) for name, version in versions},
            {}
            if state is None
            else {(n, v): state.with_name(f"{state.name}.{n}@{v}") for n, v in versions},
        )
