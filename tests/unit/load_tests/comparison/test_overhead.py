from __future__ import annotations

import pytest

from load_tests.comparison.overhead import Ratio, order, with_header


def test_a_ratio_compares_windows_pair_by_pair() -> None:
    drifting = [1.0, 2.0, 4.0, 8.0]

    ratio = Ratio.of(drifting, [1.02 * value for value in drifting])

    assert ratio.pairs == 4
    assert (ratio.low, ratio.mean, ratio.high) == pytest.approx((1.02, 1.02, 1.02))


def test_a_noisy_ratio_has_a_wide_interval() -> None:
    ratio = Ratio.of([1.0, 1.0], [0.9, 1.1])

    assert ratio.low < 0.9
    assert ratio.high > 1.05


def test_each_server_is_first_in_half_of_the_pairs() -> None:
    assert order(2) == [False, True, True, False]


def test_a_header_is_added_to_the_head_only() -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n"

    assert with_header(request, "X-A", "b") == (
        b"POST / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\nbody\r\n\r\n"
    )
