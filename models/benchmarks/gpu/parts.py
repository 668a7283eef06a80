"""Run the parts of a report separately: a failure is recorded and does not stop other parts."""

from __future__ import annotations

from collections.abc import Callable

from tidegate.models.progress import say
from tidegate.service.engines.faults import Fault, fault_of

Keep = Callable[[dict[str, object]], None]


class Parts:
    """Runs a report's parts; failures and their reasons are the report's `not_run`."""

    def __init__(self, report: dict[str, object], keep: Keep) -> None:
        """`keep` gets the report after every part, so that a lost machine loses only one part."""
        self.not_run: list[str] = []
        self._report = report
        self._keep = keep
        self._begun = ""  # the last part
        self._lost_in = ""  # the part in which this process lost its device
        report["not_run"] = self.not_run

    def run(self, name: str, part: Callable[[], object]) -> None:
        """Run a part, which adds its results to the report."""
        say(name)
        self._begun = name
        self._try(name, part)
        self._keep(self._report)

    def run_on_device(self, name: str, part: Callable[[], object]) -> None:
        """Run a part in this process, unless the process has lost its device."""
        if self._lost_in:
            self.not_run.append(f"{name}: skipped, as the device was lost in: {self._lost_in}")
        else:
            self.run(name, part)

    def close(self, name: str, close: Callable[[], None]) -> None:
        """Release a part's resources; on a lost device, this fails as well."""
        self._try(f"{name}, closing", close)

    def _try(self, name: str, part: Callable[[], object]) -> None:
        try:
            part()
        except Exception as error:  # noqa: BLE001 - the runtimes' errors have no common base
            self.not_run.append(f"{name}: {type(error).__name__}: {error}")
            if not self._lost_in and _lost(error):
                self._lost_in = self._begun


def _lost(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes means that the device is lost."""
    while error is not None:
        if fault_of(error) is Fault.LOST:
            return True
        error = error.__cause__ or error.__context__
    return False
