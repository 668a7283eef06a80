"""What was measured: a row for each result of the load tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from docs.tables.markdown import table
from load_tests.rollout.reloads import SETTLED

RESULTS = Path(__file__).parents[2] / "load_tests" / "results"


def reload_costs() -> str:
    """Return a row for each measured pair of versions."""
    head = (
        "version 2",
        "reloads",
        "one every",
        "requests",
        "failed: reload, control",
        "p50: reload, control",
        "p99: reload, control",
        "ratio of p99",
        "memory of version 1: settled, later",
        "of version 2",
        "answers of another version",
    )
    return table(head, [_reload_cost(path) for path in sorted(RESULTS.glob("*-reload-*.json"))])


def _reload_cost(path: Path) -> Sequence[str]:
    result = json.loads(path.read_text("utf-8"))
    found = _findings(result)
    wrong = found["answers that are not their digest's"]
    return (
        f"[{result['second']}](../../load_tests/results/{path.name})",
        str(len(result["reloads"])),
        f"{result['every_s']:.0f} s",
        f"{result['anywhere']['requests']:,}",
        f"{_failed(result['inside'])}, {_failed(result['control'])}",
        f"{result['inside']['p50_ms']:.1f}, {result['control']['p50_ms']:.1f} ms",
        f"{result['inside']['p99_ms']:.1f}, {result['control']['p99_ms']:.1f} ms",
        f"{found['p99, ratio']:.2f}",
        *(_memory_over_reloads(result["reloads"], version) for version in ("1", "2")),
        f"{wrong:.0f} of {found['answers checked']:,.0f}",
    )


def _memory_over_reloads(reloads: Sequence[dict[str, Any]], version: str) -> str:
    """Return the medians of the earlier and the later half of what a version used once settled."""
    settled = reloads[SETTLED - 1 :]
    found = [one["after"]["resident_mb"] for one in settled if one["version"] == version]
    half = len(found) // 2
    return f"{median(found[:half]):.0f}, {median(found[-half:]):.0f} MB"


def _failed(tally: dict[str, Any]) -> int:
    return sum(tally["failures"].values())


def shadow_costs() -> str:
    """Return a row for each load of the measured shadows."""
    head = ("load", "without a shadow", "with a shadow", "ratio", "images compared", "dropped")
    results = [json.loads(p.read_text("utf-8")) for p in sorted(RESULTS.glob("*-shadow-*.json"))]
    return table(head, [row for result in results for row in _shadow_rows(_findings(result))])


def _shadow_rows(found: dict[str, float]) -> Iterable[Sequence[str]]:
    for load in dict.fromkeys(quantity.partition(":")[0] for quantity in found):
        kind, unit = ("p99", "ms") if f"{load}: p99, ratio" in found else ("goodput", "/s")
        yield (
            load,
            f"{kind} {found[f'{load}: {kind} without']:.1f} {unit}",
            f"{kind} {found[f'{load}: {kind} with a shadow']:.1f} {unit}",
            _interval(found, f"{load}: {kind}", 3),
            f"{found[f'{load}: compared by the shadow']:,.0f}",
            f"{found[f'{load}: dropped by the shadow']:,.0f}",
        )


def overheads() -> str:
    """Return a row for each measured addition: what grew, and its ratio."""
    head = ("addition", "figure", "without", "with", "ratio")
    results = sorted(RESULTS.glob("*-overhead-*.json"))
    rows = [row for path in results for row in _overhead(path)]
    return table(head, rows) if rows else "Not measured yet."


_WAITS = "p99, if its request waits for a whole scrape"
_ADDITIONS = {
    "scrapes": "a scrape each second, 1,000 classes",
    "traces": "traces of 1 % of the requests",
    "keys": "API keys, ten of them",
    "v2": "the binary form of the Open Inference Protocol instead of `/classify`",
    "change": "all that is new since 28 November (commit e8e2055), if none of it is used",
    "scale": "front ends (not used), decoding in part and a faster road (since commit 8e1f75a)",
    "road": "a header's sizes remembered, garbage collection rare; without engine and decoding "
    "(since commit 0084c787)",
    "fair": "turns of clients and short time limits first (since commit c4ed655f)",
}


def _overhead(path: Path) -> Iterator[Sequence[str]]:
    found = _findings(json.loads(path.read_text("utf-8")))
    of = path.name.partition("-overhead-")[2].partition("-")[0]
    name = f"[{_ADDITIONS[of]}](../load_tests/results/{path.name})"
    if of == "scrapes":
        without, with_it = (found[f"p99 {which}"] for which in ("without", "with"))
        waited = without + found["CPU of a scrape"]
        ratio = f"{found['p99 and a whole scrape, ratio']:.2f}"
        yield name, "p99", f"{without:.1f} ms", f"{with_it:.1f} ms", _interval(found, "p99", 2)
        yield name, _WAITS, f"{without:.1f} ms", f"{waited:.1f} ms", ratio
        return
    cpu = "CPU per image"
    for figure in (quantity.removesuffix(", ratio") for quantity in found):
        if figure.endswith(cpu):
            load = _load_of(figure.removesuffix(cpu))
            ends = (found[f"{figure} {which}, mean of windows"] for which in ("without", "with"))
            times = (f"{ms:.2f} ms" for ms in ends)
            yield name, f"{cpu}{load}", *times, _interval(found, figure, 3)


def _load_of(prefix: str) -> str:
    """Return the clients of each of two servers, if the result has several numbers of them."""
    if not prefix:
        return ""
    clients = int(prefix.split()[0]) // 2
    return f", {clients} client{'s' * (clients > 1)}"


def _interval(found: dict[str, float], figure: str, digits: int) -> str:
    """Return a ratio with its 95 % interval, if there is one."""
    ratio = f"{found[f'{figure}, ratio']:.{digits}f}"
    ends = [found.get(f"{figure}, ratio: {end} end of 95 %") for end in ("lower", "upper")]
    known = [f"{end:.{digits}f}" for end in ends if end is not None]
    return f"{ratio} ({'–'.join(known)})" if known else ratio


def perf_analyzer() -> str:
    """Return a row for each figure of perf_analyzer on our server and on PyTriton."""
    results = sorted(RESULTS.glob("*-perf-analyzer-*.json"))
    if not results:
        return "Not measured yet."
    found = _findings(json.loads(results[-1].read_text("utf-8")))
    names = [name.removesuffix(", ratio") for name in found if name.endswith(", ratio")]
    rows = [
        (name, *(f"{found[f'{name}, {of}']:.3g}" for of in ("tidegate", "pytriton", "ratio")))
        for name in names
    ]
    return table(("median of the rounds", "Tidegate", "PyTriton", "ratio"), rows)


def precisions() -> str:
    """Return a row for each load on servers of two precisions and the bare loop, by round."""
    results = sorted(RESULTS.glob("*-precision-*.json"))
    if not results:
        return "Not measured yet."
    measured = json.loads(results[-1].read_text("utf-8"))["measured"]
    loads = dict.fromkeys(m["load"] for m in measured)
    head = ("load", "bf16", "fp32", "bf16 ÷ fp32", "loop in bf16", "bf16 ÷ loop")
    return table(head, [_precision_row(load, measured) for load in loads])


def peers_in_bf16() -> str:
    """Return a row for each server that runs the model in bf16: medians of ratios to the loop."""
    results = sorted(RESULTS.glob("*-compare-bf16-*.json"))
    if not results:
        return "Not measured yet."
    found: dict[str, dict[str, dict[str, Any]]] = {}  # server → load → figures
    for standing in json.loads(results[-1].read_text("utf-8"))["standings"]:
        if not standing["name"].startswith("bare loop"):
            found.setdefault(standing["name"], {})[standing["load"]] = standing["figures"]
    closed = sorted((load for load in found["tidegate"] if load.endswith("clients")), key=_clients)
    rows = [
        (
            name,
            *(f"{loads[load]['throughput_ratio']['median']:.2f}" for load in closed),
            f"{loads['one client']['p50_ratio']['median']:.2f}",
        )
        for name, loads in found.items()
    ]
    most = len(closed)
    head = ("server", *(f"throughput ÷ loop, {load}" for load in closed), "p50 ÷ loop, one client")
    return table(head, sorted(rows, key=lambda row: row[most], reverse=True))


def _clients(load: str) -> int:
    return int(load.split()[0])


def _precision_row(load: str, measured: Sequence[dict[str, Any]]) -> Sequence[str]:
    """Return medians over the rounds: images per second, or of one client the p50 in ms."""
    figure, unit = ("p50_ms", "ms") if load == "one client" else ("per_s", "images/s")
    names = ("tidegate", "tidegate, onnx-cpu", "bare loop")
    ours, exact, loop = (
        [m[figure] for m in measured if (m["load"], m["name"]) == (load, name)] for name in names
    )
    middle = [f"{median(values):.3g} {unit}" for values in (ours, exact, loop)]
    to_exact, to_loop = (
        f"{median(a / b for a, b in zip(ours, other, strict=True)):.2f}" for other in (exact, loop)
    )
    return (load, middle[0], middle[1], to_exact, middle[2], to_loop)


def edge_memory() -> str:
    """Return a row for each bundle on each machine: what a service with the profile edge needs."""
    head = (
        "machine",
        "bundle",
        "ready after",
        "idle",
        "after {images} images",
        "largest",
        "of that, code of qemu",
        "of the service",
        "one client, p50",
        "CPU per image",
    )
    results = {path: json.loads(path.read_text("utf-8")) for path in _memory_results()}
    images = {str(one["images"]) for result in results.values() for one in result["needs"]}
    rows = [row for path, result in results.items() for row in _memory_rows(path, result)]
    return table([name.format(images=" or ".join(sorted(images))) for name in head], rows)


def _memory_results() -> list[Path]:
    return sorted(RESULTS.glob("*-memory-*.json"))


def _memory_rows(path: Path, result: dict[str, Any]) -> Iterator[Sequence[str]]:
    machine = "emulated arm64" if "arm64" in path.name else "x86-64"
    for one in result["needs"]:
        translated = one["translated_mb"]
        yield (
            f"[{machine}](../../load_tests/results/{path.name})",
            one["bundle"].partition("/")[0],
            f"{one['cold_start_s']:.1f} s",
            *(f"{one[name]:.0f} MB" for name in ("idle_mb", "after_mb", "largest_mb")),
            f"{translated:.0f} MB" if translated else "–",
            f"{one['largest_mb'] - translated:.0f} MB",
            *(f"{one[name]:,.0f} ms" for name in ("p50_ms", "cpu_ms")),
        )


def set_drift() -> str:
    """Return a row for each bundle and each change of the sets: what their reports name."""
    head = ("bundle", "images", "change", "reports that name anything", "named most often")
    rows = [
        (
            f"[{result['bundle']}](../../load_tests/results/{path.name})",
            f"{result['images']:,}",
            one["change"],
            f"{one['named']} of {one['sets']}",
            ", ".join(f"{name} ({times})" for name, times in list(one["what"].items())[:4]),
        )
        for path in sorted(RESULTS.glob("*-set-drift-*.json"))
        for result in [json.loads(path.read_text("utf-8"))]
        for one in result["found"]
    ]
    return table(head, rows) if rows else "Not measured yet."


def _findings(result: dict[str, Any]) -> dict[str, float]:
    return {finding["quantity"]: finding["value"] for finding in result["findings"]}
