"""A reverse proxy that serves another server below a path, as an ingress does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.http_server import QuietHandler, serving
from tests.server import PATIENCE_S

_OWN = {"connection", "transfer-encoding", "date", "server"}  # of one connection


@contextmanager
def below(prefix: str, target: str) -> Iterator[str]:
    """Serve `target` below `prefix` on a free port; return the URL of its root there."""
    with httpx.Client(base_url=target, timeout=PATIENCE_S) as client:

        class Forward(QuietHandler):
            def do_GET(self) -> None:
                if not self.path.startswith(f"{prefix}/"):
                    self.send_error(404)
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                path = self.path.removeprefix(prefix)
                with client.stream(self.command, path, content=body, headers=headers) as answer:
                    content = b"".join(answer.iter_raw())
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name not in _OWN:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

        with serving(Forward) as port:
            yield f"http://127.0.0.1:{port}{prefix}/"
