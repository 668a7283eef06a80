from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.service.api.access import ADMIN_TOKEN, Access, scopes_of
from tidegate.service.api.clients import Clients
from tidegate.service.api.context import RequestContext
from tidegate.service.api.keys import SCOPES, parse_keys
from tidegate.service.api.limits import Quota, client_of
from tidegate.service.errors import Forbidden, Unauthorized

KEYS = {scope: f"key-for-{scope}" for scope in SCOPES}
FILE = "\n".join(
    f"{scope} {hashlib.sha256(key.encode()).hexdigest()} {scope}" for scope, key in KEYS.items()
)
OPEN = [
    ("GET", "/"),
    ("GET", "/livez"),
    ("HEAD", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/v2/health/ready"),
    ("POST", "/inference.GRPCInferenceService/ServerReady"),
    ("OPTIONS", "/classify"),
]
CLOSED = [
    ("POST", "/classify", {"classify"}),
    ("POST", "/classify/batch", {"classify"}),
    ("POST", "/models/a/versions/1/classify", {"classify"}),
    ("POST", "/", {"classify"}),
    ("POST", "/livez", {"classify"}),
    ("GET", "/models", {"classify", "metrics"}),
    ("GET", "/models/a", {"classify", "metrics"}),
    ("GET", "/models/a/versions/1", {"classify", "metrics"}),
    ("GET", "/models/a/rollout", {"metrics"}),
    ("GET", "/models/a/versions/1/drift", {"metrics"}),
    ("GET", "/drift", {"metrics"}),
    ("GET", "/metrics", {"metrics"}),
    ("HEAD", "/metrics", {"metrics"}),
    ("POST", "/feedback", {"feedback"}),
    ("POST", "/admin/reload", {"admin"}),
    ("POST", "/admin/models/a/promote", {"admin"}),
    ("GET", "/nothing", {"classify"}),
    ("POST", "/v2/models/a/infer", {"classify"}),
    ("POST", "/inference.GRPCInferenceService/ModelInfer", {"classify"}),
]


def with_keys(token: bytes | None = None) -> Access:
    clients = Clients(Quota(0, 1), lambda names: None)
    clients.use(parse_keys(FILE.encode()))
    return Access(clients, token)


def admit(access: Access, method: str, path: str, *headers: tuple[str, str]) -> dict[str, Any]:
    """Return the scope of an admitted request."""
    scope: dict[str, Any] = {
        "method": method,
        "path": path,
        "client": ("192.0.2.1", 1),
        "query_string": b"api_key=key-for-classify&x-api-key=key-for-classify",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    scope["context"] = RequestContext("")
    access.admit(scope, scope["context"])
    return scope


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_probes_and_pages_are_open(method: str, path: str) -> None:
    assert client_of(admit(with_keys(), method, path)) == "192.0.2.1"


@pytest.mark.parametrize(("method", "path", "scopes"), CLOSED)
def test_every_other_route_needs_one_of_its_scopes(
    method: str, path: str, scopes: set[str]
) -> None:
    access = with_keys()

    for wrong in ([], [("x-api-key", "guess")]):
        with pytest.raises(Unauthorized):
            admit(access, method, path, *wrong)
    for scope, key in KEYS.items():
        if scope in scopes:
            admitted = admit(access, method, path, ("x-api-key", key))
            assert admitted["context"].client == scope
            assert client_of(admitted) == f"key:{scope}"
        else:
            with pytest.raises(Forbidden, match=" or ".join(sorted(scopes))):
                admit(access, method, path, ("authorization", f"Bearer {key}"))


@pytest.mark.lengthy
@given(st.text(min_size=1).filter(lambda name: "/" not in name))
@example("\n")  # which a pattern may treat as the end of a path
def test_no_name_in_a_path_leaves_the_scope_of_its_route(name: str) -> None:
    assert scopes_of("POST", f"/admin/models/{name}/promote") == {"admin"}
    assert scopes_of("GET", f"/models/{name}/versions/{name}/drift") == {"metrics"}
    assert scopes_of("POST", f"/models/{name}/classify") == {"classify"}


@pytest.mark.parametrize(
    ("headers", "has"),
    [
        ([("authorization", "Bearer key-for-classify")], True),
        ([("authorization", "bearer  key-for-classify ")], True),
        ([("x-api-key", " key-for-classify")], True),
        ([("x-api-key", "key-for-classify"), ("authorization", "Basic dTpw")], True),
        ([("x-api-key", "key-for-classify")] * 2, True),
        ([("authorization", "Bearer key-for-classify"), ("x-api-key", "key-for-classify")], True),
        ([("authorization", "Bearer key-for-classify"), ("x-api-key", "key-for-admin")], False),
        ([("authorization", "Bearer guess"), ("x-api-key", "key-for-classify")], False),
        ([("authorization", "Basic key-for-classify")], False),
        ([("authorization", "key-for-classify")], False),
        ([("authorization", "Bearer")], False),
        ([("x-api-key", "")], False),
        ([("x-api-key", "key-for-classif\xff")], False),
        ([("cookie", "x-api-key=key-for-classify")], False),
    ],
)
def test_a_key_is_read_from_two_headers_only(headers: list[tuple[str, str]], has: bool) -> None:
    if has:
        admit(with_keys(), "POST", "/classify", *headers)
    else:
        with pytest.raises(Unauthorized):
            admit(with_keys(), "POST", "/classify", *headers)


def test_without_keys_only_admin_is_closed() -> None:
    access = Access(None, None)

    for method, path, scopes in CLOSED:
        if scopes == {"admin"}:
            with pytest.raises(Forbidden, match="TIDEGATE_KEYS or TIDEGATE_ADMIN_TOKEN_FILE"):
                admit(access, method, path)
        else:
            assert client_of(admit(access, method, path)) == "192.0.2.1"


@pytest.mark.parametrize("access", [Access(None, b"secret"), with_keys(b"secret")])
def test_the_administrator_s_token_is_a_key_for_admin_only(access: Access) -> None:
    bearer = ("authorization", "Bearer secret")

    admitted = admit(access, "POST", "/admin/reload", bearer)
    assert admitted["context"].client == ADMIN_TOKEN
    with pytest.raises(Unauthorized):
        admit(access, "POST", "/admin/reload", ("authorization", "Bearer secreT"))


def test_with_keys_the_administrator_s_token_does_not_classify() -> None:
    with pytest.raises(Forbidden):
        admit(with_keys(b"secret"), "POST", "/classify", ("authorization", "Bearer secret"))
