"""Sphinx's configuration: `sphinx-build -c docs . build/docs` from the root of the repository.

The source is the repository, so that a link to the runbook or to a measured result is the same on
the site as in the checkout. The pages are plain Markdown; the navigation is added here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

project = "Tidegate"
copyright = "The Tidegate authors"  # the name that Sphinx reads
release = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

extensions = ["myst_parser"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = [
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/**/*.md",
    "docker/RUNBOOK.md", "models/README.md", "models/*/LICENSES.md", "load_tests/README.md",
    "load_tests/peers/README.md",
]  # fmt: skip
exclude_patterns = [
    ".*", "*.egg-info", "build", "dist", "service", "tests", "models/bundles", "models/downloads",
]  # fmt: skip

smartquotes = False
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"Tidegate {release}"
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_last_updated_fmt = None

NAVIGATION = {
    "Use": [
        "README", "docs/getting-started", "docs/guides/page", "docs/guides/training",
        "docs/guides/distilling", "docs/guides/own-model", "docs/guides/examples",
    ],
    "Operate": [
        "docs/guides/deploy", "docs/guides/security", "docs/guides/distribute",
        "docs/guides/models", "docs/guides/rollouts", "docs/guides/clients-v2",
        "docs/guides/bulk", "docs/guides/cpu", "docs/guides/edge", "docs/guides/gpu",
        "docs/guides/many-cores",
        "docs/guides/platforms",
        "docs/guides/platforms/sagemaker", "docs/guides/platforms/vertex",
        "docs/guides/platforms/kserve", "docs/guides/platforms/huggingface",
        "docs/guides/platforms/azure-ml", "docs/guides/platforms/torchserve",
        "docs/guides/monitoring", "docker/RUNBOOK",
        "docs/guides/drift-and-retraining", "docs/guides/limits", "CHANGELOG",
    ],
    "Concepts": [
        "docs/concepts/ood-gate", "docs/concepts/batching", "docs/concepts/warm-up",
        "docs/concepts/bundles", "docs/concepts/drift", "docs/concepts/glossary",
    ],
    "Reference": [
        "docs/reference/http-api", "docs/reference/dialects", "docs/reference/errors",
        "docs/reference/settings", "docs/reference/cli", "docs/reference/python",
        "docs/reference/metrics", "docs/reference/bundle-format",
        "docs/reference/preprocess-spec", "docs/reference/architectures",
    ],
    "Contribute": [
        "docs/benchmarks", "load_tests/README", "load_tests/peers/README", "docs/architecture",
        "docs/decisions/index", "models/README", "models/demo/LICENSES", "models/digits/LICENSES",
        "CONTRIBUTING",
    ],
}  # fmt: skip


def add_navigation(app: Any, name: str, content: list[str]) -> None:
    """Append the navigation to the first page.

    Decisions are reached from the table in their index: with a hundred of them in the navigation,
    which is on every page, a build takes three times as long.
    """
    if name == root_doc:
        for caption, pages in NAVIGATION.items():
            entries = "\n".join(f"/{page}" for page in pages)
            content[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"
    elif name.startswith("docs/decisions/") and not name.endswith("/index"):
        content[0] = f"---\norphan: true\n---\n\n{content[0]}"


def add_front_page(app: Any, error: Exception | None) -> None:
    """Send readers of the site's root to the first page."""
    if error is None:
        page = '<!doctype html><meta charset="utf-8"><title>Tidegate</title>'
        page += '<meta http-equiv="refresh" content="0; url=docs/index.html">'
        (Path(app.outdir) / "index.html").write_text(page + "\n", "utf-8")


def setup(app: Any) -> None:
    """Connect both to Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_front_page)
