"""Find a network's weights in what a training program saved: which entry, under which prefix.

Lightning, DataParallel, torch.compile and averages of weights (EMA, SWA) save the network's tensors
under other names, together with tensors that are no part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tidegate.models.errors import BuildRefused

_DEPTH = 3  # of entries within entries
_LISTED = 5
_AVERAGED = {"ema", "swa", "avg", "average", "averaged"}
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|callback|loops|rng", re.IGNORECASE)
# What training programs save with a network, although it is no part of it.
_NO_PART = re.compile(
    r"(criterion|.*loss|.*metrics?|.*acc(uracy)?|.*(auroc|confmat|f1)|(train|val|valid|test)_\w+"
    r"|n_averaged|(.*_)?ema(_.*)?|teacher|mixup|augment\w*)$"
)


class Shaped(Protocol):
    """A tensor."""

    @property
    def shape(self) -> Sequence[int]:
        """Return the size of each dimension."""
        ...


Tensors = Mapping[str, Shaped]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the weights of a network are: an entry of the file, and the prefix of the names."""

    entry: str  # "ema/module" within an entry, "" at the top
    prefix: str = ""  # "model."
    left_out: tuple[str, ...] = ()  # names of the entry that are no part of the network

    @property
    def name(self) -> str:
        """Return what `--state-dict` calls it."""
        return ":".join(filter(None, (self.entry, self.prefix.removesuffix("."))))

    @property
    def is_averaged(self) -> bool:
        """Return whether these are averages over training, which are usually the better ones."""
        words = re.split(r"[^a-z]+", self.name.lower())
        return bool(_AVERAGED & {*words}) or "n_averaged" in self.left_out

    def answers_to(self, key: str) -> bool:
        """Return whether `key` names it: all of its name, its entry, or its prefix."""
        return key in (self.name, self.entry, self.prefix.removesuffix("."))


@dataclass(frozen=True, slots=True)
class _Fit:
    """How well a set of tensors fits a network."""

    place: Place
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    other_shape: list[str] = field(default_factory=list)

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.other_shape)

    def __str__(self) -> str:
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.other_shape,
        }
        return "; ".join(f"{kind}: {first(names)}" for kind, names in kinds.items() if names)


def weight_sets(content: object) -> dict[str, Tensors]:
    """Return every set of named tensors in a checkpoint's content, by the entry that holds it."""
    return {"/".join(path): found for path, found in _walk(content, ())}


def rows_of(sets: Mapping[str, Tensors], weight: str) -> int | None:
    """Return the rows of the tensor `weight`, under any prefix; None if it is nowhere.

    If networks of several sizes are in the file, it is that with the most tensors.
    """
    found: dict[int, int] = {}
    for tensors in sets.values():
        for prefix in _prefixes(tensors, weight):
            size = sum(name.startswith(prefix) for name in tensors)
            rows = int(tensors[prefix + weight].shape[0])
            found[rows] = max(size, found.get(rows, 0))
    return max(found, key=lambda rows: found[rows]) if found else None


def choose(
    sets: Mapping[str, Tensors], shapes: Shapes, key: str | None, kind: str
) -> tuple[Place, list[str]]:
    """Return where the weights of a network are, and the names of other weights that fit.

    The network has tensors of these names and shapes; `kind` is its name. `key` is the user's
    choice among several; without it, averaged weights are preferred. Raises BuildRefused if no
    weights fit, or if the choice is not clear.
    """
    fits = [
        fit
        for entry, tensors in sets.items()
        for fit in _fits(entry, tensors, shapes, is_stated=key is not None)
    ]
    fitting = [fit.place for fit in fits if not fit.problems]
    places = fitting
    if key is not None:
        known = [fit for fit in fits if fit.place.answers_to(key)]
        if not known:
            raise BuildRefused(
                f"The checkpoint has no weights called {key!r}; it has "
                f"{first([name or 'weights without an entry' for name in sets]) or 'none'}."
            )
        fits, places = known, [place for place in fitting if place.answers_to(key)]
    if not places:
        raise BuildRefused(
            f"The checkpoint does not match this {kind}: "
            f"{min(fits, key=lambda fit: fit.problems)}. Give the model that was trained, "
            "--classes if the number of classes differs, and --state-dict PREFIX if what is "
            "unexpected is no part of the network."
        )
    averaged = [place for place in places if place.is_averaged]
    if len(places) > 1 and len(averaged) != 1:
        raise BuildRefused(
            "The checkpoint has several sets of weights: choose one with --state-dict "
            f"({', '.join(place.name for place in places)})."
        )
    chosen = places[0] if len(places) == 1 else averaged[0]
    return chosen, [place.name for place in fitting if place != chosen]


def first(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _walk(content: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    if not isinstance(content, Mapping):
        return
    if tensors := _tensors(content):
        yield path, tensors
    elif len(path) < _DEPTH:
        for key, value in content.items():
            if isinstance(key, str) and not _NO_WEIGHTS.search(key):
                yield from _walk(value, (*path, key))


def _tensors(content: Mapping[Any, Any]) -> Tensors:
    """Return the content if it is named tensors, without what modules save in addition; else {}."""
    kept = {k: v for k, v in content.items() if not str(k).endswith("_extra_state")}
    is_named = all(isinstance(k, str) and hasattr(v, "shape") for k, v in kept.items())
    return kept if is_named else {}


def _fits(entry: str, tensors: Tensors, shapes: Shapes, *, is_stated: bool) -> list[_Fit]:
    """Return how the tensors fit under each prefix that they may have.

    Tensors outside the network that are not known to be a loss, a metric or the like could be a
    part of it, such as its real head: they are unexpected unless the user states the prefix.
    """
    anchor = max(shapes, key=len)  # the longest name is in one place only
    prefixes = _prefixes(tensors, anchor) or [""]
    complete = [prefix for prefix in prefixes if not _missing(tensors, shapes, prefix)]
    found = []
    for prefix in complete or prefixes:
        copies = tuple(other for other in complete if other != prefix)
        inner: dict[str, tuple[int, ...]] = {}
        left_out: list[str] = []
        unexpected: list[str] = []
        for name, tensor in tensors.items():
            short = name.removeprefix(prefix)
            if name.startswith(prefix) and short in shapes:
                inner[short] = tuple(tensor.shape)
            elif name.startswith(copies):
                continue
            elif _NO_PART.match(name.partition(".")[0]) or (
                is_stated and prefix and not name.startswith(prefix)
            ):
                left_out.append(name)
            else:
                unexpected.append(name)
        found.append(
            _Fit(
                Place(entry, prefix, tuple(left_out)),
                _missing(tensors, shapes, prefix),
                unexpected,
                [
                    f"{name} {shape} for {shapes[name]}"
                    for name, shape in inner.items()
                    if shape != shapes[name]
                ],
            )
        )
    return found


def _prefixes(tensors: Tensors, name: str) -> list[str]:
    """Return the prefixes under which there is a tensor `name`."""
    ends = [found.removesuffix(name) for found in tensors if found.endswith(name)]
    return [prefix for prefix in ends if not prefix or prefix.endswith(".")]


def _missing(tensors: Tensors, shapes: Shapes, prefix: str) -> list[str]:
    # Old files lack these counters. Evaluation never reads them, and torch initialises them.
    return [
        name
        for name in shapes
        if prefix + name not in tensors and not name.endswith("num_batches_tracked")
    ]
