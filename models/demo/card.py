"""MODEL_CARD.md of the demo bundle: the template card.md filled with the calibration's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Template
from typing import Any

from tidegate.models.card.coverage import coverage_section
from tidegate.models.card.markdown import table
from tidegate.models.demo import calibration_file, source
from tidegate.models.demo.spec import ALL, HERE, VERSION, name_of
from tidegate.service.bundle.evidence import Coverage
from tidegate.service.bundle.manifest import Precision

Report = Mapping[str, Any]  # calibration.json


def model_card(report: Report, precision: Precision = "fp32") -> str:
    """Return the card as Markdown."""
    template = Template((HERE / "card.md").read_text("utf-8"))
    return template.substitute(
        name=name_of(precision),
        precision=precision,
        comparison="" if precision == "fp32" else _comparison(report, precision),
        version=VERSION,
        package=source.PACKAGE,
        package_version=source.PACKAGE_VERSION,
        licence=source.LICENCE,
        checkpoint=source.CHECKPOINT_SHA256,
        packages=_packages(report["packages"]),
        package_count=len(report["packages"]),
        **_temperature(report["temperature"]),
        combination=" + ".join(report["fit"]["combination"]),
        candidates=table(("scores", "criterion"), _best_first(report["fit"]["candidates"])),
        ceiling=f"{report['fit']['ceiling']:g}",
        centre=f"mean of the {report['fit']['centre']}",
        shrinkage=f"{report['fit']['shrinkage']:g}",
        rank=report["fit"]["rank"],
        alpha_reject=f"{report['thresholds']['alpha_reject']:g}",
        alpha_review=f"{report['thresholds']['alpha_review']:g}",
        smallest=f"{1 / (report['splits']['fold_b']['photographs'] + 1):.4f}",
        extreme=int(
            report["thresholds"]["alpha_reject"] * (report["splits"]["fold_b"]["photographs"] + 1)
        ),
        partitions=report["uniformity"]["partitions"],
        third=report["uniformity"]["calibration_size"],
        uniformity=_uniformity(report["uniformity"]),
        coverage=coverage_section(
            Coverage.model_validate(report["coverage"]), report["thresholds"]["alpha_review"]
        ),
        singles=_singles(report["evaluation"]["singles"]),
        sets=_sets(report["evaluation"]["sets"]),
        choices=_choices(report["fit"]["auroc"]),
        **_sizes(report["splits"]),
    )


def _comparison(report: Report, precision: Precision) -> str:
    """Return the section that compares a precision with fp32, as measured at its calibration."""
    exact, found = calibration_file.load().report, report["against_fp32"]
    rows = [
        ("accuracy on the labelled photographs", *_pair(exact, report, _accuracy)),
        ("ECE with the fitted temperature", *_pair(exact, report, _ece)),
        ("new photographs with p ≤ alpha_reject", *_pair(exact, report, _rejected)),
        *(
            (f"AUROC on {name}", *_pair(exact, report, _auroc_on(name)))
            for name in report["evaluation"]["sets"]
        ),
        ("CPU-ms per image", *(f"{ms:.2f}" for ms in found["cpu_ms"].values())),
    ]
    return (
        f"## {precision} against fp32\n\n"
        "Both were fitted, calibrated and evaluated on the same photographs, each with the engine "
        "that serves it.\n\n"
        + table(("measure", "fp32", precision), rows)
        + f"\nThe top class is that of fp32 for {found['agreement']:.1%} of "
        f"{found['photographs']} photographs; the logits differ by "
        f"{found['mean_logit_error']:.3f} on average.\n"
        "The times are of the machine of the calibration, a Xeon with AMX, on one thread.\n\n"
    )


def _pair(exact: Report, report: Report, measure: Callable[[Report], float]) -> tuple[str, str]:
    return f"{measure(exact):.3f}", f"{measure(report):.3f}"


def _accuracy(report: Report) -> float:
    return float(report["temperature"]["measured"][ALL]["accuracy"][0])


def _ece(report: Report) -> float:
    return float(report["temperature"]["measured"][ALL]["after"]["ece"])


def _rejected(report: Report) -> float:
    shares = report["uniformity"]["share_at_or_below"]
    return float(shares[str(report["thresholds"]["alpha_reject"])])


def _auroc_on(name: str) -> Callable[[Report], float]:
    return lambda report: float(report["evaluation"]["sets"][name]["auroc"])


def _best_first(candidates: Report) -> list[tuple[str, str]]:
    order = sorted(candidates, key=lambda name: -candidates[name])
    return [(name, f"{candidates[name]:.4f}") for name in order]


def _sizes(splits: Report) -> dict[str, int]:
    sizes = {name: int(part["photographs"]) for name, part in splits.items()}
    return {"photographs": sum(sizes.values()), **sizes}


def _packages(packages: list[Report]) -> str:
    header = ("package", "version", "licence", "photographs")
    return table(
        header, [(p["name"], p["version"], p["licence"], p["photographs"]) for p in packages]
    )


def _temperature(fit: Report) -> dict[str, str]:
    header = ("images", "n", "accuracy", "T", "mean confidence", "ECE", "noise floor", "NLL")
    rows = []
    for name, item in fit["measured"].items():
        share, low, high = item["accuracy"]
        for t, found in ((1.0, item["before"]), (fit["temperature"], item["after"])):
            rows.append(
                (
                    name,
                    item["images"],
                    f"{share:.3f} ({low:.3f} to {high:.3f})",
                    f"{t:.3g}",
                    f"{found['confidence']:.3f}",
                    f"{found['ece']:.3f}",
                    f"{found['ece_noise_floor']:.3f}",
                    f"{found['nll']:.3f}",
                )
            )
    return {
        "class_temperature": f"{fit['temperature']:.3g}",
        "temperature_low": f"{fit['interval'][0]:.2f}",
        "temperature_high": f"{fit['interval'][1]:.2f}",
        "temperature_images": f"{fit['images']}",
        "temperature_table": table(header, rows),
    }


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
