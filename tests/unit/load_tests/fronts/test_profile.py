"""Samples of py-spy are summed up by the part of the service that they are in."""

import pytest

from load_tests.fronts.profile import shares
from load_tests.fronts.shapes import Profile, Window, findings_of_profiles
from load_tests.generator.loops import Outcome

LOOP = "thread (1): MainThread;run (/lib/asyncio/runners.py:118)"
STACKS = f"""\
{LOOP} 10
{LOOP};classify (/app/service/pipeline.py:9);softmax (/app/service/deciding.py:60) 30
{LOOP};_record (/app/service/api/context.py:1);info (/lib/logging/__init__.py:1489) 40
{LOOP};_count (/app/service/pipeline.py:5);observe (/site/prometheus_client/metrics.py:6) 20
thread (2): decode-0;run (/app/service/batching/decoders.py:9) 900
"""


def test_a_sample_counts_for_the_innermost_part_of_the_main_thread() -> None:
    assert shares(STACKS) == {
        "access log": 0.4,
        "softmax and best classes": 0.3,
        "metrics": 0.2,
        "event loop": 0.1,
    }


def test_the_parts_are_given_in_time_per_image() -> None:
    now, before = Profile(), Profile()
    for profile, loop_s in ((now, 0.5), (before, 1.0)):
        profile.shape.add([Outcome(0.0, 0.01, 0.0, 200)] * 1000, Window(1.0, 0.9, loop_s, 0.0))
        profile.shares.append(shares(STACKS))

    both = findings_of_profiles({"": now, "before, ": before})

    found = {f.quantity: f.value for f in both}
    assert found["before, loop: access log"] == pytest.approx(400)
    assert found["event loop, now ÷ before, median of rounds"] == pytest.approx(0.5)

    assert found["CPU per image of the process"] == pytest.approx(900)
    assert found["loop: access log"] == pytest.approx(200)
    assert found["loop: event loop"] == pytest.approx(50)
