"""The rules of a canary's judge: how much worse it may be, and what the judge may do."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class JudgeRules(BaseModel):
    """What `[NAME.judge]` of the serving file says. A margin of 0 means that any loss counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    promote: bool = Field(default=False, description="make a canary stable")
    promote_shadow: bool = Field(
        default=False, description="make a shadow a canary once the evidence suffices"
    )
    rollback: bool = Field(default=True, description="end a canary at the first alarm")
    least_images: int = Field(
        default=1000, ge=100, le=10_000_000, description="images of a trial before a promotion"
    )
    alpha: float = Field(
        default=0.01,
        ge=1e-6,
        le=0.2,
        description="probability that an equal canary is ever rolled back, over all comparisons",
    )
    errors: float = Field(
        default=0.002, ge=0, le=0.5, description="margin of the share of 5xx except 503 and 504"
    )
    late: float = Field(default=0.01, ge=0, le=0.5, description="margin of the share of 504")
    latency: float = Field(
        default=1.2, ge=1, le=100, description="largest ratio of the time in queue and engine"
    )
    rejections: float = Field(
        default=0.01, ge=0, le=0.5, description="margin of the share of rejected images"
    )
    disagreements: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="largest share of images with another class by a shadow; 1: any",
    )
    p_values: bool = Field(
        default=True, description="compare how uniform the p-values of the gates are"
    )
    classes: float = Field(
        default=0.05, ge=0, le=0.5, description="margin of the class mix, in total variation"
    )
    feedback: float = Field(
        default=0.02, ge=0, le=0.5, description="margin of the agreement with true classes"
    )
