"""The administrator's token: who may use /admin."""

from __future__ import annotations

import hmac
from collections.abc import MutableMapping
from typing import Any

from tidegate.service.errors import Forbidden, Unauthorized


class Access:
    """Checks the bearer token of a request."""

    def __init__(self, token: bytes | None) -> None:
        """Without a token, nobody has access."""
        self._token = token

    def check(self, scope: MutableMapping[str, Any]) -> None:
        """Raise Forbidden without a token to compare with, Unauthorized if it is another."""
        if self._token is None:
            raise Forbidden(
                "Set TIDEGATE_ADMIN_TOKEN_FILE to a file with a token to use /admin, or send the "
                "process SIGHUP to reload."
            )
        if not has_token(scope, self._token):
            raise Unauthorized("Send the administrator's token: Authorization: Bearer TOKEN.")


def has_token(scope: MutableMapping[str, Any], token: bytes) -> bool:
    """Return whether a request has this bearer token. Takes the same time for every other token."""
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(sent) != 1:
        return False
    scheme, _, given = sent[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)
