"""Who may use which route, decided from a request's head before any byte of its body is read."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import MutableMapping
from functools import partial
from typing import Any

from tidegate.service.api.audit import Audit
from tidegate.service.api.clients import Clients
from tidegate.service.api.connection import Connection
from tidegate.service.api.context import RequestContext
from tidegate.service.api.keys import Client, Keyring
from tidegate.service.api.limits import SUBJECT, ClientQuota, client_of
from tidegate.service.api.proxies import Proxies
from tidegate.service.errors import Forbidden, NotFound, Unauthorized

ADMIN_TOKEN = "admin-token"  # noqa: S105 - the name of the client that has it
_OPEN: frozenset[str] = frozenset()
_CLASSIFY = frozenset({"classify"})
_ADMIN = frozenset({"admin"})
_METRICS = frozenset({"metrics"})
_EITHER = _CLASSIFY | _METRICS
# method and path → the scopes of which one is enough; every other request needs `classify`.
# DOTALL, because a name in a path may contain any decoded character.
_SCOPES = tuple(
    (re.compile(form, re.DOTALL), scopes)
    for form, scopes in (
        (r"\S+ /admin(/.*)?", _ADMIN),
        (r"\S+ /feedback", frozenset({"feedback"})),
        (r"\S+ /metrics", _METRICS),
        (r"\S+ /drift|\S+ /models/[^/]+(/rollout|/versions/[^/]+/drift)", _METRICS),
        (r"(GET|HEAD) /models(/[^/]+(/versions/[^/]+)?)?", _EITHER),
        # Probes, and pages without a secret: what they show comes from the routes above.
        (r"(GET|HEAD) /(livez|readyz|ping|health|docs|redoc|openapi\.json)?", _OPEN),
        (r"(GET|HEAD) /page/.*", _OPEN),
        (r"(GET|HEAD) /v2/(health/[^/]+|models/[^/]+(/versions/[^/]+)?/ready)", _OPEN),
        (r"POST /inference\.GRPCInferenceService/(Server(Live|Ready)|ModelReady)", _OPEN),
        (r"OPTIONS .*", _OPEN),  # answers only which methods a route has
    )
)


class Access:
    """Checks the API key or the administrator's token of each request."""

    def __init__(
        self,
        clients: Clients | None = None,
        admin_token: bytes | None = None,
        proxies: Proxies | None = None,
        admin_port: int | None = None,
        audit: Audit | None = None,
        quota: ClientQuota | None = None,
    ) -> None:
        """Without `clients`, no route but /admin needs a key. The token is one for /admin only.

        With `admin_port`, what operators use is answered on that port alone. `quota` is what
        responses tell of.
        """
        self._clients = clients
        self._proxies = proxies
        self._admin_port = admin_port
        self._audit = audit
        self._quota = quota
        self._is_closed = clients is not None or admin_port is not None
        self._admin = Keyring()
        if admin_token is not None:
            digest = hashlib.sha256(admin_token).digest()
            self._admin = Keyring((digest,), (Client(ADMIN_TOKEN, _ADMIN),))

    def admit(self, scope: MutableMapping[str, Any], context: RequestContext) -> None:
        """Note the client of a request. Raises NotFound, Unauthorized or Forbidden without access.

        It is the client of a key, or the name in a certificate, or an address.
        """
        if self._proxies is not None:
            self._proxies.resolve(scope)
        if certificate := Connection.of(scope).certificate:
            scope[SUBJECT] = f"certificate:{certificate}"
            context.log["certificate"] = certificate
        if self._is_closed or scope["path"].startswith("/admin"):
            self._check(scope, context)
        if self._quota is not None and scope["method"] == "POST":
            context.rate_limit = partial(self._quota.fields, client_of(scope))
        if self._audit is not None:
            self._audit.admitted(scope, context)

    def _check(self, scope: MutableMapping[str, Any], context: RequestContext) -> None:
        needed = scopes_of(scope["method"], scope["path"])
        self._check_port(scope, needed)
        if needed is _OPEN or (self._clients is None and needed is not _ADMIN):
            return
        client = self._client_of(scope)
        context.client = context.log["key"] = client.name
        scope[SUBJECT] = client.subject
        if not needed & client.scopes:
            missing = " or ".join(sorted(needed))
            raise Forbidden(f"The key of {client.name} does not have the scope {missing}.")

    def _check_port(self, scope: MutableMapping[str, Any], needed: frozenset[str]) -> None:
        if self._admin_port is None or needed is _OPEN:
            return
        server = scope["server"]  # None for a unix socket
        on_admin_port = server is not None and server[1] == self._admin_port
        if on_admin_port != (needed in (_ADMIN, _METRICS, _EITHER)):
            raise NotFound("This route is not on this port; see TIDEGATE_ADMIN_PORT.")

    def _client_of(self, scope: MutableMapping[str, Any]) -> Client:
        if self._clients is None and not self._admin.digests:
            raise Forbidden(
                "Set TIDEGATE_KEYS or TIDEGATE_ADMIN_TOKEN_FILE to use /admin, or send the process "
                "SIGHUP to reload."
            )
        sent = credentials(scope)
        if not sent:
            raise Unauthorized("Send an API key: Authorization: Bearer KEY, or X-API-Key: KEY.")
        if len(sent) > 1:
            raise Unauthorized("The request has more than one API key; send one.")
        (key,) = sent
        client = self._admin.find(key)
        if self._clients is not None:
            client = self._clients.keyring.find(key) or client
        if client is None:
            raise Unauthorized("The API key is not known.")
        return client


def scopes_of(method: str, path: str) -> frozenset[str]:
    """Return the scopes of which a key needs one; none for an open route."""
    if path == "/classify" and method == "POST":
        return _CLASSIFY
    request = f"{method} {path}"
    return next((scopes for form, scopes in _SCOPES if form.fullmatch(request)), _CLASSIFY)


def credentials(scope: MutableMapping[str, Any]) -> set[bytes]:
    """Return the bearer tokens and API keys in a request's headers, never in its query."""
    sent = set()
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            sent.add(value.strip())
        elif name == b"authorization":
            scheme, _, given = value.partition(b" ")
            if scheme.lower() == b"bearer":
                sent.add(given.strip())
    return sent - {b""}


def has_token(scope: MutableMapping[str, Any], token: bytes) -> bool:
    """Return whether a request has this bearer token. Takes the same time for every other token."""
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(sent) != 1:
        return False
    scheme, _, given = sent[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)
