"""What can go wrong while a bundle is made and is the maker's to mend."""

from __future__ import annotations

from tidegate.service.errors import TidegateError


class BuildRefused(TidegateError):
    """A source is missing, changed or unsafe, or what was built is not what was calibrated."""
