"""A student, its teacher and the same network trained alone: a section and its sentences."""

from __future__ import annotations

from tidegate.models.card.card_data import CardData
from tidegate.models.card.markdown import UNDEFINED, change, measured, number, percent, table
from tidegate.models.evaluation.paired import CLEARLY, Paired
from tidegate.models.fitting.side_by_side import Measured, SideBySide


def side_by_side_section(data: CardData) -> str:
    """Return the section, "" for a model that was not distilled."""
    found = data.side_by_side
    if found is None:
        return ""
    names = [one.name for one in found.models]
    return (
        "## Teacher and student\n\n"
        "All were fitted, calibrated and evaluated separately, on the same splits.\n\n"
        + table(("measure", *names), _rows(found))
        + "\nCPU time: of the graph with its gate, batch 1, one thread, without decoding; the "
        "models in turns.\n" + "".join(f"{line}\n" for line in sentences(found))
    )


def sentences(found: SideBySide | None) -> list[str]:
    """Return what the student keeps, and whether the teacher was worth it; without one nothing."""
    if found is None:
        return []
    teacher, student = found.teacher, found.student
    lines = [
        f"The student has {percent(student.accuracy.value)} accuracy, "
        f"{percent(student.accuracy.value / teacher.accuracy.value)} of the teacher's "
        f"{percent(teacher.accuracy.value)}; {teacher.bytes / student.bytes:.1f} × fewer bytes; "
        f"{teacher.cpu_ms / student.cpu_ms:.1f} × less CPU time."
    ]
    lines += [_against(one, found) for one in found.models[2:]]
    return lines


def _against(other: Measured, found: SideBySide) -> str:
    paired = found.paired[other.name]
    low, high = paired.interval
    first = (
        f"Against the {other.name} ({percent(other.accuracy.value)}) the student differs by "
        f"{change(100 * paired.difference, 2)} points (95 % interval {change(100 * low, 2)} to "
        f"{change(100 * high, 2)}; McNemar's p = {paired.p_value:.2g}): "
    )
    return first + _verdict(paired, found.hint)


def _verdict(paired: Paired, hint: str) -> str:
    if paired.p_value >= CLEARLY:
        return "no clear difference; here the teacher did not raise the accuracy."
    if paired.difference > 0:
        return "the student is better with its teacher."
    return f"**it is better without the teacher.** {hint}".rstrip()


def _rows(found: SideBySide) -> list[tuple[str, ...]]:
    models = found.models
    agreements = [percent(one.agreement) for one in models[1:]]
    of_each: dict[str, list[str]] = {
        "network": [one.source for one in models],
        "precision": [str(one.precision) for one in models],
        "input": [f"{one.size[0]} × {one.size[1]}" for one in models],
        "accuracy (95 % interval)": [measured(one.accuracy) for one in models],
        "balanced accuracy": [percent(one.balanced_accuracy.value) for one in models],
        "same class as the teacher": [UNDEFINED, *agreements],
        "ECE (noise floor)": [
            f"{number(one.ece, 4)} ({number(one.ece_noise_floor, 4)})" for one in models
        ],
        **{
            f"AUROC on {name}, combined": [number(one.auroc[name]) for one in models]
            for name in found.student.auroc
        },
        "built-in OOD images caught": [percent(one.caught) for one in models],
        "bytes of model.onnx": [f"{one.bytes:,}" for one in models],
        "CPU ms per image": [number(one.cpu_ms) for one in models],
    }
    return [(name, *values) for name, values in of_each.items()]
