"""The settings of a distillation: those of a training, and what is learned from the teacher.

Pure: no torch.
"""

from __future__ import annotations

from pydantic import Field

from tidegate.models.training.config import Closed, TrainConfig

_MOST_EPOCHS = 10_000


class Distillation(Closed):
    """What the student learns from the teacher, and how much each part counts in the loss."""

    temperature: float = Field(
        default=4.0, ge=1, le=20, description="divides the logits of both networks in the soft loss"
    )
    alpha: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="weight of the soft labels; the true classes have the rest",
    )
    features: float = Field(
        default=0.0, ge=0, le=100, description="weight of the feature transfer; 0: none"
    )
    attention: float = Field(
        default=0.0, ge=0, le=100, description="weight of the attention transfer; 0: none"
    )


class DistilConfig(TrainConfig):
    """Every setting of a distillation."""

    distillation: Distillation = Distillation()

    def alone(self, times: float = 1.0) -> TrainConfig:
        """Return the settings of the same training without a teacher.

        Its epochs are as many `times` more as it has fewer images: unlabelled ones are steps too.
        """
        plain = TrainConfig.model_validate(self.model_dump(exclude={"distillation"}))
        longer = {
            name: min(_MOST_EPOCHS, round(times * getattr(plain.stages, name)))
            for name in ("full", "patience")
        }
        return plain.model_copy(update={"stages": plain.stages.model_copy(update=longer)})
