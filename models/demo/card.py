"""MODEL_CARD.md of the demo bundle: the template card.md filled with the calibration's results."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import Any

from tidegate.models.card.markdown import table
from tidegate.models.demo import source
from tidegate.models.demo.evaluate import PHOTOGRAPHS
from tidegate.models.demo.spec import HERE, NAME, VERSION

Report = Mapping[str, Any]  # calibration.json


def model_card(report: Report) -> str:
    """Return the card as Markdown."""
    template = Template((HERE / "card.md").read_text("utf-8"))
    return template.substitute(
        name=NAME,
        version=VERSION,
        package=source.PACKAGE,
        package_version=source.PACKAGE_VERSION,
        licence=source.LICENCE,
        checkpoint=source.CHECKPOINT_SHA256,
        packages=" and ".join(f"`{p['name']}` {p['version']}" for p in report["packages"]),
        temperature=f"{report['fit']['energy_temperature']:g}",
        centre=f"mean of the {report['fit']['centre']}",
        shrinkage=f"{report['fit']['shrinkage']:g}",
        alpha_reject=f"{report['thresholds']['alpha_reject']:g}",
        alpha_review=f"{report['thresholds']['alpha_review']:g}",
        smallest=f"{report['smallest_p_value']:.4f}",
        partitions=report["uniformity"]["partitions"],
        third=report["uniformity"]["calibration_size"],
        uniformity=_uniformity(report["uniformity"]),
        singles=_singles(report["evaluation"]["singles"]),
        sets=_sets(report["evaluation"]["sets"]),
        choices=_choices(report["fit"]["auroc"]),
        **_sizes(report["splits"]),
        **_labelled(report["evaluation"]["singles"]),
    )


def _sizes(splits: Report) -> dict[str, int]:
    sizes = {name: int(part["photographs"]) for name, part in splits.items()}
    return {"photographs": sum(sizes.values()), **sizes}


def _labelled(singles: Report) -> dict[str, int]:
    """Count the ImageNet samples that are classified correctly, by their file names."""
    samples = singles[PHOTOGRAPHS[1]]
    right = [name.endswith(f"_{item['class_id']}.jpg") for name, item in samples.items()]
    return {"right": sum(right), "labelled": len(right)}


def _uniformity(measured: Report) -> str:
    header = ("alpha", "share of new photographs with p ≤ alpha")
    return table(header, measured["share_at_or_below"].items())


def _singles(groups: Report) -> str:
    header = ("group", "image", "top class", "probability", "p-value", "decision")
    rows = [
        (
            group,
            name,
            item["label"],
            f"{item['probability']:.2f}",
            f"{item['p_value']:.3f}",
            item["decision"],
        )
        for group, items in groups.items()
        for name, item in items.items()
    ]
    return table(header, rows)


def _sets(sets: Report) -> str:
    header = ("set", "images", "AUROC", "FPR95 in", "FPR95 out", "rejected", "reviewed")
    rows = [
        (
            name,
            item["images"],
            f"{item['auroc']:.3f}",
            f"{item['fpr95_keeping_inside']:.2f}",
            f"{item['fpr95_catching_outside']:.2f}",
            f"{item['rejected']:.0%}",
            f"{item['reviewed']:.0%}",
        )
        for name, item in sets.items()
    ]
    return table(header, rows)


def _choices(candidates: Report) -> str:
    kinds = list(next(iter(candidates.values())))
    rows = [
        (name, *(f"{row[kind]:.3f}" for kind in kinds), f"{sum(row.values()) / len(row):.4f}")
        for name, row in candidates.items()
    ]
    return table(("candidate", *kinds, "mean"), rows)
