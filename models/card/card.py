"""Write MODEL_CARD.md of a fitted bundle.

The card shows only what is in CardData; its numbers are those of the manifest, rounded.
"""

from __future__ import annotations

from tidegate.models.card.card_data import CardData
from tidegate.models.card.coverage import coverage_section
from tidegate.models.card.gate import gate, limits, ood
from tidegate.models.card.markdown import UNDEFINED, count, table
from tidegate.models.card.preprocessing import describe
from tidegate.models.card.results import calibration, classes, comparison, confusions, results
from tidegate.models.card.side_by_side import side_by_side_section
from tidegate.models.card.training import training_section
from tidegate.service.bundle.evidence import Parity
from tidegate.service.engines.cpu_engines import calibrated_on


def model_card(data: CardData) -> str:
    """Return the card as Markdown; its pictures are the files of plots.plots."""
    sections = (
        _head(data),
        _notes(data),
        _preprocessing(data),
        _data(data),
        training_section(data),
        results(data),
        comparison(data),
        side_by_side_section(data),
        classes(data),
        confusions(data),
        calibration(data),
        gate(data),
        coverage_section(data.coverage, data.gate.alpha_review),
        ood(data),
        limits(data),
    )
    return "\n".join(section for section in sections if section)


def _head(data: CardData) -> str:
    task, made = data.task, data.provenance
    return (
        f"# {data.name}, version {data.version}\n\n"
        f"An image classifier: {count(task.classes, 'class', 'classes')}, {task.height} × "
        f"{task.width} pixels (height × width), {task.features} features, backbone in "
        f"{data.precision}{_calibrated_for(data)}.\n"
        f"The weights come from {made.source}.\n"
        f"Their licence: {made.licence}.\n"
        f"The sha256 of the checkpoint is `{made.checkpoint_sha256}`.\n"
        f"Made by `{made.recipe}`.\n"
        "The unrounded numbers are in `manifest.json`.\n"
    )


def _calibrated_for(data: CardData) -> str:
    """Return the engine that the card's numbers hold for, unless it is any."""
    if data.precision == "fp32":
        return ""
    engine = calibrated_on(data.precision, data.gate.calibrated_for_engine)
    return f", fitted, calibrated and evaluated with the engine `{engine.name}`"


def _notes(data: CardData) -> str:
    if not data.notes:
        return ""
    return "Changes and assumptions of the build:\n\n" + _bullets(data.notes)


def _preprocessing(data: CardData) -> str:
    return (
        "## Preprocessing\n\n"
        + _bullets(describe(data.preprocess))
        + f"\nThe digest of the preprocessing is `{data.preprocess.digest}`.\n"
        + (_parity(data.parity) if data.parity else _unproved())
    )


def _parity(parity: Parity) -> str:
    compared = (
        f"{parity.compared_values:,} uint8 values after resize and crop of "
        f"{count(parity.probes, 'probe image')} were compared with those of {parity.library} "
        f"({parity.backend})"
    )
    if parity.exact:
        text = (
            f"**Proved**: {compared}; none differs.\n"
            "The floats of the network's input differ by at most "
            f"{parity.largest_float_difference:.2g}.\n"
        )
    else:
        share = parity.differing_values / parity.compared_values
        text = (
            f"**Measured difference**: {compared}; {parity.differing_values:,} of them "
            f"({100 * share:.3g} %) differ, by at most "
            f"{count(parity.largest_level_difference, 'level')} of 255.\n"
            "The floats of the network's input differ by at most "
            f"{parity.largest_float_difference:.2g}.\n"
            "The model was trained with the library's values. The results below were measured with "
            "ours, so they include the effect of the difference.\n"
        )
    if parity.refused_probes:
        text += (
            "The service rejects these probes, which the library accepts: "
            f"{', '.join(parity.refused_probes)}.\n"
        )
    return text + f"The digest of the probe images is `{parity.probe_set}`.\n"


def _unproved() -> str:
    return (
        "**Not proved**: the spec was written by hand, and there was no transform of the source "
        "library to compare it with.\n"
    )


def _data(data: CardData) -> str:
    digests = data.gate.splits
    names = [*data.splits, *(name for name in digests if name not in data.splits)]
    rows = [
        (
            name,
            f"{data.splits[name]:,}" if name in data.splits else UNDEFINED,
            f"{data.left_out.get(name, 0):,}",
            f"`{digests[name]}`" if name in digests else UNDEFINED,
        )
        for name in names
    ]
    header = ("split", "images", "not decodable, left out", "sha256 of its images' digests")
    reference = data.reference
    note = f"{reference.note}\n" if reference.note else ""
    return (
        "## Data\n\n"
        + table(header, rows)
        + "\nThe splits with a digest have no image in common, compared by content.\n"
        "The drift reference is the class mix and the statistics of "
        f"{count(reference.samples, 'held-out image')}.\n" + note
    )


def _bullets(lines: tuple[str, ...] | list[str]) -> str:
    return "".join(f"- {' '.join(line.split())}\n" for line in lines)
