"""The cases of W3C Trace Context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.context import RequestContext
from tidegate.service.tracing.trace_context import parse_traceparent, parse_tracestate

pytestmark = pytest.mark.lengthy

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "passed_on"),
    [
        (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03"),
        (f"01-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be", f"00-{TRACE}-{SPAN}-01"),
        (f"cc-{TRACE}-{SPAN}-01-", f"00-{TRACE}-{SPAN}-01"),
    ],
)
def test_a_valid_traceparent_is_passed_on(value: str, passed_on: str) -> None:
    parent = parse_traceparent(value.encode())

    assert parent is not None
    assert parent.header() == passed_on.encode()
    assert parent.sampled == (passed_on[-1] in "13")


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_an_invalid_traceparent_is_ignored(value: str) -> None:
    assert parse_traceparent(value.encode()) is None


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (b"foo=1", "foo=1"),
        (b" foo=1 ,\tbar@v=2,, ", "foo=1,bar@v=2"),
        (b"0k-_*/=a value", "0k-_*/=a value"),
        (b"foo=1;injected\r\nX: y", ""),
        (b"foo", ""),
        (b"FOO=1", ""),
        (b"foo=\xe9", ""),
        (b"foo=", ""),
        (b",".join(b"k%d=1" % i for i in range(33)), ""),
        (b"a=%s,b=%s,c=1" % (b"x" * 254, b"y" * 253), f"a={'x' * 254},b={'y' * 253}"),
        (b"a=%s,b=%s,c=1" % (b"x" * 255, b"y" * 255), f"a={'x' * 255}"),
    ],
)
def test_a_tracestate_is_passed_on_within_its_bounds(value: bytes, state: str) -> None:
    assert parse_tracestate(value) == state


@given(st.binary(max_size=600))
def test_any_tracestate_becomes_a_header_or_nothing(value: bytes) -> None:
    state = parse_tracestate(value)

    assert len(state) <= 512
    assert state.isascii()
    assert state.isprintable()
    assert parse_tracestate(state.encode()) == state


def test_no_span_id_is_invented() -> None:
    sent = [(b"traceparent", f"01-{TRACE}-{SPAN}-01".encode()), (b"tracestate", b"a=1")]
    context = RequestContext.from_headers([*sent, (b"tracestate", b"b=2")])

    headers = dict(context.response_headers())
    assert headers[b"traceparent"] == f"00-{TRACE}-{SPAN}-01".encode()
    assert headers[b"tracestate"] == b"a=1,b=2"
    assert context.trace_id == TRACE


@pytest.mark.parametrize(
    "sent",
    [
        [(b"tracestate", b"a=1")],
        [(b"traceparent", b"00-x"), (b"tracestate", b"a=1")],
        [(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())] * 2,
    ],
)
def test_without_one_valid_traceparent_nothing_is_passed_on(
    sent: list[tuple[bytes, bytes]],
) -> None:
    context = RequestContext.from_headers(sent)

    names = {name for name, _ in context.response_headers()}
    assert not names & {b"traceparent", b"tracestate"}
    assert context.trace_id is None
