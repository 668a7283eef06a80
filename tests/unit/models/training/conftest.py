from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tidegate.models.importers.torch_runtime import require


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """Leave torch's threads as they were, and no handler of its processes that load images."""
    threads, handler = require("torch").get_num_threads(), signal.getsignal(signal.SIGCHLD)
    yield
    require("torch").set_num_threads(threads)
    signal.signal(signal.SIGCHLD, handler)
