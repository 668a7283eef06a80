"""The spans of a request are its steps, with the times at which they happened."""

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.unit.tracing.samples import SPAN, TRACE, a_request, an_image
from tidegate.service.progress import BatchRun, Progress
from tidegate.service.tracing.request import TracedRequest
from tidegate.service.tracing.spans import MOST_IMAGES, Spans
from tidegate.service.tracing.trace_context import TraceParent


def spans_of(*requests: TracedRequest) -> list[ReadableSpan]:
    return Spans(Resource({}), "0").of(requests)


def _times(spans: list[ReadableSpan]) -> dict[str, tuple[float, float]]:
    return {s.name: ((s.start_time or 0) / 1e9, (s.end_time or 0) / 1e9) for s in spans}


def test_the_steps_of_an_image() -> None:
    run = BatchRun(started=15.0, engine_s=2.0, images=3)
    spans = spans_of(a_request(images=[an_image(run)]))

    steps = ["read", "queue", "queue", "decode", "engine", "gates"]
    assert [span.name for span in spans] == [*steps, "POST /classify", "batch"]
    assert _times(spans) == {
        "read": (10.0, 11.0),
        "queue": (13.0, 15.0),  # the second: for the slot
        "decode": (12.0, 13.0),
        "engine": (15.0, 17.0),
        "gates": (18.0, 18.5),
        "POST /classify": (10.0, 20.0),
        "batch": (15.0, 17.0),
    }
    server = spans[-2]
    assert server.kind is SpanKind.SERVER
    assert server.context is not None
    assert (server.context.trace_id, server.context.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert server.parent is None
    assert all(span.parent == server.context for span in spans[:-2])


def test_a_span_is_below_the_callers() -> None:
    parent = TraceParent(TRACE, "b7ad6b7169203331", 1)
    [server] = spans_of(a_request(parent=parent))

    assert server.parent is not None
    assert server.parent.is_remote
    assert server.parent.span_id == 0xB7AD6B7169203331


def test_images_of_one_batch_share_its_span() -> None:
    run, builder = BatchRun(started=15.0, engine_s=2.0, images=3), Spans(Resource({}), "0")
    others = [TraceParent(digit * 32, digit * 16, 1) for digit in "12"]
    exported = builder.of([a_request(span=span, images=[an_image(run)]) for span in others])
    later = builder.of([a_request(images=[an_image(run)])])

    [batch] = [span for span in exported if span.name == "batch"]
    engines = [span for span in [*exported, *later] if span.name == "engine"]
    assert len(engines) == 3
    assert [link.context for engine in engines for link in engine.links] == [batch.context] * 3
    assert [link.context for link in batch.links] == [engine.context for engine in engines[:2]]
    assert [span.name for span in later].count("batch") == 0
    assert batch.attributes == {"tidegate.batch_size": 3}


def test_an_image_that_was_never_decoded_waited_until_its_end() -> None:
    spans = spans_of(a_request(images=[an_image(decode_at=None)], failed=True))

    assert [span.name for span in spans] == ["read", "queue", "POST /classify"]
    assert _times(spans)["queue"] == (11.0, 19.0)
    assert spans[-1].status.status_code is StatusCode.ERROR


def test_an_image_that_was_not_admitted_has_no_queue() -> None:
    spans = spans_of(a_request(images=[Progress(received=11.0, ended=11.0)]))

    assert [span.name for span in spans] == ["read", "POST /classify"]


def test_short_waits_have_no_span_unless_there_is_no_other() -> None:
    image = an_image(BatchRun(started=13.00001, engine_s=2.0, images=1), decode_at=11.00001)
    names = [span.name for span in spans_of(a_request(images=[image]))]

    assert names.count("queue") == 1


def test_the_spans_of_a_request_with_many_images_are_bounded() -> None:
    spans = spans_of(a_request(images=[an_image()] * (MOST_IMAGES + 5)))

    assert [span.name for span in spans].count("image") == MOST_IMAGES
