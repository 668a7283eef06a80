"""The command `memory`: it starts a service, sends images in order, and records what it needs."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from load_tests.__main__ import main
from load_tests.commands import memory
from load_tests.commands.memory import MOST_MB, Needs, findings_of

pytestmark = pytest.mark.process

# A fake of `python -m tidegate.service serve`; every third image is not answered.
FAKE = """
import itertools, os
from http.server import BaseHTTPRequestHandler, HTTPServer
assert os.environ["TIDEGATE_PROFILE"] == "edge" and os.environ["TIDEGATE_BUNDLE"]
numbers = itertools.count(1)
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self): self.answer(200)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(503 if next(numbers) % 3 == 0 else 422)
    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
HTTPServer(("127.0.0.1", int(os.environ["TIDEGATE_PORT"])), Handler).serve_forever()
"""


def test_memory_and_times_of_a_service_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "_SETTLE_S", 0.0)
    bundle, fake, out = tmp_path / "parts/3", tmp_path / "fake.py", tmp_path / "out.json"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    (bundle / "photo.jpg").write_bytes(b"not decoded by anyone here")
    fake.write_text(FAKE)
    python = shlex.join([sys.executable, str(fake)])
    words = ["--bundle", str(bundle), "--images", str(bundle), "--requests", "7"]

    code = main(["memory", *words, "--python", python, "--json", str(out)])

    [needs] = json.loads(out.read_text())["needs"]
    assert code == 1
    assert (needs["bundle"], needs["images"], needs["failed"]) == ("parts/3", 7, 2)
    assert needs["translated_mb"] == 0
    assert 1 < needs["main_mb"] <= needs["largest_mb"] < MOST_MB
    assert "parts/3: failed" in capsys.readouterr().out


def test_a_folder_without_a_manifest_is_no_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["memory", "--bundle", str(tmp_path), "--images", str(tmp_path)])

    assert "is no bundle" in capsys.readouterr().err


def test_a_service_that_needs_too_much_misses_its_aim() -> None:
    needs = Needs("a/1", 1.0, 1.0, 1.0, MOST_MB + 5, 1.0, None, 4.0, 1, 1, 0, 1.0, 1.0)

    assert [finding.quantity for finding in findings_of(needs) if finding.met is False] == [
        "a/1: largest without it"
    ]
