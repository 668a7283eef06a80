"""The errors of building a bundle that the user can fix."""

from __future__ import annotations

from tidegate.service.errors import TidegateError


class BuildRefused(TidegateError):
    """A source is missing, changed or unsafe, or the result differs from what was calibrated."""
