"""Files that are read again when their content changes. A bad new file changes nothing.

It has no thread and no clock: the caller polls.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tidegate.service.files import read_small

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20  # of each file


class FollowedFiles:
    """Files that belong together, such as a certificate and its key.

    Contents are compared, not times, so that links that are exchanged, as in a ConfigMap or a
    Secret, are seen. A change counts once it is the same in two polls: one file may be new and the
    other not yet, or an editor may have written half of it.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        load: Callable[[], object],
        on_refused: Callable[[bool], object],
        fallback: Callable[[], object] | None = None,
    ) -> None:
        """`load` reads the files and raises ValueError or OSError if it cannot use them.

        `on_refused` is called with whether what is on disk is refused. `fallback` uses what another
        process has loaded before. Raises the same errors if there is none.
        """
        self.is_logging = True  # set to False where another process logs the same
        self._what = what
        self._paths = paths
        self._load = load
        self._on_refused = on_refused
        self._known = self._last = b""
        self._refusal = ""  # why `_known` is refused; "" if it is in use
        self._reported = ""
        try:
            self._known = self._last = self._fingerprint()
            load()
        except (ValueError, OSError) as error:
            if fallback is None:
                raise
            fallback()
            self._refusal = f"{error}"
        on_refused(bool(self._refusal))

    @property
    def known(self) -> bytes:
        """Return what identifies the content that was loaded, or refused, last."""
        return self._known

    def poll(self) -> None:
        """Load the files if they have changed. What was loaded before stays if that fails."""
        try:
            now = self._fingerprint()
        except (ValueError, OSError) as error:
            self._last = b""
            self._report(f"{error}")
            return
        settled, self._last = now == self._last, now
        if not settled:
            return
        if now != self._known:
            self._known, self._refusal = now, self._try_load()
        self._report(self._refusal)

    def _try_load(self) -> str:
        try:
            self._load()
        except (ValueError, OSError) as error:
            return f"{error}"
        if self.is_logging:
            log.info("%s reloaded", self._what)
        return ""

    def _report(self, problem: str) -> None:
        """Log a problem once, however often it is found."""
        if problem and problem != self._reported and self.is_logging:
            log.error("%s not reloaded, what was loaded before stays: %s", self._what, problem)
        self._reported = problem
        self._on_refused(bool(problem))

    def _fingerprint(self) -> bytes:
        digest = hashlib.sha256()
        for path in self._paths:
            content = read_small(path, MAX_BYTES)
            digest.update(b"%d:" % len(content) + content)
        return digest.digest()
