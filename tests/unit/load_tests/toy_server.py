"""A small server process for the tests: `toy_server.py PORT [BEHAVIOUR…]`.

It answers 200 with class 7 to a body that ends as a JPEG does, 422 to any other. Behaviours:
`orphan` starts a grandchild whose parent exits immediately, `stubborn` ignores SIGTERM, `fails`
exits before it listens.
"""

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if data.endswith(b"\xff\xd9") else 422)
        body = b'{"predictions": [{"class_id": 7}]}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


class Server(ThreadingHTTPServer):
    request_queue_size = 64


def main() -> None:
    port, *behaviours = sys.argv[1:]
    if "fails" in behaviours:
        sys.exit("no such model")
    if "orphan" in behaviours:
        sleeper = "import signal; signal.pause()"
        orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeper!r}])"
        subprocess.run([sys.executable, "-c", orphan], check=True)
    if "stubborn" in behaviours:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
