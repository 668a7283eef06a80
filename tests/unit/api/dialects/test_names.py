from __future__ import annotations

import pytest

from tidegate.service.api.dialects.catalogue import _BUILDERS
from tidegate.service.api.dialects.names import NAMES, parse_names


def test_every_dialect_has_a_builder() -> None:
    assert set(_BUILDERS) == set(NAMES)


def test_a_list_is_read_in_its_order() -> None:
    assert parse_names(" v2 , ") == ("v2",)


def test_none_turns_all_off() -> None:
    assert parse_names("none") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v22", "there is no dialect 'v22'; did you mean v2?"),
        ("grpc", "there is no dialect 'grpc' (one of: "),
        ("v2,v2", "listed twice"),
        ("v2,none", "there is no dialect 'none'"),
    ],
)
def test_another_name_is_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_names(text)

    assert message in str(caught.value)
