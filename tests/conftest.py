from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from tests.process_state import process_state
from tests.server import DEMO_BUNDLE, PATIENCE_S, PHOTOS, Server, running

# On a busy machine an example may take long, which is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

NOT_QUICK = ("process", "lengthy")  # markers of tests that `make unit` leaves out


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu", action="store_true", help="a GPU test that would be skipped fails instead"
    )
    parser.addoption("--front-ends", metavar="N", help="start every server with N front ends")
    parser.addoption("--quick", action="store_true", help="leave out what takes long")


def pytest_configure(config: pytest.Config) -> None:
    if (front_ends := config.getoption("--front-ends")) is not None:
        os.environ["TIDEGATE_FRONT_ENDS"] = front_ends  # `tests.server` passes it on


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the quick files last, so that no worker ends long after the others."""
    if config.getoption("--quick"):
        left_out = [item for item in items if any(map(item.get_closest_marker, NOT_QUICK))]
        items[:] = [item for item in items if not any(map(item.get_closest_marker, NOT_QUICK))]
        config.hook.pytest_deselected(items=left_out)
    items.sort(
        key=lambda item: "unit" in item.path.parts and not item.get_closest_marker("process")
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    gc.disable()  # everything that is collected stays


def pytest_collection_finish() -> None:
    """Keep the collected tests out of every garbage collection of the run."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = item.config.getoption("--require-gpu") and item.get_closest_marker("gpu")
    if report.skipped and required and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"--require-gpu, but: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="module")
def the_process_stays_as_it_was() -> Iterator[None]:
    """Fail a file of tests that leaves the process changed for the tests after it."""
    before = process_state()
    # These the service sets for good: variables of CUDA, and Pillow's own bound.
    environment, bound = os.environ.copy(), Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = bound
    os.environ.clear()
    os.environ.update(environment)
    after = process_state()
    changed = {what: (before[what], after[what]) for what in before if before[what] != after[what]}
    assert not changed, "a test of this file leaves the process changed"


@pytest.fixture(scope="session")
def demo_bundle() -> Path:
    assert (DEMO_BUNDLE / "manifest.json").exists(), "the demo bundle is missing: run `make bundle`"
    return DEMO_BUNDLE


@pytest.fixture(scope="session")
def server(demo_bundle: Path) -> Iterator[Server]:
    """One real server, shared by all tests that do not change its state."""
    with running(demo_bundle, grpc_port=0) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as opened:
        yield opened


@pytest.fixture(scope="session")
def chelsea() -> bytes:
    return (PHOTOS / "chelsea.png").read_bytes()
