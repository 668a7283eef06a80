from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.bundle.tiny_bundle import put, sound_files


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is warm at once and accepts every photo, for tests of what is around it.

    A server with the demo bundle uses twice as much CPU time until it is ready.
    """
    return put(tmp_path_factory.mktemp("small") / "bundle", sound_files())
