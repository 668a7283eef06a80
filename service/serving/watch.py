"""Whether what should be served has changed. It has no thread and no clock: the caller polls."""

from __future__ import annotations

import logging

from tidegate.service.errors import ServingInvalid
from tidegate.service.serving.serving_file import Found, find

log = logging.getLogger(__name__)


class Watch:
    """Compares the serving file and the complete versions with what was read last.

    It compares content, not times, so that links that are exchanged, as in a ConfigMap, are seen.
    A change counts once it is the same in two polls: an editor may have written half of the file.
    A file that is gone or cannot be read is no change.
    """

    def __init__(self, found: Found) -> None:
        self._place = found.place
        self._had_file = found.content is not None
        self._repository = found.repository
        self._known = self._last = found.fingerprint
        self._problem = ""

    def poll(self) -> Found | None:
        """Return what is there now if it differs from what was returned last, otherwise None."""
        try:
            found = find(self._place, self._repository)
        except ServingInvalid as error:
            if f"{error}" != self._problem:
                log.warning("serving file not read: %s", error)
            self._problem = f"{error}"
            return None
        self._problem, self._repository = "", found.repository
        if found.content is None and self._had_file:
            return None
        settled, self._last = found.fingerprint == self._last, found.fingerprint
        if not settled or found.fingerprint == self._known:
            return None
        self._known, self._had_file = found.fingerprint, found.content is not None
        return found
