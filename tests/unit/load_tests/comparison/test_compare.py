"""The catalogue of peers, their requests, and the check of their answers."""

import asyncio
from pathlib import Path

import pytest

from load_tests.__main__ import main
from load_tests.commands.compare import parser
from load_tests.comparison.compare import _check_answers, served_class
from load_tests.errors import MeasurementFailed
from load_tests.peers.catalogue import HERE, PEERS, Start, start_ours, start_peer
from tests.unit.load_tests.fakes import FakeServer, response
from tests.unit.load_tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[4]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"jpeg")
    return path


@pytest.mark.parametrize("name", PEERS)
def test_each_peer_has_a_server_and_pinned_requirements(name: str) -> None:
    lines = PEERS[name].requirements.read_text(encoding="utf-8").splitlines()
    packages = [line.partition("#")[0].strip() for line in lines if not line.startswith("#")]
    pinned = {package.partition("==")[0].partition("[")[0] for package in packages}

    assert all(package.count("==") == 1 for package in packages)
    assert {"numpy", "onnxruntime", "pillow", *PEERS[name].packages[:1]} <= pinned
    assert (HERE / name / "server.py").is_file()


def test_every_peer_runs_the_same_onnxruntime() -> None:
    texts = [peer.requirements.read_text(encoding="utf-8") for peer in PEERS.values()]

    versions = {line for text in texts for line in text.splitlines() if line.startswith("onnxr")}

    assert len(versions) == 1


def test_the_environments_are_not_in_git() -> None:
    assert "/.peers/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_a_start_has_free_ports_and_knows_its_model(tmp_path: Path) -> None:
    for peer in PEERS.values():
        python = peer.python(tmp_path)
        python.parent.mkdir(parents=True)
        python.touch()

        start = start_peer(peer, tmp_path, tmp_path / "model", batch=4)

        assert not any("{" in word for word in (*start.command, *start.env.values()))
        assert start.env["PORT"] == str(start.target.port)
        assert start.env["BATCH"] == "4"
        assert start.env["MODEL_DIR"] == str(tmp_path / "model")


def test_a_missing_peer_raises_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="peers-install mosec"):
        start_peer(PEERS["mosec"], tmp_path, tmp_path)


def test_our_server_answers_every_image_in_full(tmp_path: Path) -> None:
    start = start_ours(tmp_path)

    assert start.env["TIDEGATE_OOD_ACTION"] == "flag"
    assert start.env["TIDEGATE_PORT"] == str(start.target.port)


def test_extra_headers_are_within_the_head_and_the_image_is_the_body(image: Path) -> None:
    start = Start("x", (), {}, "http://127.0.0.1:1/infer", headers=("Inference: 0",))

    head, _, body = start.requests([image], deadline_ms=250)[0].partition(b"\r\n\r\n")

    assert head.split(b"\r\n")[-2:] == [b"X-Request-Timeout-Ms: 250", b"Inference: 0"]
    assert body == b"jpeg"


def test_a_form_has_the_image_in_the_field_that_the_peer_reads(image: Path) -> None:
    start = Start("x", (), {}, "http://127.0.0.1:1/", field="images")

    head, _, body = start.requests([image])[0].partition(b"\r\n\r\n")

    assert b'name="images"; filename="a.jpg"' in body
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"predictions": [{"class_id": 872, "label": "tripod"}, {"class_id": 3}]}', 872),
        (b'{"outputs":[{"name":"answer"}]}\x01\x00\x00{"predictions": [{"class_id":7}]}', 7),
        (b'{"detail": "not an image"}', None),
    ],
)
def test_the_first_class_of_an_answer_is_found_however_it_is_wrapped(
    body: bytes, expected: int | None
) -> None:
    assert served_class(body) == expected


def _check(replies: list[bytes], expected: list[frozenset[int]], image: Path) -> None:
    async def run() -> None:
        fake = FakeServer(replies)
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            start = Start("theirs", (), {}, f"http://127.0.0.1:{port}/")
            await _check_answers(start, [image] * len(expected), expected)

    asyncio.run(run())


def test_a_server_that_answers_as_the_loop_does_is_believed(image: Path) -> None:
    reply = response(b'{"class_id": 7}')

    _check([reply], [frozenset({7}), frozenset({3, 7})], image)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (response(b'{"class_id": 8}'), "theirs answers a.jpg with 200 and class 8, but .* 7"),
        (response(b"{}", 500), "with 500 and class None"),
        (b"", "with no response"),
    ],
)
def test_a_wrong_server_is_rejected_with_the_reason(reply: bytes, reason: str, image: Path) -> None:
    good = response(b'{"class_id": 7}')

    with pytest.raises(MeasurementFailed, match=reason):
        _check([good, reply], [frozenset({7})] * 2, image)


def test_counts_and_peers_are_lists() -> None:
    needed = ["--model", "m", "--bundle", "b", "--images", "i", "--images", "j"]

    options = parser().parse_args([*needed, "--concurrency", "8,32", "--peers", "mosec,ray"])

    assert options.concurrency == (8, 32)
    assert options.peers == ("mosec", "ray")
    assert options.images == [Path("i"), Path("j")]
    assert parser().parse_args([*needed, "--peers", ""]).peers == ()


@pytest.mark.parametrize(
    ("command", "changes", "reason"),
    [
        ("compare", {"--peers": "nginx"}, "unknown peer 'nginx'"),
        ("compare", {"--concurrency": "8,0"}, "at least 1"),
        ("compare", {"--model": "nowhere"}, "no model.onnx in nowhere"),
        ("compare", {"--bundle": "nowhere"}, "no bundle at nowhere"),
        ("bad-input", {"--model": "nowhere"}, "no model.onnx in nowhere"),
        ("bad-input", {"--bundle": "nowhere"}, "no bundle at nowhere"),
    ],
)
def test_bad_arguments_exit_2_with_the_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    changes: dict[str, str],
    reason: str,
) -> None:
    given = {"--model": str(write_tiny_model(tmp_path)), "--bundle": ".", "--images": "."}
    words = [word for pair in (given | changes).items() for word in pair]

    with pytest.raises(SystemExit) as stopped:
        main([command, *words])

    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
