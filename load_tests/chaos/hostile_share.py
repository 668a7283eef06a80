"""A share of hostile images among sound ones, with a quiet phase before and after."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.chaos.decoding import attack
from load_tests.chaos.setting import Server, Traffic, good_traffic
from load_tests.fuzz.memory import until_idle

QUIET_SHARE = 1 / 6  # of the time, before and after
P99_RATIO = 2.0  # with hostile images beside, at most
MEMORY_RATIO = 1.1  # afterwards, at most
_IDLE_S = 60.0
_WARM_UP_S = 3.0


@dataclass(frozen=True)
class Phase:
    """The sound clients of one phase, and the server's memory at its end."""

    name: str
    traffic: Traffic
    resident_mb: float

    @property
    def errors(self) -> int:
        """Answers of 5xx that are not a refusal, and requests without an answer."""
        counts = self.traffic.statuses
        return sum(
            n
            for status, n in counts.items()
            if status == "None" or (status.startswith("5") and status not in ("503", "504"))
        )


async def phases(
    server: Server, images: Sequence[bytes], seconds: float, good_rate: float, share: float
) -> list[Phase]:
    """Run quiet, hostile and quiet again; stop early when the process ends."""
    await good_traffic(server, good_rate, _WARM_UP_S)
    hostile_rate = good_rate * share / (1 - share)
    done = []
    for name, part in (
        ("quiet", QUIET_SHARE),
        ("hostile", 1 - 2 * QUIET_SHARE),
        ("after", QUIET_SHARE),
    ):
        hostile = None
        if name == "hostile":
            hostile = asyncio.create_task(
                attack(server, list(images), hostile_rate, seconds * part)
            )
        traffic = await good_traffic(server, good_rate, seconds * part)
        if hostile is not None:
            await hostile
        await until_idle(server.pid, _IDLE_S)
        done.append(Phase(name, traffic, server.memory.resident_mb()))
        if not server.alive():
            break
    return done


def missed(done: Sequence[Phase]) -> list[str]:
    """Return the promises that were not kept."""
    if len(done) < 3:
        return ["the process ended"]
    quiet, hostile, after = done
    found = []
    if errors := sum(phase.errors for phase in done):
        found.append(f"{errors} errors")
    ratio = hostile.traffic.quantile_ms(0.99) / max(1e-9, quiet.traffic.quantile_ms(0.99))
    if ratio > P99_RATIO:
        found.append(f"p99 {ratio:.1f} × the quiet one")
    if (grown := after.resident_mb / quiet.resident_mb) > MEMORY_RATIO:
        found.append(f"memory {grown:.2f} × the one before")
    return found
