"""The clients that are configured now: their keys, quotas and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tidegate.service.api.keys import Client, Keyring, parse_keys
from tidegate.service.api.limits import Quota
from tidegate.service.files import read_small
from tidegate.service.followed_files import MAX_BYTES


class Clients:
    """Answers by a client's subject. Anyone without a key has the usual quota and the weight 1."""

    def __init__(self, usual: Quota, on_change: Callable[[frozenset[str]], object]) -> None:
        """`on_change` is called with the names of the clients whenever they are replaced."""
        self._usual = usual
        self._on_change = on_change
        self._quotas: dict[str, Quota] = {}  # by subject
        self._weights: dict[str, float] = {}
        self.keyring = Keyring()

    def load(self, path: Path) -> None:
        """Replace the clients by those in a file. Raises ValueError or OSError."""
        self.use(parse_keys(read_small(path, MAX_BYTES)))

    def use(self, keyring: Keyring) -> None:
        """Replace the clients. Called on any thread: each attribute is replaced in one step."""
        clients = {client.subject: client for client in keyring.clients}
        self._quotas = {subject: self._quota(client) for subject, client in clients.items()}
        self._weights = {subject: client.weight for subject, client in clients.items()}
        self.keyring = keyring
        self._on_change(frozenset(client.name for client in keyring.clients))

    def quota_of(self, subject: str) -> Quota:
        """Return the quota of a client."""
        return self._quotas.get(subject, self._usual)

    def weight_of(self, subject: str) -> float:
        """Return the weight of a client in the shares of the queue and of the upload memory."""
        return self._weights.get(subject, 1.0)

    def _quota(self, client: Client) -> Quota:
        return Quota(
            self._usual.rate if client.rate is None else client.rate,
            self._usual.burst if client.burst is None else client.burst,
            client.concurrent,
        )
