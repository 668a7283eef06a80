"""Shows the progress of a load on stderr, if that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from load_tests.generator.ledger import Progress


@contextmanager
def shown(duration_s: float, title: str = "load") -> Iterator[Callable[[Progress], None] | None]:
    """Yield a function that shows a run's progress; None if stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    # Twice a second: the display shares the client's core.
    with Bar(*columns, console=console, transient=True, refresh_per_second=2) as bar:
        task = bar.add_task(title, total=duration_s, facts="")
        yield lambda p: bar.update(task, completed=min(p.elapsed_s, duration_s), facts=facts(p))


def facts(progress: Progress) -> str:
    """Return one line with counts, the rate and latencies."""
    parts = [
        f"done {progress.done}",
        f"{progress.answered_per_s:.0f}/s",
        f"refused {progress.refused}",
        f"errors {progress.errors}",
    ]
    if progress.vanished:
        parts.append(f"vanished {progress.vanished}")
    if progress.p50_ms is not None and progress.p99_ms is not None:
        parts.append(f"p50 {progress.p50_ms:.1f} ms  p99 {progress.p99_ms:.1f} ms")
    return "  ".join(parts)
