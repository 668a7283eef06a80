"""Write the reference tables that are generated from the code: `python -m docs.generate`.

A page keeps its own text; the table between two comments, `<!-- generated: NAME -->` and
`<!-- end -->`, is replaced. A test fails when a committed table is not what this module returns.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from docs.tables import (
    canaries,
    commands,
    decisions,
    dialects,
    errors,
    layers,
    measurements,
    metrics,
    months,
    settings,
    training,
)

DOCS = Path(__file__).parent
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

TABLES: dict[str, Callable[[], str]] = {
    "settings": settings.settings,
    "errors": errors.errors,
    "dialect-routes": dialects.dialect_routes,
    "presets": settings.presets,
    "profile-edge": settings.profile_edge,
    "metrics": metrics.metric_names,
    "metric-labels": metrics.label_values,
    "commands": commands.commands,
    "decisions": decisions.decisions,
    "layers": layers.layers,
    "quiet-months": months.quiet_months,
    "equal-canaries": canaries.equal_canaries,
    "promoted-canaries": canaries.promoted_canaries,
    "worse-canaries": canaries.worse_canaries,
    "reload-costs": measurements.reload_costs,
    "shadow-costs": measurements.shadow_costs,
    "edge-memory": measurements.edge_memory,
    "overheads": measurements.overheads,
    "perf-analyzer": measurements.perf_analyzer,
    "precisions": measurements.precisions,
    "set-drift": measurements.set_drift,
    "peers-in-bf16": measurements.peers_in_bf16,
    "distillation-settings": training.distillation_settings,
    "training-long-tail": training.long_tail,
    "training-mixing": training.mixing,
    "training-settings": training.training_settings,
    "training-presets": training.training_presets,
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
