"""A share of hostile images among normal ones, with a quiet phase before and after."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.chaos.decoding import attack
from load_tests.chaos.setting import Server, Traffic, good_traffic
from load_tests.fuzz.memory import until_idle

QUIET_SHARE = 1 / 6  # of the time, before and after
GOODPUT = 0.9  # minimum for normal clients during hostile images; otherwise 1
P99_RATIO = 2.0  # maximum for normal requests, hostile phase to quiet phase
MEMORY_RATIO = 1.1  # maximum, after to before
_IDLE_S = 60.0
_WARM_UP_S = 3.0


@dataclass(frozen=True)
class Phase:
    """The normal clients of one phase, and the server's memory at its end."""

    name: str
    traffic: Traffic
    resident_mb: float

    @property
    def errors(self) -> int:
        """Number of requests without a 200: rejected, failed or unanswered."""
        return self.traffic.sent - self.traffic.statuses["200"]


async def phases(
    server: Server, images: Sequence[bytes], seconds: float, good_rate: float, share: float
) -> list[Phase]:
    """Run a quiet, a hostile and a quiet phase; stop early if the process ends."""
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
    """Return a message for each exceeded limit."""
    if len(done) < 3:
        return ["the process exited"]
    quiet, hostile, after = done
    found = []
    for phase, least in ((quiet, 1.0), (hostile, GOODPUT), (after, 1.0)):
        if phase.traffic.goodput < least:
            found.append(f"{phase.name}: {phase.traffic}")
    hostile_p99, quiet_p99 = (phase.traffic.quantile_ms(0.99) for phase in (hostile, quiet))
    if not hostile_p99 <= P99_RATIO * quiet_p99 < math.inf:
        found.append(f"p99 {hostile_p99:.0f} ms, quiet {quiet_p99:.0f} ms")
    if (grown := after.resident_mb / quiet.resident_mb) > MEMORY_RATIO:
        found.append(f"memory {grown:.2f} × that before")
    return found
