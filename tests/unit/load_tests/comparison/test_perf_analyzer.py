"""What perf_analyzer is given, and what is made of its report."""

import base64
import json
import struct

import pytest

from load_tests.client.synthetic_images import Picture
from load_tests.comparison.perf_analyzer import Analysed, compare, input_data, parse
from load_tests.errors import MeasurementFailed

REPORT = """Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p99 latency
8,102.5,51,75000,90000,120500
"""


def test_images_are_elements_of_the_input() -> None:
    [entry] = json.loads(input_data([Picture("a.jpg", b"image")]))["data"]

    assert base64.b64decode(entry["image"]["b64"]) == struct.pack("<I", 5) + b"image"


def test_the_report_is_read_in_milliseconds() -> None:
    assert parse(REPORT, 18.5) == Analysed(102.5, 75.0, 120.5, 18.5)


@pytest.mark.parametrize("report", ["", "Concurrency,p50 latency\n8,1\n"])
def test_a_report_without_figures_is_an_error(report: str) -> None:
    with pytest.raises(MeasurementFailed, match="reported no figures"):
        parse(report, 1.0)


def test_ratios_are_of_the_same_round() -> None:
    ours = [Analysed(per_s, 10.0, 20.0, 9.0) for per_s in (100.0, 50.0, 120.0)]
    peer = [Analysed(per_s, 20.0, 40.0, 18.0) for per_s in (50.0, 25.0, 60.0)]

    found = {f.quantity: f.value for f in compare({"ours": ours, "peer": peer})}

    assert found["images per second, ours"] == 100.0
    assert found["images per second, ratio"] == 2.0
    assert found["CPU per image, ratio"] == 0.5
    assert found["rounds"] == 3
