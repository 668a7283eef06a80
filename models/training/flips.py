"""Whether mirrored training images keep their class. Pure: decided by the names of the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

_SIDES = {
    *("left", "right", "links", "rechts", "gauche", "droite", "sinistra", "destra", "izquierda"),
    *("derecha", "clockwise", "counterclockwise", "anticlockwise", "cw", "ccw", "lh", "rh"),
}
_MOST_NAMED = 3


def flips(setting: Literal["auto"] | bool, classes: Sequence[str]) -> tuple[bool, str]:
    """Return whether to mirror training images left and right, and a sentence why.

    "auto" mirrors unless a class has a side in its name ("turn_left"), or the classes are letters
    or digits: those are other classes, or none, when mirrored.
    """
    if setting != "auto":
        words = "are" if setting else "are not"
        return setting, f"Images {words} mirrored, as augmentation.flip says."
    sided = [name for name in classes if _SIDES & {*re.split(r"[^a-z]+", name.lower())}]
    if sided:
        named = ", ".join(sided[:_MOST_NAMED])
        return False, f"Images are not mirrored, as these classes have a side: {named}."
    characters = [name for name in classes if re.fullmatch(r"\w|\d+", name.strip())]
    if 2 * len(characters) > len(classes):
        named = ", ".join(characters[:_MOST_NAMED])
        return False, f"Images are not mirrored, as the classes are letters or digits: {named}."
    return True, (
        "Images are mirrored left and right, as no name of a class has a side; if a mirrored image "
        "is of another class, give --set augmentation.flip=false."
    )
