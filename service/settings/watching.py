"""What is observed and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from tidegate.service.review.image_store import ReviewConfig
from tidegate.service.settings.theme import Theme


class WatchingSettings(Theme):
    """Metrics, drift, images to review and logs."""

    max_class_series: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="number of classes with a separate confidence histogram",
    )
    drift_run_length: int = Field(
        default=1_000_000,
        ge=1_000,
        description="minimum average number of images between two false alarms of a drift detector",
    )
    drift_state: Path | None = Field(
        default=None,
        description="file that keeps the drift monitors' state across restarts; unset = disabled",
    )
    review_dir: Path | None = Field(
        default=None,
        description="folder for images to review, with their decisions; unset = disabled",
    )
    review_max_bytes: int = Field(
        default=1_000_000_000,
        ge=1_000_000,
        description="maximum bytes in that folder; the oldest images are deleted first",
    )
    review_images_per_s: float = Field(
        default=1.0, gt=0, le=1_000, description="maximum images kept per second"
    )
    review_accepted_share: float = Field(
        default=0.001, ge=0, le=1, description="share of accepted images that are also kept"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="minimum level that is logged"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="log format; auto = text on a terminal, JSON otherwise"
    )
    log_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the successful requests that are logged; errors always are",
    )

    def review_config(self) -> ReviewConfig | None:
        """Return how images are kept for review; None if they are not kept."""
        if self.review_dir is None:
            return None
        return ReviewConfig(
            self.review_dir,
            self.review_max_bytes,
            self.review_images_per_s,
            self.review_accepted_share,
        )
