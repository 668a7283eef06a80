"""Rows of a Spark DataFrame are the command's, also if an executor is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.conftest import BUNDLE, assert_equal, by_name

pytest.importorskip("pyspark", reason="needs the extra spark: make test-clusters")
pytest.importorskip("pandas", reason="needs the extra spark: make test-clusters")

from tidegate.spark import Classifier, Rows, classify

pytestmark = pytest.mark.slow
ROWS = Rows("content", features=True)


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A local cluster of two executors, each a process of its own with one core."""
    from pyspark.sql import SparkSession

    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    builder = (
        SparkSession.builder.master("local-cluster[2,1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "8")
    )
    try:
        session = builder.getOrCreate()
    except Exception as error:  # noqa: BLE001 - without Java, or with one that is too old
        pytest.skip(f"Spark does not start: {error}")
    yield session
    session.stop()


def frame(spark: Any, images: Path) -> Any:
    return spark.read.format("binaryFile").load(f"file://{images}/*").repartition(6)


def rows_of(frame: Any) -> dict[str, dict[str, Any]]:
    return by_name(row.asDict(recursive=True) for row in frame.collect())


def test_the_rows_are_those_of_the_command(
    spark: Any, images: Path, expected: dict[str, Any]
) -> None:
    rows = classify(frame(spark, images), BUNDLE, ROWS, batch_size=4)

    assert_equal(rows_of(rows), expected)


def test_an_executor_that_is_killed_loses_nothing(
    spark: Any, images: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    classifier, marker = Classifier(BUNDLE, ROWS, batch_size=4), str(tmp_path / "killed")

    def killed_once(frames: Any) -> Any:
        for number, frame in enumerate(classifier(frames)):
            if number and not os.path.exists(marker):
                open(marker, "w").close()
                with open(f"/proc/{os.getppid()}/stat") as stat:  # the parent's is the executor
                    os.kill(int(stat.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
            yield frame

    rows = frame(spark, images).mapInPandas(killed_once, classifier.schema)

    assert_equal(rows_of(rows), expected)
    assert os.path.exists(marker)
