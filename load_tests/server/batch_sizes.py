"""Batch sizes from the server's /metrics, if it exposes them."""

import asyncio
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from load_tests.client.connection import MalformedResponse, Pool
from load_tests.client.requests import Target

METRIC = "tidegate_batch_size"
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class BatchSizes:
    """A histogram of batch sizes: number of batches, of their images, and batches per bucket."""

    batches: int
    images: int
    up_to: dict[str, int]  # upper bound of the bucket → batches in it, not cumulative

    @property
    def mean(self) -> float | None:
        """Images per batch; None without a batch."""
        return self.images / self.batches if self.batches else None

    def since(self, earlier: "BatchSizes") -> "BatchSizes":
        """Return the difference from an `earlier` histogram."""
        return BatchSizes(
            self.batches - earlier.batches,
            self.images - earlier.images,
            {bound: n - earlier.up_to.get(bound, 0) for bound, n in self.up_to.items()},
        )


async def batch_sizes(pool: Pool, target: Target) -> BatchSizes | None:
    """Request the server's /metrics; None if it has none or does not answer."""
    request = f"GET /metrics HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n\r\n".encode("ascii")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            connection = await pool.acquire()
            try:
                response = await connection.exchange(request)
            finally:
                pool.release(connection)
    except (OSError, MalformedResponse):  # TimeoutError is an OSError
        return None
    return parse(response.body.decode("utf-8", "replace")) if response.status == 200 else None


def parse(text: str) -> BatchSizes | None:
    """Parse the histogram from Prometheus text; None if it is missing or the text is malformed.

    Series that differ in other labels (one per model) are summed.
    """
    lines = [line for line in text.splitlines() if METRIC in line]
    totals: dict[str, float] = {}
    cumulative: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if sample.name == f"{METRIC}_bucket":
                    bound = sample.labels["le"]
                    cumulative[bound] = cumulative.get(bound, 0) + sample.value
                else:
                    totals[sample.name] = totals.get(sample.name, 0) + sample.value
        if f"{METRIC}_count" not in totals:
            return None
        bounds = sorted(cumulative, key=float)
    except (KeyError, ValueError):
        return None
    below = [0.0, *(cumulative[bound] for bound in bounds)]
    return BatchSizes(
        batches=int(totals[f"{METRIC}_count"]),
        images=int(totals.get(f"{METRIC}_sum", 0)),
        up_to={b: int(cumulative[b] - under) for b, under in zip(bounds, below, strict=False)},
    )
