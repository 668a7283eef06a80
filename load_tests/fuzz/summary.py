"""The campaign's ledger as a table for the terminal and as a JSON record. Pure."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from load_tests.comparison.ratios import as_table
from load_tests.fuzz.campaign import Ledger, Plan
from load_tests.fuzz.comparison import Comparison
from load_tests.fuzz.failures import Failures
from load_tests.fuzz.oracles import Violation
from load_tests.scenarios.trend import trend
from load_tests.server.sampling import Sample

MEMORY_SHARE, MEMORY_MB = 0.10, 64.0  # the larger is the allowed growth after the first third
FILLING_MB = 256.0  # allowed growth of the whole campaign, for the caches of allocators
LONG_S = 600.0  # in a shorter campaign the allocators' caches are still growing
REFUSALS = 5  # listed with their reasons
STRAYS = 8  # allowed growth of descriptors and of threads


@dataclass(frozen=True)
class Slope:
    """Change of a figure: its values at the start and at the end, and the slope per hour."""

    name: str
    before: float
    after: float
    per_hour: float | None
    significant: bool


def leaks(ledger: Ledger) -> list[Violation]:
    """Return the growth of memory, descriptors and threads that counts as a leak.

    Allocators cache some memory for every thread and size that has occurred. Memory may therefore
    grow up to a limit in the first third of a long campaign; growth after it is a leak.
    """
    before, after = ledger.baseline, ledger.settled
    if before is None or after is None or ledger.deaths:
        return []
    found = []
    third_s = before.at_s + (after.at_s - before.at_s) / 3
    filled_mb = max(s.rss_mb for s in (before, *ledger.samples) if s.at_s <= third_s)
    allowed = max(filled_mb * MEMORY_SHARE, MEMORY_MB)
    grew = after.at_s - before.at_s > LONG_S and after.rss_mb - filled_mb > allowed
    if grew or after.rss_mb - before.rss_mb > FILLING_MB:
        found.append(f"memory {before.rss_mb:.0f}, {filled_mb:.0f} → {after.rss_mb:.0f} MB")
    if (after.open_files or 0) - (before.open_files or 0) > STRAYS:
        found.append(f"descriptors {before.open_files} → {after.open_files}")
    if after.threads - before.threads > STRAYS:
        found.append(f"threads {before.threads} → {after.threads}")
    return [Violation("leak", text) for text in found]


def slopes(ledger: Ledger) -> list[Slope]:
    """Return the changes of memory, descriptors and threads."""
    if ledger.baseline is None or ledger.settled is None:
        return []
    return [
        _slope("memory MB", ledger, lambda sample: sample.rss_mb),
        _slope("descriptors", ledger, lambda sample: float(sample.open_files or 0)),
        _slope("threads", ledger, lambda sample: float(sample.threads)),
    ]


def as_text(ledger: Ledger, failures: Failures, comparison: Comparison) -> str:
    """Return the table of a campaign."""
    rate = ledger.mutants / ledger.seconds if ledger.seconds else 0.0
    rows = [
        ["mutants", f"{ledger.mutants:,} in {ledger.seconds:.0f} s, {rate:.0f} per second"],
        *([f"answers to {kind}", _statuses(ledger, kind)] for kind in sorted(ledger.sent)),
        *([f"refused × {n}", text[:110]] for text, n in ledger.refused.most_common(REFUSALS)),
        ["deaths", str(ledger.deaths)],
        ["slowest answer", f"{ledger.slowest_s:.2f} s ({ledger.slowest})"],
        ["peak memory of one image", f"{ledger.peak_mb:.0f} MB ({ledger.peak})"],
        ["valid image checked", str(ledger.good)],
        ["compared with reference", f"{comparison.compared} ({comparison.skipped} skipped)"],
        *([slope.name, _moved(slope)] for slope in slopes(ledger)),
    ]
    for rule, count in failures.by_rule.most_common():
        text, kept = failures.examples[rule]
        rows.append([f"VIOLATION {rule} × {count}", f"{text[:110]} ({kept or 'not saved'})"])
    if not failures.by_rule:
        rows.append(["violations", "none"])
    return as_table(("quantity", "result"), rows)


def _statuses(ledger: Ledger, kind: str) -> str:
    counts = sorted((status, n) for (of, status), n in ledger.outcomes.items() if of == kind)
    return f"{ledger.sent[kind]:,}: " + ", ".join(f"{n:,} × {status}" for status, n in counts)


def as_record(
    plan: Plan, ledger: Ledger, failures: Failures, comparison: Comparison
) -> dict[str, object]:
    """Return the record that is saved as JSON."""
    return {
        "plan": asdict(plan),
        "mutants": ledger.mutants,
        "seconds": ledger.seconds,
        "outcomes": {f"{kind} {status}": n for (kind, status), n in ledger.outcomes.items()},
        "refused": dict(ledger.refused),
        "deaths": ledger.deaths,
        "slowest_s": ledger.slowest_s,
        "slowest": ledger.slowest,
        "peak_mb": ledger.peak_mb,
        "peak": ledger.peak,
        "good": ledger.good,
        "compared": comparison.compared,
        "slopes": [asdict(slope) for slope in slopes(ledger)],
        "violations": dict(failures.by_rule),
        "examples": {rule: text for rule, (text, _) in failures.examples.items()},
    }


def _slope(name: str, ledger: Ledger, figure: Callable[[Sample], float]) -> Slope:
    samples = [s for s in (ledger.baseline, *ledger.samples, ledger.settled) if s is not None]
    line = trend([s.at_s for s in samples], [figure(s) for s in samples])
    return Slope(
        name,
        before=figure(samples[0]),
        after=figure(samples[-1]),
        per_hour=None if line is None else line.per_hour,
        significant=line is not None and not line.zero_inside,
    )


def _moved(slope: Slope) -> str:
    text = f"{slope.before:.0f} → {slope.after:.0f}"
    if slope.per_hour is None:
        return text
    note = "" if slope.significant else ", not significant"
    return f"{text}, {slope.per_hour:+.0f} per hour during the campaign{note}"
