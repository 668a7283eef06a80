"""The figures of the page on bulk work are those of their result."""

from __future__ import annotations

import json

from tests.docs.pages import read
from tests.server import ROOT
from tidegate.service.drift.whole_set import FALSE_REPORTS

PAGE = read(ROOT / "docs" / "guides" / "bulk.md")
RESULT = ROOT / "load_tests" / "results" / "2026-11-30-bulk-2-cores.json"
FOUND = {f["quantity"]: f["value"] for f in json.loads(RESULT.read_text("utf-8"))["findings"]}


JOB = json.loads((RESULT.parent / "2026-12-01-bulk-job-2-cores.json").read_text("utf-8"))


def test_the_large_job_is_that_of_the_result() -> None:
    found = {finding["quantity"]: finding["value"] for finding in JOB["findings"]}
    early, late = (found[f"memory of all processes, {when} tenth"] for when in ("second", "last"))

    assert f"On {found['images']:,.0f} images" in PAGE
    largest = found["memory of all processes, largest"]
    assert f"was {early:.0f} MB in the second tenth of the time, {late:.0f} MB in the last" in PAGE
    assert f"and at most {largest:.0f} MB" in PAGE
    assert f"a job of {found['images of the job that was killed']:,.0f} of them" in PAGE
    assert f"{found['images sent to POST /classify']:,.0f} of them are those of" in PAGE
    assert found["largest difference of a probability"] == found["rows twice"] == 0
    assert f"{found['images a second']:.0f} images per second, with other sizes" in PAGE
    assert all(finding["met"] is not False for finding in JOB["findings"])


PRECISIONS = json.loads(
    (RESULT.parent / "2026-11-30-bulk-precisions-2-cores.json").read_text("utf-8")
)


def test_the_costs_of_three_precisions_are_those_of_the_result() -> None:
    found = {finding["quantity"]: finding["value"] for finding in PRECISIONS["findings"]}
    for name, engine, of in (
        ("fp32", "onnx-cpu", ""),
        ("bf16", "openvino", " (efficientnet-lite0-bf16, openvino)"),
        ("int8", "onnx-cpu", " (efficientnet-lite0-int8, onnx-cpu)"),
    ):
        per_s = round(found[f"tidegate classify{of}, images a second"])
        ratio = found[f"images a second, ratio{of}"]
        cells = (per_s, f"{per_s * 3600:,}", f"{2e6 / per_s / 3600:.1f}", f"{ratio:.2f}")
        assert f"| {name} | `{engine}` | {' | '.join(map(str, cells))} |" in PAGE


def test_the_rate_and_the_ratio_are_those_of_the_result() -> None:
    per_s = round(FOUND["tidegate classify, images a second"])
    ratio, low, high = (
        FOUND[f"images a second, ratio{of}"]
        for of in ("", ": lower end of 95 %", ": upper end of 95 %")
    )

    assert f"{per_s} images per second: {per_s * 3600:,} per hour" in PAGE
    assert f"{2e6 / per_s / 3600:.1f} core-hours per million" in PAGE
    assert f"{ratio:.2f} times the loop (95 % interval {low:.2f} to {high:.2f}" in PAGE


def test_the_reads_of_a_bucket_are_those_of_the_result() -> None:
    found = json.loads((RESULT.parent / "2026-12-01-bucket-reads.json").read_text("utf-8"))

    assert f"answers each request after {found['delay_ms']:.0f} ms" in PAGE
    assert f"{found['threads']:.0f} reads gives {found['ahead_per_s']:.0f} objects" in PAGE
    assert (
        f"one read after the other {found['one_by_one_per_s']:.0f}: {found['ratio']:.1f} times"
        in PAGE
    )


def test_unchanged_sets_are_reported_at_most_as_often_as_declared() -> None:
    results = [json.loads(path.read_text("utf-8")) for path in RESULT.parent.glob("*set-drift-*")]

    unchanged = [one for result in results for one in result["found"] if one["change"] == "nothing"]
    assert {result["bundle"] for result in results} == {"efficientnet-lite0", "digits"}
    assert all(one["named"] <= FALSE_REPORTS * one["sets"] for one in unchanged)
    assert min(one["sets"] for one in unchanged) >= 200
