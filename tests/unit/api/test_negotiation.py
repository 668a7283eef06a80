"""The format of a scrape is the best one that the scraper names."""

import pytest

from tidegate.service.api.negotiation import accepts_gzip, content_type_of

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
PLAIN_1 = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PREFERS_TEXT = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (PROMETHEUS_3, OPEN),
        (PROMETHEUS_2, OPEN),
        ("application/openmetrics-text", OPEN),
        ("Application/OpenMetrics-Text; Version=1.0.0", OPEN),
        ("text/plain;version=1.0.0", PLAIN_1),
        (PREFERS_TEXT, PLAIN),
        ("application/openmetrics-text;q=0, */*", PLAIN),
        ("application/openmetrics-text;version=0.0.1", PLAIN),
        ("application/openmetrics-text;version=²", PLAIN),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", PLAIN),
        ("", PLAIN),
        (",;=;q=,", PLAIN),
    ],
)
def test_the_best_format_that_is_named_is_sent(accept: str, content_type: str) -> None:
    assert content_type_of(accept) == content_type


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("identity", False),
        ("", False),
    ],
)
def test_gzip_is_sent_to_whom_accepts_it(accept_encoding: str, accepted: bool) -> None:
    assert accepts_gzip(accept_encoding) is accepted
