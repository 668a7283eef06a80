from __future__ import annotations

import hashlib

import pytest

from tidegate.service.api.clients import Clients
from tidegate.service.api.keys import MAX_KEYS, hash_of, new_key, parse_keys
from tidegate.service.api.limits import Quota

ONE, OTHER = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"other").hexdigest()


def test_a_key_belongs_to_the_client_of_its_line() -> None:
    ring = parse_keys(
        f"# name sha256 scopes rate burst concurrent weight\n\n"
        f"camera-1 {ONE} classify,feedback 2.5 10 4 3  # the gate\r\n"
        f"ops\t{OTHER} metrics,admin".encode()
    )

    camera, ops = ring.find(b"one"), ring.find(b"other")
    assert camera is not None
    assert (camera.name, set(camera.scopes)) == ("camera-1", {"classify", "feedback"})
    assert (camera.rate, camera.burst, camera.concurrent, camera.weight) == (2.5, 10, 4, 3)
    assert ops is not None
    assert (set(ops.scopes), ops.rate, ops.weight) == ({"metrics", "admin"}, None, 1)
    assert ring.find(b"One") is None
    assert ring.find(b"") is None


def test_a_new_key_is_found_by_its_hash_and_is_never_the_same() -> None:
    keys = [new_key(), new_key()]
    ring = parse_keys(f"a {hash_of(keys[0])} classify".encode())

    assert len(set(keys)) == 2
    assert ring.find(keys[0].encode()) is not None
    assert ring.find(keys[1].encode()) is None


def test_a_client_may_have_two_keys_while_one_is_replaced() -> None:
    ring = parse_keys(f"a {ONE} classify 1\na {OTHER} classify 1".encode())

    assert ring.find(b"one") == ring.find(b"other")
    assert list(ring.by_name()) == ["a"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("camera", "1 columns"),
        (f"a {ONE} classify 1 1 1 1 1", "8 columns"),
        (f"a:b {ONE} classify", "is not a name"),
        (f"-a {ONE} classify", "is not a name"),
        (f"{'a' * 65} {ONE} classify", "is not a name"),
        (f"a {ONE.upper()} classify", "64 lower-case"),
        (f"a {ONE[:-1]} classify", "64 lower-case"),
        (f"a {ONE} classify,", "'' is not a scope"),
        (f"a {ONE} Classify", "'Classify' is not a scope"),
        (f"a {ONE} classify fast", "rate is 'fast'"),
        (f"a {ONE} classify nan", "rate is 'nan'"),
        (f"a {ONE} classify -1", "rate is '-1'"),
        (f"a {ONE} classify 1e3", "rate is '1e3'"),
        (f"a {ONE} classify 1_0", "rate is '1_0'"),
        (f"a {ONE} classify ١", "rate is '١'"),
        (f"a {ONE} classify 1 0", "burst is '0'"),
        (f"a {ONE} classify 1 1.5", "burst is '1.5', but must be an integer"),
        (f"a {ONE} classify 1 1 0", "concurrent is '0'"),
        (f"a {ONE} classify 1 1 1 0", "weight is '0'"),
        (f"b {OTHER} classify", "this sha256 is also in line 1"),
        (f"first {ONE} admin", "first has other scopes or limits in line 1"),
        (f"first {ONE} classify 5", "first has other scopes or limits in line 1"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^line 3: .*{reason}"):
        parse_keys(f"first {OTHER} classify\n#\n{line}".encode())


def test_a_file_without_keys_or_with_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="no keys"):
        parse_keys(b"# nothing\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        parse_keys(b"\xff")
    many = "\n".join(f"a {hash_of(str(i))} classify" for i in range(MAX_KEYS + 1))
    with pytest.raises(ValueError, match="1,001 keys"):
        parse_keys(many.encode())


def test_a_client_without_limits_of_its_own_has_the_usual_ones() -> None:
    names: list[frozenset[str]] = []
    clients = Clients(Quota(5, 32), names.append)
    clients.use(parse_keys(f"a {ONE} classify - 7 2 4\nb {OTHER} classify 0".encode()))

    assert clients.quota_of("key:a") == Quota(5, 7, 2)
    assert clients.quota_of("key:b") == Quota(0, 32)
    assert clients.quota_of("192.0.2.1") == Quota(5, 32)
    assert (clients.weight_of("key:a"), clients.weight_of("192.0.2.1")) == (4, 1)
    assert names == [{"a", "b"}]
