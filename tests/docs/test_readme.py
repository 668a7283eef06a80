"""Every command the documents print is run, or, where running it here would be circular, parsed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, launched

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "models/README.md", "load_tests/README.md")


def commands(document: str) -> list[str]:
    """Return the indented or fenced lines of a document that are commands."""
    text = (ROOT / document).read_text("utf-8").replace("\\\n", "")
    fenced = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    lines = [line.strip() for block in fenced for line in block.splitlines()] + indented
    return [line for line in lines if re.match(r"(make|curl|tidegate|docker|python|sh) ", line)]


def test_the_readme_starts_with_its_two_commands() -> None:
    assert commands("README.md")[:2] == ["make serve", "make test"]


def test_the_readmes_curl_answers_as_printed(server: Server, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    printed = json.loads(re.search(r"^```json\n(.*?)^```", readme, re.M | re.S)[1])  # type: ignore[index]  # fails if gone
    Image.open(PHOTOS / "coffee.png").convert("RGB").save(tmp_path / "photo.jpg", quality=95)
    line = next(command for command in commands("README.md") if command.startswith("curl"))
    line = line.replace("http://127.0.0.1:8000", server.url)

    told = subprocess.run(
        shlex.split(line), cwd=tmp_path, capture_output=True, check=True, timeout=PATIENCE_S
    )

    answer = json.loads(told.stdout)
    assert answer.keys() == printed.keys()
    assert answer["ood"].keys() == printed["ood"].keys()
    assert answer["predictions"][0]["label"] == printed["predictions"][0]["label"]
    assert answer["predictions"][0]["probability"] == pytest.approx(
        printed["predictions"][0]["probability"], abs=0.03
    )
    assert answer["model"]["name"] == printed["model"]["name"]
    assert answer["decision"] == printed["decision"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_named_exists(document: str) -> None:
    for line in commands(document):
        if line.startswith("make "):
            subprocess.run(
                ["make", "--dry-run", *shlex.split(line, comments=True)[1:]],
                cwd=ROOT,
                check=True,
                capture_output=True,
                timeout=PATIENCE_S,
            )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_tidegate_command_that_is_named_runs(document: str) -> None:
    for line in commands(document):
        words = shlex.split(line, comments=True)
        if words[0] == "tidegate" and words[1] != "serve":
            subprocess.run(
                [sys.executable, "-m", "service", *words[1:]],
                cwd=ROOT,
                check=True,
                capture_output=True,
                timeout=PATIENCE_S,
            )


@cache
def help_of(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *words, "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    ).stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_command_that_is_named_knows_its_options(document: str) -> None:
    """Runs `--help` of the same subcommand and looks for each option there."""
    for line in commands(document):
        words = shlex.split(line, comments=True)
        if words[0] != "python":
            continue
        verb = [word for word in words[3:4] if not word.startswith("-")]
        told = help_of(words[2], *verb)
        for option in (word for word in words if word.startswith("--")):
            assert option.split("=")[0] in told, line


def test_make_serve_serves(demo_bundle: Path) -> None:
    """The real target, with everything it would set up already there."""
    with launched(demo_bundle, command=["make", "--silent", "serve"]) as server:
        server.wait_for("ready")


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")

    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_table_of_servers_is_that_of_its_result() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    quoted = re.search(r"\[result\]\((load_tests/results/[^)]+)\)", readme)
    assert quoted is not None
    result = json.loads((ROOT / quoted[1]).read_text("utf-8"))
    kept = {s["name"]: s["figures"] for s in result["standings"] if s["load"] == "32 clients"}
    over = {s["name"]: s["figures"] for s in result["standings"] if s["load"] == "overload"}
    rows = re.findall(r"^\| (\S+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", readme, re.M)

    assert {name for name, *_ in rows} == kept.keys() - {"bare loop"}
    for name, throughput, cpu, goodput in rows:
        figures = kept[name]
        assert float(throughput) == pytest.approx(figures["throughput_ratio"]["median"], abs=0.005)
        assert float(cpu) == pytest.approx(figures["cpu_ratio"]["median"], abs=0.005)
        assert float(goodput) == pytest.approx(over[name]["goodput"]["median"], abs=0.5)
    assert f"{result['standings'][0]['rounds']} interleaved rounds" in readme
    ours = {
        s["load"]: {k: v["median"] for k, v in s["figures"].items() if isinstance(v, dict)}
        for s in result["standings"]
        if s["name"] == "tidegate"
    }
    told = "With {} clients it was {:.2f} and {:.2f}, with {} {:.2f} and {:.2f}; one client"
    numbers = [
        number
        for clients in (8, 64)
        for number in (
            clients,
            *(ours[f"{clients} clients"][k] for k in ("throughput_ratio", "cpu_ratio")),
        )
    ]
    assert told.format(*numbers) in readme
    assert result["machine"]["cores"] == 2


def test_results_name_no_folder_of_the_machine_they_were_made_on() -> None:
    for path in (ROOT / "load_tests" / "results").glob("*.json"):
        result = json.loads(path.read_text("utf-8"))

        assert result["command"].startswith("python -m load_tests")
        assert not re.search(r"/(tmp|home|root|work|Users)/", path.read_text("utf-8")), path.name
