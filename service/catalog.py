"""Which version answers a request: a snapshot of the models that are served.

A snapshot is never changed. A reload replaces it, so that every request sees one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tidegate.service.errors import NotFound
from tidegate.service.observing import Tag
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.progress import Progress
from tidegate.service.rollouts import Rollout
from tidegate.service.served import Served, Version
from tidegate.service.serving.plan import ModelPlan

STABLE = "stable"
_SHOWN = 100  # characters of a name that a client sent


V = TypeVar("V", bound=Version, contravariant=True)


class Trying(Protocol[V]):
    """A rollout, for an image that it has chosen the version of."""

    async def classify(
        self, served: V, upload: Upload, request_id: str, key: str
    ) -> Classification:
        """Classify the image with that version, and observe the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The version that answers a request, and what observes the answer."""

    served: Version
    rollout: Trying[Any] | None = None  # None without one, or if the client chose the version
    key: str = ""  # by which the version was chosen; "" if no other image was chosen by the same
    progress: list[Progress] = field(default_factory=list)  # of the request's images, in order

    async def classify(self, upload: Upload, request_id: str) -> Classification:
        """Classify an image; see `Pipeline.classify`."""
        self.progress.append(upload.progress)
        if self.rollout is None:
            return await self.served.pipeline.classify(upload, Tag(request_id))
        return await self.rollout.classify(self.served, upload, request_id, self.key)


@dataclass(frozen=True, slots=True)
class Model:
    """The versions of one model that can answer, by version, and their aliases."""

    name: str
    plan: ModelPlan
    versions: Mapping[str, Served]
    aliases: Mapping[str, str]  # stable, canary, shadow and others → version
    rollout: Rollout | None  # while there is a canary or a shadow
    refused: Mapping[str, str]  # version → why the last reload did not take it

    @property
    def stable(self) -> Served:
        """Return the version that answers by default."""
        return self.versions[self.aliases[STABLE]]

    def choose(self, version: str, key: str, request_id: str, *, has_own_id: bool) -> Choice:
        """Return the version for a request: the one it names ("" for none), or by its key.

        Without a key ("") the request's id decides, which other images have too unless
        `has_own_id`. Raises NotFound if this model has no such version or alias.
        """
        if version:
            return Choice(self.version(version))
        if self.rollout is None:
            return Choice(self.stable)
        chosen_by = key or request_id
        shared = "" if has_own_id and not key else chosen_by
        return Choice(self.rollout.choose(chosen_by), self.rollout, shared)

    def version(self, name: str) -> Served:
        """Return a version by its name or an alias. Raises NotFound."""
        found = self.versions.get(self.aliases.get(name, name))
        if found is None:
            there = ", ".join(sorted({*self.versions, *self.aliases}))
            raise NotFound(f"{self.name} has no version {name[:_SHOWN]!r}; there is {there}.")
        return found


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models, and the one that answers requests without a model's name."""

    default: str
    models: Mapping[str, Model]

    def model(self, name: str) -> Model:
        """Return a model by its name, "" for the default. Raises NotFound."""
        found = self.models.get(name or self.default)
        if found is None:
            raise NotFound(
                "No model with this name is served; GET /models lists the served models."
            )
        return found
