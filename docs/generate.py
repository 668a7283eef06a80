"""Write the reference tables that are generated from the code: `python -m docs.generate`.

A page keeps its own text; the table between two comments, `<!-- generated: NAME -->` and
`<!-- end -->`, is replaced. A test fails when a committed table is not what this module returns.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fastapi.routing import APIRoute

from load_tests.rollout.reloads import SETTLED
from tidegate.service import cli, makers, metrics, nvml, platforms
from tidegate.service.api import problems
from tidegate.service.api.dialects import catalogue, names
from tidegate.service.api.dialects.base import Parts
from tidegate.service.settings import PREFIX, Settings

DOCS = Path(__file__).parent
DECISIONS = DOCS / "decisions"
CANARIES = DOCS.parent / "tests" / "unit" / "rollout" / "canaries.json"
RESULTS = DOCS.parent / "load_tests" / "results"

# code → when a client gets it. The codes themselves come from the code; one without a text here,
# or a text without a code, is an error.
WHEN = {
    "bad-request": "malformed HTTP, an empty body or part, malformed multipart or JSON, or a bad "
    "parameter",
    "unauthorized": "the API key or the administrator's token is missing or wrong",
    "forbidden": "the key does not have the scope of the route; for `/admin`, also: no key has it",
    "not-found": "no such route, model, version or recent answer",
    "method-not-allowed": "the route has other methods; `Allow` lists them",
    "upload-timeout": "the body did not arrive in time, or it stalled: fewer than 8 KiB in 10 s, "
    "or in 1 s while other requests need its memory",
    "upload-too-large": "the body has more bytes than the route accepts",
    "image-too-large": "too many pixels, or too much estimated decoding work; both are read from "
    "the header before anything is decoded",
    "unsupported-image-type": "the content is not an accepted format, or a variant of one that is "
    "not decoded",
    "unsupported-encoding": "the body has a `Content-Encoding` other than gzip and deflate; "
    "`Accept-Encoding` lists them",
    "undecodable-image": "a truncated or corrupt image, missing rows or strips, or more chunks, "
    "tags or scans than allowed",
    "out-of-distribution": "the gate rejects the image; the body has `ood` and `model`, and no "
    "predictions",
    "reload-refused": "the serving file or a version is refused; what was served still is",
    "quota-exceeded": "this client exceeds its quota (`TIDEGATE_CLIENT_RATE`, or that of its key)",
    "head-too-large": "the request head has more than 64 KiB or 128 fields",
    "engine-failed": "the engine could not compute this image",
    "internal-error": "a bug; the log has the traceback under the `request_id`",
    "overloaded": "the answer would be too late, or a limit of the queue or of upload memory is "
    "reached",
    "draining": "the service is shutting down",
    "not-ready": "the model is warming up, the start failed, or drift cannot be monitored",
    "deadline-missed": "the deadline passed after admission, or it is shorter than one image takes",
}
# Those without a row in `problems.TABLE`: answers of the framework, the parser and the gate.
MORE_CODES = (
    problems.OUT_OF_DISTRIBUTION,
    (405, "method-not-allowed", "Method not allowed"),
    (431, "head-too-large", "The request's head is too large"),
    (500, "internal-error", "Internal error"),
)
WITH_RETRY_AFTER = {429, 503}

LABELS = {
    "route": metrics.ROUTES,
    "stage": metrics.STAGES,
    "reason": metrics.SHED_REASONS,
    "decision": metrics.DECISIONS,
    "score": ("energy", "mahalanobis", "others that decide"),
    "part": metrics.BATCH_PARTS,
    "outcome": metrics.REVIEW_OUTCOMES,
}

_PRESET_SETTINGS = ("host", "port", "dialects", "drain_delay_s", "drain_timeout_s")

_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEADING = re.compile(r"# (\d+)\. (.+)")


def settings() -> str:
    """Return a row for each setting: name, default, accepted values, meaning."""
    rows = [
        (
            f"`{PREFIX}{name.upper()}`",
            f"`{default_of(field.default)}`",
            _values(field.annotation, field.metadata),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]
    return _table(("variable", "default", "values", "meaning"), rows)


def default_of(default: object) -> str:
    """Return a default as the table shows it."""
    return "unset" if default is None else str(default)


def _values(annotation: Any, metadata: Iterable[Any]) -> str:
    if get_origin(annotation) in (Union, UnionType):
        [annotation] = [kind for kind in get_args(annotation) if kind is not NoneType]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    bounds = {
        name: getattr(constraint, name)
        for constraint in metadata
        for name in ("ge", "gt", "le", "lt")
        if getattr(constraint, name, None) is not None
    }
    words = []
    if "ge" in bounds and "le" in bounds:
        words.append(f"{bounds['ge']:,} to {bounds['le']:,.15g}")
    elif "ge" in bounds:
        words.append(f"at least {bounds['ge']:,}")
    if "gt" in bounds:
        words.append(f"above {bounds['gt']:,}")
        if "le" in bounds:
            words.append(f"at most {bounds['le']:,.15g}")
    kind = {int: "integer", float: "number", str: "text", Path: "path"}[annotation]
    return f"{kind}, {', '.join(words)}" if words else kind


def codes() -> list[tuple[int, str, str]]:
    """Return (status, code, title) of every problem a client can get, in order of the status."""
    return sorted({*problems.TABLE.values(), *MORE_CODES})


def errors() -> str:
    """Return a row for each problem code."""
    known = [code for _, code, _ in codes()]
    if set(known) != set(WHEN):
        raise SystemExit(f"docs/generate.py: WHEN and the codes differ: {set(known) ^ set(WHEN)}")
    rows = [
        (
            str(status),
            f"`{code}`",
            title,
            WHEN[code],
            "yes" if status in WITH_RETRY_AFTER else "",
        )
        for status, code, title in codes()
    ]
    return _table(("status", "code", "title", "returned when", "`Retry-After`"), rows)


def metric_names() -> str:
    """Return a row for each metric: name, kind, labels, meaning."""
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in _metrics()
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def dialect_routes() -> str:
    """Return a row for each route of each dialect."""
    rows = [
        (f"`{name}`", f"`{method} {route.path}`", route.summary or "")
        for name in names.NAMES
        for route in _routes_of(name)
        for method in sorted(route.methods or ())
        if route.include_in_schema
    ]
    return _table(("dialect", "route", "purpose"), rows)


def _routes_of(name: str) -> list[APIRoute]:
    limits = Settings().http_limits()
    intake: Any = SimpleNamespace(limits=limits, service=None)  # only used by requests
    [dialect] = catalogue.build([name], Parts(intake, "reject", ""))
    return [route for route in dialect.router.routes if isinstance(route, APIRoute)]


def presets() -> str:
    """Return a row for each platform: what its preset makes the default of which setting."""
    rows = [
        (
            f"`{platform}`",
            *(f"`{platforms.preset(platform, {})[name]}`" for name in _PRESET_SETTINGS),
        )
        for platform in platforms.PLATFORMS
    ]
    head = ("platform", *(f"`{PREFIX}{name.upper()}`" for name in _PRESET_SETTINGS))
    return _table(head, rows)


def label_values() -> str:
    """Return a row for each label with a closed set of values."""
    rows = [
        (f"`{name}`", ", ".join(f"`{value}`" for value in values))
        for name, values in LABELS.items()
    ]
    return _table(("label", "values"), rows)


def _metrics() -> list[tuple[str, str, Sequence[str], str]]:
    service = metrics.Metrics("0")
    model = metrics.ModelMetrics(_a_model())
    found = []
    for registry in (service.registry, model.registry):
        for collector in registry._collector_to_names:
            labels = getattr(collector, "_labelnames", ())
            for family in collector.collect():
                if family.name.startswith("tidegate_"):
                    name = f"{family.name}_total" if family.type == "counter" else family.name
                    found.append((name, family.type, labels, family.documentation))
    gpus = nvml.GpuCollector(_no_gpus())  # type: ignore[arg-type]  # stands in for a module
    found += [(f.name, f.type, ("gpu",), f.documentation) for f in gpus.collect()]
    return found


def _a_model() -> metrics.ServedModel:
    return metrics.ServedModel(
        name="name",
        version="1",
        digest="",
        info=dict.fromkeys(metrics.MODEL_INFO, ""),
        labels=[""],
        class_fraction=[1.0],
        reference_samples=1,
        alphas={"reject": 0.01, "review": 0.05},
        calibration_samples=1,
        scores=(),
        score_bounds=[0.0],
        max_class_series=1,
        confidence_at_most={},
    )


def _no_gpus() -> SimpleNamespace:
    return SimpleNamespace(nvmlDeviceGetCount=lambda: 0, NVMLError=Exception)


def commands() -> str:
    """Return a section for each command of `tidegate`, with its arguments and options."""
    return "\n".join(_section(name, parser) for name, parser in parsers().items())


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command, by its words, such as `tidegate bundle inspect`."""
    found = {}
    for name, parser in _leaves("tidegate", cli.parser()):
        if name.removeprefix("tidegate ") in makers.COMMANDS:
            module, _ = makers.COMMANDS[name.removeprefix("tidegate ")]
            parser = importlib.import_module(f"tidegate.models.commands.{module}").parser()
        found[name] = parser
    return found


def _leaves(
    name: str, parser: argparse.ArgumentParser
) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        helps = {choice.dest: choice.help for choice in action._get_subactions()}
        for word, child in action.choices.items():
            child.description = child.description or helps.get(word)
            yield from _leaves(f"{name} {word}", child)


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    description = (parser.description or "").rstrip(".").replace("\n", " ")
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        default = action.default if action.option_strings and action.default else None
        text = (action.help or "") % {**vars(action), "prog": name}
        if isinstance(action.choices, (tuple, list)):
            text = f"{text}; one of {', '.join(f'`{choice}`' for choice in action.choices)}"
        if default is not None and "default" not in text and not isinstance(default, list):
            text = f"{text} (default: {default})"
        needed = action.required and action.nargs != "*"
        rows.append(
            (_spelt(action), "yes" if needed else "", text.lstrip("; ").replace("<", "\\<"))
        )
    table = f"\n{_table(('argument', 'required', 'meaning'), rows)}\n" if rows else ""
    return f"## {name}\n\n{description[:1].upper()}{description[1:]}.\n{table}"


def _spelt(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    value = value if isinstance(value, str) else " ".join(value)
    if not action.option_strings:
        return f"`{value}`{' …' if action.nargs == '*' else ''}"
    if action.nargs == 0:
        return ", ".join(f"`{option}`" for option in action.option_strings)
    values = " ".join([value] * (action.nargs if isinstance(action.nargs, int) else 1))
    return f"`{action.option_strings[-1]} {values}`"


def decisions() -> str:
    """Return a row for each decision: number, title with a link, status."""
    texts = {path: path.read_text("utf-8") for path in sorted(DECISIONS.glob("[0-9]*.md"))}
    titles = {}
    for path, text in texts.items():
        heading = _HEADING.match(text)
        if heading is None or f"{int(heading[1]):04d}" != path.name[:4]:
            raise SystemExit(f"{path}: the heading does not have the number of the file")
        titles[int(heading[1])] = (path, heading[2])
    statuses: dict[int, list[str]] = {number: [] for number in titles}
    for number, (path, _) in titles.items():
        for verb, targets, whole in _changes(texts[path]):
            for target in targets:
                part = "" if whole or verb == "extended" else " in part"
                statuses[target].append(f"{verb}{part} by [{number}]({path.name})")
    rows = [
        (str(number), f"[{title}]({path.name})", "; ".join(statuses[number]) or "accepted")
        for number, (path, title) in sorted(titles.items())
    ]
    return _table(("number", "decision", "status"), rows)


def _changes(text: str) -> Iterable[tuple[str, list[int], bool]]:
    """Yield what a decision says of earlier ones: its lines that begin with these words."""
    for line in text.splitlines():
        targets = [int(n) for n in re.findall(r"\b(?:decision|in|to) (\d+)\b", line)]
        if line.startswith("Supersedes "):
            whole = re.fullmatch(r"Supersedes decision \d+\.", line) is not None
            yield "superseded", targets, whole
        elif line.startswith("Adds to "):
            yield "extended", targets, False


def layers() -> str:
    """Return a row for each package whose layers are enforced: from top to bottom."""
    config = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    rows = [
        (f"`{contract['containers'][0]}`", " → ".join(f"`{layer}`" for layer in contract["layers"]))
        for contract in contracts
        if contract["type"] == "layers"
    ]
    return _table(("package", "layers, from top to bottom"), rows)


def equal_canaries() -> str:
    """Return a row for each simulated traffic: how often an equal canary is rolled back."""
    rows = [
        (_share(row), str(row["run"]), f"{row['rolled_back']} of {row['runs']:,}")
        for row in _canaries()
        if row["name"] == "equal"
    ]
    return _table(("share", "like images in a run", "rolled back"), rows)


def promoted_canaries() -> str:
    """Return a row for each simulated traffic: after how many images a canary is promoted."""
    rows = [
        (_share(row), str(row["run"]), _quantiles(row["until_promotable"]))
        for row in _canaries()
        if row["name"] == "promoted"
    ]
    return _table(("share", "like images in a run", "images of the canary"), rows)


def worse_canaries() -> str:
    """Return a row for each simulated fault of a canary, with a column for each traffic."""
    found: dict[str, dict[tuple[str, int], str]] = {}
    for row in _canaries():
        if row["name"] not in ("equal", "promoted"):
            until = _quantiles(row["until_rollback"])
            found.setdefault(row["name"], {})[_share(row), row["run"]] = until
    columns = list(next(iter(found.values())))
    head = [
        "canary",
        *(f"share {share}" + f", runs of {run}" * (run > 1) for share, run in columns),
    ]
    rows = [(name, *(cells[column] for column in columns)) for name, cells in found.items()]
    return _table(head, rows)


def _canaries() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(CANARIES.read_text("utf-8"))["rows"]
    return rows


def reload_costs() -> str:
    """Return a row for each measured pair of versions."""
    head = (
        "version 2",
        "reloads",
        "requests",
        "failed: reload, control",
        "p50: reload, control",
        "p99: reload, control",
        "ratio of p99",
        "memory of version 1: settled, most later",
        "of version 2",
        "answers of another version",
    )
    return _table(head, [_reload_cost(path) for path in sorted(RESULTS.glob("*-reload-*.json"))])


def _reload_cost(path: Path) -> Sequence[str]:
    result = json.loads(path.read_text("utf-8"))
    found = _findings(result)
    wrong = found["answers that are not their digest's"]
    return (
        f"[{result['second']}](../../load_tests/results/{path.name})",
        str(len(result["reloads"])),
        f"{result['anywhere']['requests']:,}",
        f"{_failed(result['inside'])}, {_failed(result['control'])}",
        f"{result['inside']['p50_ms']:.1f}, {result['control']['p50_ms']:.1f} ms",
        f"{result['inside']['p99_ms']:.1f}, {result['control']['p99_ms']:.1f} ms",
        f"{found['p99, ratio']:.2f}",
        *(_memory_over_reloads(result["reloads"], version) for version in ("1", "2")),
        f"{wrong:.0f} of {found['answers checked']:,.0f}",
    )


def _memory_over_reloads(reloads: Sequence[dict[str, Any]], version: str) -> str:
    """Return the memory of a version when it had settled, and the most later."""
    settled, later = (
        [one["after"]["resident_mb"] for one in part if one["version"] == version]
        for part in (reloads[:SETTLED], reloads[SETTLED:])
    )
    return f"{settled[-1]:.0f}, {max(later):.0f} MB"


def _failed(tally: dict[str, Any]) -> int:
    return sum(tally["failures"].values())


def shadow_costs() -> str:
    """Return a row for each load of the measured shadows."""
    head = ("load", "without a shadow", "with a shadow", "ratio", "images compared", "dropped")
    results = [json.loads(p.read_text("utf-8")) for p in sorted(RESULTS.glob("*-shadow-*.json"))]
    return _table(head, [row for result in results for row in _shadow_rows(_findings(result))])


def _shadow_rows(found: dict[str, float]) -> Iterable[Sequence[str]]:
    for load in dict.fromkeys(quantity.partition(":")[0] for quantity in found):
        kind, unit = ("p99", "ms") if f"{load}: p99, ratio" in found else ("goodput", "/s")
        yield (
            load,
            f"{kind} {found[f'{load}: {kind} without']:.1f} {unit}",
            f"{kind} {found[f'{load}: {kind} with a shadow']:.1f} {unit}",
            f"{found[f'{load}: {kind}, ratio']:.3f}",
            f"{found[f'{load}: compared by the shadow']:,.0f}",
            f"{found[f'{load}: dropped by the shadow']:,.0f}",
        )


def overheads() -> str:
    """Return a row for each measured addition: what grew, and its ratio."""
    head = ("addition", "figure", "without", "with", "ratio")
    results = sorted(RESULTS.glob("*-overhead-*.json"))
    return _table(head, [_overhead(path) for path in results]) if results else "Not measured yet."


_ADDITIONS = {
    "scrapes": "a scrape each second, 1,000 classes",
    "traces": "traces of 1 % of the requests",
    "keys": "API keys, ten of them",
    "v2": "the binary form of the Open Inference Protocol instead of `/classify`",
    "change": "protocols, keys, traces and the page, all unused, to the version before",
}


def _overhead(path: Path) -> Sequence[str]:
    found = _findings(json.loads(path.read_text("utf-8")))
    of = path.name.partition("-overhead-")[2].partition("-")[0]
    name = f"[{_ADDITIONS[of]}](../load_tests/results/{path.name})"
    if of == "scrapes":
        times = (f"{found[f'p99 {which}']:.1f} ms" for which in ("without", "with"))
        return (name, "p99", *times, _interval(found, "p99", 2))
    cpu = "CPU per image"
    times = (f"{found[f'{cpu} {which}, mean of windows']:.2f} ms" for which in ("without", "with"))
    return (name, cpu, *times, _interval(found, cpu, 3))


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
    return _table(("median of the rounds", "Tidegate", "PyTriton", "ratio"), rows)


def _findings(result: dict[str, Any]) -> dict[str, float]:
    return {finding["quantity"]: finding["value"] for finding in result["findings"]}


def _share(row: dict[str, Any]) -> str:
    return "rising" if row["share"] is None else str(row["share"])


def _quantiles(quantiles: Sequence[int | None]) -> str:
    """Return a median and a 90 % quantile of images; a dash for one that was not reached."""
    median, most = ("–" if images is None else f"{images:,}" for images in quantiles)
    return f"{median} ({most})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "errors": errors,
    "dialect-routes": dialect_routes,
    "presets": presets,
    "metrics": metric_names,
    "metric-labels": label_values,
    "commands": commands,
    "decisions": decisions,
    "layers": layers,
    "equal-canaries": equal_canaries,
    "promoted-canaries": promoted_canaries,
    "worse-canaries": worse_canaries,
    "reload-costs": reload_costs,
    "shadow-costs": shadow_costs,
    "overheads": overheads,
    "perf-analyzer": perf_analyzer,
}


def pages() -> list[Path]:
    """Return the pages with a generated part."""
    return [path for path in sorted(DOCS.rglob("*.md")) if _BLOCK.search(path.read_text("utf-8"))]


def fresh(page: Path) -> str:
    """Return a page with its generated parts as the code gives them now."""
    return _BLOCK.sub(
        lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n\n{block[3]}", page.read_text("utf-8")
    )


def main() -> int:
    """Rewrite every page that is not as the code gives it."""
    for page in pages():
        text = fresh(page)
        if text != page.read_text("utf-8"):
            page.write_text(text, "utf-8")
            print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
