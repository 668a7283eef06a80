"""How much, how long and how often."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tidegate.service.api.limits import HttpLimits
from tidegate.service.settings.theme import Theme

MIB = 1 << 20


class LimitSettings(Theme):
    """Bounds on requests, clients and times."""

    deadline_ms: int = Field(
        default=2000, ge=1, le=600_000, description="deadline if the client sets none"
    )
    max_deadline_ms: int = Field(
        default=60_000, ge=1, le=600_000, description="longest deadline a client may set"
    )
    max_queue: int = Field(
        default=1024, ge=1, le=100_000, description="maximum images admitted and waiting"
    )
    max_upload_bytes: int = Field(
        default=16 * MIB, ge=1, le=1024 * MIB, description="maximum bytes of one request body"
    )
    max_inflight_bytes: int = Field(
        default=512 * MIB, ge=1, le=1 << 40, description="maximum bytes of all uploads in progress"
    )
    max_image_pixels: int = Field(
        default=25_000_000, ge=1, le=1_000_000_000, description="maximum pixels per image"
    )
    upload_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="maximum time to receive a request body"
    )
    max_files: int = Field(
        default=16, ge=1, le=1024, description="maximum images in one /classify/batch request"
    )
    max_client_connections: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="maximum open connections per client address; "
        "capped at half of the process's file descriptors",
    )
    client_rate: float = Field(
        default=0,
        ge=0,
        le=1e6,
        description="images per second per client: an address, or an API key without "
        "a rate of its own; 0 = no limit",
    )
    client_burst: int = Field(
        default=32, ge=1, le=1_000_000, description="images a client may send in one burst"
    )
    drain_delay_s: float = Field(
        default=5, ge=0, le=3600, description="time to keep serving after SIGTERM"
    )
    drain_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="time to finish admitted requests after that"
    )

    @model_validator(mode="after")
    def _bounds_fit_together(self) -> Self:
        if self.max_upload_bytes > self.max_inflight_bytes:
            raise ValueError("TIDEGATE_MAX_INFLIGHT_BYTES is less than TIDEGATE_MAX_UPLOAD_BYTES")
        if self.deadline_ms > self.max_deadline_ms:
            raise ValueError("TIDEGATE_MAX_DEADLINE_MS is less than TIDEGATE_DEADLINE_MS")
        return self

    def http_limits(self) -> HttpLimits:
        """Return the limits on requests."""
        return HttpLimits(
            max_upload_bytes=self.max_upload_bytes,
            max_inflight_bytes=self.max_inflight_bytes,
            upload_timeout_s=self.upload_timeout_s,
            max_files=self.max_files,
            deadline_s=self.deadline_ms / 1000,
            max_deadline_s=self.max_deadline_ms / 1000,
        )
