"""The arguments and the result of every scenario."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from load_tests.client.requests import Target
from load_tests.generator.ledger import Progress
from load_tests.generator.run import Load, Run, drive
from load_tests.scenarios.findings import Finding
from load_tests.server.sampling import Sample

Show = Callable[[float, str], AbstractContextManager[Callable[[Progress], None] | None]]


@dataclass(frozen=True)
class Setting:
    """The server under test, its requests, and the progress display."""

    target: Target
    server_pid: int
    requests: Callable[[float | None], list[bytes]]  # deadline in ms → whole HTTP requests
    show: Show  # duration in seconds and a title → shows the progress
    capacity: float | None = None  # images per second; None measures it
    timeout_s: float = 10.0
    seed: int = 0

    async def drive(self, title: str, load: Load) -> Run:
        """Run one load against the server and show its progress."""
        with self.show(load.duration_s, title) as on_progress:
            return await drive(
                self.target,
                self.requests(load.deadline_ms),
                load,
                server_pid=self.server_pid,
                on_progress=on_progress,
            )

    def at_rate(self, rate: float, duration_s: float, deadline_ms: float | None = None) -> Load:
        """Return an open loop with this setting's seed and timeout."""
        return Load(
            duration_s,
            rate=rate,
            deadline_ms=deadline_ms,
            timeout_s=self.timeout_s,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Result:
    """A scenario's findings, its runs by name, and samples of the server's resources."""

    findings: list[Finding]
    runs: dict[str, Run] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
