"""The drift report of a set as a file: JSON, or one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from tidegate.service.bundle.store import Bundle
from tidegate.service.drift.whole_set import FALSE_REPORTS
from tidegate.service.drift.words import percent
from tidegate.service.errors import JobRefused
from tidegate.service.files import write_atomically
from tidegate.service.offline.drift.records import Notes, Shown
from tidegate.service.offline.drift.report import SetDrift, build
from tidegate.service.offline.drift.words import SetFinding, findings, headline, notices

FORMAT = "tidegate-set-drift/1"
SUFFIXES = (".html", ".json")
_SHOWN = 24  # pictures
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d8d8d8;
  --page: #f6f6f4; --card: #fff; --then: #9aa4ad; --now: #b3541e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --soft: #a6a6a2; --line: #3c3c3a;
  --page: #171716; --card: #222221; --then: #6d7780; --now: #e08a52; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 3rem; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, li { margin: .35rem 0; } .soft, figcaption { color: var(--soft); font-size: .8125rem; }
ul { padding-left: 1.2rem; } code { font-size: .8125rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; }
:is(th, td):first-child { text-align: left; } tbody tr > * { border-top: 1px solid var(--line); }
.wide { overflow-x: auto; } .moved { color: var(--now); font-weight: 600; }
.bars { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .8rem; }
figure { margin: 0; overflow-wrap: anywhere; } svg { display: block; width: 100%; height: 5rem; }
.sheet img { display: block; width: 112px; height: auto; border-radius: 3px; }
.then { fill: var(--then); } .now { fill: var(--now); }
"""


def check_name(path: Path) -> None:
    """Raise JobRefused if a report cannot have this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise JobRefused(f"{path}: the name of a drift report must end in .html or .json.")
    if not path.parent.is_dir():
        raise JobRefused(f"{path.parent} does not exist, or is not a folder.")


def write_report(path: Path, bundle: Bundle, notes: Sequence[Notes]) -> str:
    """Write the drift report of a set, and return its result in one sentence.

    Raises JobRefused if the notes do not fit together, or to the bundle.
    """
    check_name(path)
    drift = build(bundle, notes)
    found = findings(drift, bundle.labels)
    if path.suffix.lower() == ".json":
        text = json.dumps(as_json(drift, found, bundle.labels), indent=1, ensure_ascii=False) + "\n"
    else:
        text = "".join(_page(drift, found, bundle.labels))
    write_atomically(path, text.encode())
    return headline(drift, found)


def as_json(drift: SetDrift, found: Sequence[SetFinding], labels: Sequence[str]) -> dict[str, Any]:
    """Return a report as values of JSON."""
    report, embedding = drift.independent, drift.independent.embedding
    return {
        "format": FORMAT,
        "model": drift.model,
        "digest": drift.digest,
        "images": drift.images,
        "near_duplicates": drift.near_duplicates,
        "outcomes": dict(drift.outcomes),
        "shards": {"of": drift.shards, "missing": list(drift.missing)},
        "headline": headline(drift, found),
        "findings": [asdict(one) for one in found],
        "notices": notices(drift),
        "false_reports": FALSE_REPORTS,
        "design_effects": asdict(drift.effects),
        "rejected": {
            "share": float(report.rejected.shares[0]),
            "reference": float(report.rejected.before[0]),
            "evidence": report.rejected.evidence,
        },
        "classes": {
            "evidence": report.classes.evidence,
            "shares": {c: share for c, share in enumerate(report.classes.shares.tolist()) if share},
        },
        "histograms": {
            name: {
                "images": one.images,
                "z": one.shift.z,
                "psi_excess": one.shift.psi_excess,
                "alarm": one.alarm,
            }
            for name, one in report.histograms.items()
        },
        "embedding": None if embedding is None else asdict(embedding),
        "label_shift": (
            None
            if report.label_shift is None
            else {
                "fractions": report.label_shift.fractions.tolist(),
                "residual_z": report.label_shift.residual_z,
            }
        ),
        "expected_accuracy": drift.expected_accuracy,
        "unusual": [
            {
                "path": one.path,
                "p_value": one.p_value,
                "decision": one.decision,
                "class_id": one.class_id,
                "label": labels[one.class_id],
                "probability": one.probability,
            }
            for one in drift.shown[:_SHOWN]
        ],
    }


def _page(drift: SetDrift, found: Sequence[SetFinding], labels: Sequence[str]) -> Iterator[str]:
    yield (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Drift report: {escape(drift.model)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(headline(drift, found))}</h1>"
        f'<p class="soft">{drift.images:,} images, compared with the reference of '
        f"{escape(drift.model)} <code>{drift.digest[:12]}</code></p>"
    )
    if found:
        yield "<h2>What differs</h2><ul>"
        for one in found:
            sure = " Also if images in a row count as one." if one.in_runs else ""
            yield f"<li>{escape(one.text)}{sure if drift.effects.classes >= 2 else ''}</li>"
        yield "</ul>"
    yield "<h2>How sure this is</h2><ul>"
    yield "".join(f"<li>{escape(text)}</li>" for text in notices(drift))
    yield "</ul>"
    yield _outcomes(drift)
    yield _shares(drift, labels)
    yield "".join(_histograms(drift))
    yield "".join(_sheet(drift.shown[:_SHOWN], labels))
    yield "</html>\n"


def _outcomes(drift: SetDrift) -> str:
    total = sum(drift.outcomes.values())
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{images:,}<td>{percent(images / max(total, 1))}"
        for name, images in drift.outcomes.items()
    )
    return (
        "<h2>Outcomes</h2><table><thead><tr><th>decision or error<th>images<th>share<tbody>"
        f"{rows}</table>"
    )


def _shares(drift: SetDrift, labels: Sequence[str]) -> str:
    """Return the classes with the largest differences."""
    shares = drift.independent.classes
    moved = set(shares.moved.tolist())
    order = [*shares.moved.tolist(), *(-abs(shares.shares - shares.before)).argsort().tolist()]
    rows = "".join(
        f"<tr{' class=moved' if c in moved else ''}><td>{escape(labels[c])} ({c})"
        f"<td>{percent(float(shares.before[c]))}<td>{percent(float(shares.shares[c]))}"
        for c in list(dict.fromkeys(order))[:12]
    )
    return (
        "<h2>Predicted classes with the largest differences</h2><table><thead>"
        f"<tr><th>class<th>reference<th>this set<tbody>{rows}</table>"
    )


def _histograms(drift: SetDrift) -> Iterator[str]:
    yield (
        '<h2>Distributions</h2><p class="soft">Grey: reference. Coloured: this set. Each bar is '
        'the share of images in one bin.</p><div class="bars">'
    )
    for name, one in drift.independent.histograms.items():
        if name == "p-value":
            now = drift.found.p_values
            before = now * 0 + 1
        else:
            now, before = drift.found.histograms[name], drift.reference.histograms[name].counts
        then_shares = (before / max(before.sum(), 1)).tolist()
        now_shares = (now / max(now.sum(), 1)).tolist()
        moved = ' class="moved"' if one.alarm else ""
        yield (
            f"<figure>{_bars(then_shares, now_shares)}<figcaption{moved}>{escape(name)}"
            f"{' differs' if one.alarm else ''}</figcaption></figure>"
        )
    yield "</div>"


def _bars(then: Sequence[float], now: Sequence[float]) -> str:
    highest = max(*then, *now, 1e-9)
    width = 100 / len(then)
    bars = "".join(
        f'<rect class="{kind}" x="{width * (i + start):.2f}" y="{50 - 50 * share / highest:.2f}" '
        f'width="{width * 0.4:.2f}" height="{50 * share / highest:.2f}"/>'
        for start, kind, shares in ((0.08, "then", then), (0.5, "now", now))
        for i, share in enumerate(shares)
    )
    return f'<svg viewBox="0 0 100 50" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>'


def _sheet(shown: Sequence[Shown], labels: Sequence[str]) -> Iterator[str]:
    yield (
        '<h2>The most unusual images</h2><p class="soft">As the network sees them, the most '
        'unusual first; of near-duplicates one.</p><div class="sheet">'
    )
    for one in shown:
        name, label = escape(one.path), escape(labels[one.class_id])
        yield (
            f'<figure><img alt="{name}" src="data:image/jpeg;base64,{escape(one.jpeg)}">'
            f"<figcaption>{name}<br>{one.decision}, p = {one.p_value:.3g}<br>"
            f"{label} {percent(one.probability)}</figcaption></figure>"
        )
    yield "</div>"
