"""What a training leaves for the model card: its settings, its seed, its stages and its curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images, and what the network does on the held-out slice."""

    stage: str
    number: int  # from 1, in its stage
    rate: float  # of learning, at the end of the epoch
    loss: float  # mean training loss, on augmented images
    nll: float  # on the slice, at the best temperature; nats
    accuracy: float
    balanced_accuracy: float  # mean recall of the classes
    seconds: float


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage of the training, and the epoch of it that was kept."""

    name: str
    words: str  # what it trains, and how
    best: Epoch
    epochs: int  # that ran
    ended: str  # why


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How a network was trained."""

    recipe: str  # "probe", "staged", "full" or "zero-shot"
    why: str  # one sentence: why this recipe
    seed: int
    images: Mapping[str, int]  # what for → how many
    settings: Mapping[str, str]  # name → value, in words
    versions: tuple[str, ...]  # "torch 2.13.0"
    stages: tuple[StageRecord, ...] = ()
    epochs: tuple[Epoch, ...] = ()  # of all stages, in order
    kept: str = ""  # name of the stage whose weights are the result
    notes: tuple[str, ...] = field(default_factory=tuple)  # sentences
