"""The sampler of the standard variables decides, and a caller's decision is honoured."""

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.unit.tracing.samples import SPAN, TRACE
from tidegate.service.tracing.sampling import Sampling
from tidegate.service.tracing.trace_context import TraceParent


def _sampling(monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str = "") -> Sampling:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    return Sampling(TracerProvider(shutdown_on_exit=False).sampler)


@pytest.mark.parametrize(
    ("sampler", "argument", "flags", "traced"),
    [
        ("parentbased_always_on", "", 1, True),
        ("parentbased_always_on", "", 0, False),
        ("parentbased_always_off", "", 1, True),
        ("parentbased_traceidratio", "0", 1, True),
        ("parentbased_traceidratio", "1", 0, False),
        ("always_on", "", 0, True),
        ("always_off", "", 1, False),
        ("traceidratio", "1", 0, True),
    ],
)
def test_a_parent_based_sampler_honours_the_sampled_bit(
    monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, flags: int, traced: bool
) -> None:
    sampling = _sampling(monkeypatch, sampler, argument)
    span = sampling.decide(TraceParent(TRACE, SPAN, flags), "a=1", forced=False)

    assert (span is not None) is traced
    if span is not None:
        assert span.trace_id == TRACE
        assert span.span_id != SPAN
        assert span.sampled


def test_a_forced_request_is_traced_whatever_the_sampler_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampling = _sampling(monkeypatch, "always_off")

    assert sampling.decide(None, "", forced=True) is not None
    assert sampling.decide(TraceParent(TRACE, SPAN, 0), "", forced=True) is not None
    assert sampling.decide(None, "", forced=False) is None


def test_the_share_of_new_traces_is_that_of_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = _sampling(monkeypatch, "parentbased_traceidratio", "0.25")
    spans = [sampling.decide(None, "", forced=False) for _ in range(4000)]

    traced = [span for span in spans if span is not None]
    assert 800 < len(traced) < 1200  # 7 standard deviations
    assert len({span.trace_id for span in traced}) == len(traced)
