"""MODEL_CARD.md of a fitted bundle: what it is, how it was made, and where the rest stands.

The card says only what is in CardData; the numbers are those of the manifest, rounded.
"""

from __future__ import annotations

from tidegate.models.card.facts import CardData
from tidegate.models.card.gate import gate, limits, ood
from tidegate.models.card.markdown import UNDEFINED, count, table
from tidegate.models.card.preprocessing import describe
from tidegate.models.card.results import calibration, classes, comparison, confusions, results
from tidegate.service.bundle.evidence import Parity


def model_card(facts: CardData) -> str:
    """Return the card as Markdown; its pictures are the files that plots.plots makes."""
    sections = (
        _head(facts),
        _notes(facts),
        _preprocessing(facts),
        _data(facts),
        results(facts),
        comparison(facts),
        classes(facts),
        confusions(facts),
        calibration(facts),
        gate(facts),
        ood(facts),
        limits(facts),
    )
    return "\n".join(section for section in sections if section)


def _head(facts: CardData) -> str:
    task, made = facts.task, facts.provenance
    return (
        f"# {facts.name}, version {facts.version}\n\n"
        f"An image classifier: {count(task.classes, 'class', 'classes')}, {task.height} × "
        f"{task.width} pixels (height × width), {task.features} features, backbone in "
        f"{facts.precision}.\n"
        f"The weights come from {made.source}.\n"
        f"Their licence: {made.licence}.\n"
        f"The sha256 of the checkpoint is `{made.checkpoint_sha256}`.\n"
        f"Made by `{made.recipe}`.\n"
        "The measured numbers, unrounded, are in `manifest.json`.\n"
    )


def _notes(facts: CardData) -> str:
    if not facts.notes:
        return ""
    return "What was changed or assumed on the way:\n\n" + _bullets(facts.notes)


def _preprocessing(facts: CardData) -> str:
    return (
        "## Preprocessing\n\n"
        + _bullets(describe(facts.preprocess))
        + f"\nIts digest is `{facts.preprocess.digest}`.\n"
        + (_parity(facts.parity) if facts.parity else _unproved())
    )


def _parity(parity: Parity) -> str:
    compared = (
        f"{parity.compared_values:,} uint8 values after resize and crop, of "
        f"{count(parity.probes, 'probe image')}, were compared with those of {parity.library} "
        f"({parity.backend})"
    )
    if parity.exact:
        text = (
            f"**Proved**: {compared}, and none differs.\n"
            "The floats that the network is given differ by at most "
            f"{parity.largest_float_difference:.2g}.\n"
        )
    else:
        share = parity.differing_values / parity.compared_values
        text = (
            f"**Measured difference**: {compared}; {parity.differing_values:,} of them "
            f"({100 * share:.3g} %) differ, by at most "
            f"{count(parity.largest_level_difference, 'level')} of 255.\n"
            "The floats that the network is given differ by at most "
            f"{parity.largest_float_difference:.2g}.\n"
            "The model was trained with the other values; what the difference costs is part of "
            "the results below, which were measured with ours.\n"
        )
    if parity.refused_probes:
        text += (
            "The service refuses these probes, which the library takes: "
            f"{', '.join(parity.refused_probes)}.\n"
        )
    return text + f"The digest of the probe images is `{parity.probe_set}`.\n"


def _unproved() -> str:
    return (
        "**Not proved**: the spec was written by hand, and no transform of the source library was "
        "at hand to hold it to.\n"
    )


def _data(facts: CardData) -> str:
    digests = facts.gate.splits
    names = [*facts.splits, *(name for name in digests if name not in facts.splits)]
    rows = [
        (
            name,
            f"{facts.splits[name]:,}" if name in facts.splits else UNDEFINED,
            f"{facts.left_out.get(name, 0):,}",
            f"`{digests[name]}`" if name in digests else UNDEFINED,
        )
        for name in names
    ]
    header = ("split", "images", "left out: not decodable", "sha256 of its images' digests")
    reference = facts.reference
    note = f"{reference.note}\n" if reference.note else ""
    return (
        "## Data\n\n"
        + table(header, rows)
        + "\nNo image is in two of the splits that have a digest, compared by content.\n"
        "Drift is measured against the class mix and the statistics of "
        f"{count(reference.samples, 'held-out image')}.\n" + note
    )


def _bullets(lines: tuple[str, ...] | list[str]) -> str:
    return "".join(f"- {' '.join(line.split())}\n" for line in lines)
