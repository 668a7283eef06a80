"""What the process of the engine sends a front end about the models. Values only.

They are pickled, which is safe in this direction alone: a front end trusts the process that
started it, but it reads what clients send, so nothing that comes from it is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate.service.batching.latency import Learned
from tidegate.service.batching.ring import Layout
from tidegate.service.bundle.store import Bundle
from tidegate.service.engines.base import EngineInfo
from tidegate.service.security import Loaded
from tidegate.service.serving.plan import ModelPlan
from tidegate.service.settings import Settings


@dataclass(frozen=True, slots=True)
class LaneFacts:
    """A loaded version."""

    number: int  # of its lane
    bundle: Bundle
    layout: Layout
    engine: EngineInfo
    engine_slots: int
    watches_inputs: bool
    side_by_side: int
    changing: LaneChange


@dataclass(frozen=True, slots=True)
class LaneChange:
    """What changes of a lane while it is served."""

    learned: Learned
    max_batch_size: int
    weight: float


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """A canary or a shadow: its lane, and the share of the requests that it gets."""

    number: int
    share: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The versions of one model that answer."""

    plan: ModelPlan
    versions: Mapping[str, int]  # version → lane
    aliases: Mapping[str, str]
    canary: TrialFacts | None
    shadow: TrialFacts | None


@dataclass(frozen=True, slots=True)
class CatalogFacts:
    """All models."""

    default: str
    models: Mapping[str, ModelFacts]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message to a front end."""

    settings: Settings  # with this front end's share of the limits
    index: int
    front_ends: int
    admin_port: int | None
    loaded: Loaded  # keys and certificates, in case their files cannot be used now
    board: int  # descriptors that it has inherited
    shared: int
