"""Records survive the stream, however it cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.batching.records import BYTES, Kind, Record, RecordReader, Status, pack

records = st.builds(
    Record,
    st.sampled_from(Kind),
    st.sampled_from(Status) | st.integers(0, 255),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False),
)


@pytest.mark.lengthy
@given(st.lists(records), st.lists(st.integers(1, 3 * BYTES)))
def test_records_are_read_as_they_were_written(sent: list[Record], cuts: list[int]) -> None:
    stream, reader = b"".join(map(pack, sent)), RecordReader()

    read = []
    for cut in cuts:
        read += list(reader.feed(stream[:cut]))
        stream = stream[cut:]
    read += list(reader.feed(stream))

    assert read == sent


@given(records)
def test_a_record_has_32_bytes(record: Record) -> None:
    assert len(pack(record)) == BYTES == 32
