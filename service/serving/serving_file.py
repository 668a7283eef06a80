"""Where the serving file is, and what it and the folder of the models say together."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tidegate.service.errors import ServingInvalid
from tidegate.service.serving.plan import MAX_SERVING_BYTES, ModelPlan, ServingPlan, parse_plan
from tidegate.service.serving.repository import Repository, list_repository

SERVING = "serving.toml"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of the models, and the serving file if it is not SERVING in that folder."""

    models: Path
    serving: Path | None = None

    @property
    def path(self) -> Path:
        """Return the path of the serving file, which may not exist."""
        return self.serving or self.models / SERVING


@dataclass(frozen=True, slots=True)
class Found:
    """What was read at one moment: the folder, and the file's content, None if there is none."""

    place: Place
    repository: Repository
    content: bytes | None

    @property
    def fingerprint(self) -> str:
        """Return a digest that differs if the content or the complete versions differ."""
        versions = json.dumps(sorted(self.repository.versions.items())).encode()
        content = b"-" if self.content is None else b"+" + self.content
        return hashlib.sha256(versions + content).hexdigest()

    def written(self) -> ServingPlan:
        """Return the plan as it is written: `stable` may be "latest". Raises ServingInvalid.

        Without a file it is the only version of the only model.
        """
        if self.content is not None:
            return parse_plan(self.content, f"{self.place.path}", self.repository)
        match list(self.repository.versions.items()):
            case [(name, (version,))] if self.place.serving is None:
                return ServingPlan(name, {name: ModelPlan(stable=version)})
        raise ServingInvalid(_what_to_write(self.place, self.repository))

    def plan(self) -> ServingPlan:
        """Return the plan with a folder's name for every version. Raises ServingInvalid."""
        return self.written().resolve(self.repository)


def find(place: Place, known: Repository | None = None) -> Found:
    """Read the folder and the serving file. Raises ServingInvalid if one cannot be read.

    With `known`, what was found in the folder before, it is much faster.
    """
    try:
        with place.path.open("rb") as file:
            content = file.read(MAX_SERVING_BYTES + 1)
    except FileNotFoundError:
        return Found(place, list_repository(place.models, known), None)
    except OSError as error:
        raise ServingInvalid(f"{place.path} cannot be read: {error.strerror}.") from error
    return Found(place, list_repository(place.models, known), content)


def _what_to_write(place: Place, repository: Repository) -> str:
    versions = repository.versions
    if not versions:
        refused = "".join(f"\n{reason}." for reason in repository.refused.values())
        return (
            f"There is no bundle in {place.models}: `tidegate bundle pull` copies one to "
            f"NAME/VERSION in it.{refused}"
        )
    lines = [] if len(versions) == 1 else [f'default = "{next(iter(versions))}"', ""]
    for name, there in versions.items():
        lines += [f"[{toml_key(name)}]", f'stable = "{there[-1]}"', ""]
    count = sum(map(len, versions.values()))
    return (
        f"There is no serving file {place.path}, and {place.models} has "
        f"{_counted(count, 'version')} of {_counted(len(versions), 'model')}. "
        "Write which to serve into it, for example:\n\n" + "\n".join(lines).rstrip()
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def toml_key(name: str) -> str:
    """Return a model's name as a key of a TOML table."""
    return name if re.fullmatch(r"[a-z0-9_-]+", name) else f'"{name}"'
