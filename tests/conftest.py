from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.server import DEMO_BUNDLE, PATIENCE_S, PHOTOS, Server, running

# On a busy machine an example may take long, which is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu", action="store_true", help="a GPU test that would be skipped fails instead"
    )
    parser.addoption("--front-ends", metavar="N", help="start every server with N front ends")


def pytest_configure(config: pytest.Config) -> None:
    if (front_ends := config.getoption("--front-ends")) is not None:
        os.environ["TIDEGATE_FRONT_ENDS"] = front_ends  # `tests.server` passes it on


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the quick files last, so that no worker ends long after the others."""
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
def loggers_stay_as_they_were() -> Iterator[None]:
    """Fail a file of tests that leaves Tidegate's loggers changed for the tests after it."""
    before = _changed_loggers()
    yield
    assert _changed_loggers() == before, "a test of this file leaves loggers changed"


def _changed_loggers() -> dict[str, tuple[int, bool, bool]]:
    """Return the level of each of Tidegate's loggers that is not as Python makes it."""
    made = (logging.NOTSET, False, True)
    found = {"": (logging.root.level, logging.root.disabled, logging.root.propagate)}
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("tidegate") and isinstance(logger, logging.Logger):
            found[name] = (logger.level, logger.disabled, logger.propagate)
    return {name: state for name, state in found.items() if state != made}


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
