"""serving.toml: a closed, typed format that says which versions of which models are served.

It reads no file and opens no bundle. `wording.py` turns what pydantic finds into sentences.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from tidegate.service.bundle.manifest import SLUG
from tidegate.service.errors import ServingInvalid
from tidegate.service.imaging.spec import Closed
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.serving.order import age
from tidegate.service.serving.repository import LATEST, NO_MODEL, RESERVED, Repository
from tidegate.service.serving.wording import describe, did_you_mean, quoted, sentence

MAX_SERVING_BYTES = 256 << 10  # of serving.toml
MAX_MODELS = 64
_MOST_PROBLEMS = 20  # that are described
MAX_ALIASES = 16  # of one model, besides stable, canary and shadow
MAX_WEIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class _Folders:
    """The versions of one model that are on disk; the context of validation."""

    name: str
    versions: tuple[str, ...]  # from the oldest to the newest
    refused: Mapping[str, str]  # by version: the reason


def _is_on_disk(version: str, info: ValidationInfo) -> str:
    folders: _Folders | None = info.context
    if folders is None or version in folders.versions:
        return version
    if version == LATEST:
        raise ValueError(f'only stable can be "{LATEST}"; see new_versions')
    if reason := folders.refused.get(version):
        raise ValueError(f"{quoted(version)} cannot be served: {reason}")
    there = ", ".join(folders.versions)
    raise ValueError(f"there is no version {quoted(version)} of {folders.name}; there is {there}")


def _is_on_disk_or_latest(version: str, info: ValidationInfo) -> str:
    return version if version == LATEST else _is_on_disk(version, info)


def _is_free(alias: str, info: ValidationInfo) -> str:
    if alias in RESERVED:
        raise ValueError(f"{quoted(alias)} has a meaning of its own; choose another name")
    if info.context is not None and alias in info.context.versions:
        raise ValueError(f"{quoted(alias)} is the name of a version; choose another name")
    return alias


_Slug = Field(pattern=rf"^{SLUG}$")
Version = Annotated[str, _Slug, AfterValidator(_is_on_disk)]
VersionOrLatest = Annotated[str, _Slug, AfterValidator(_is_on_disk_or_latest)]
Alias = Annotated[str, _Slug, AfterValidator(_is_free)]
Share = Annotated[float, Field(ge=0, le=1)]


class Trial(Closed):
    """A version that is tried on a share of a model's images: the canary or the shadow."""

    version: Version
    share: Share


class NewVersions(Closed):
    """How a version that is newer than every version of the file is served."""

    alias: Literal["canary", "shadow"]
    share: Share
    after: Annotated[str, _Slug] | None = None  # only versions newer than this one


class ModelPlan(Closed):
    """What is served of one model, as it is written."""

    stable: VersionOrLatest
    canary: Trial | None = None  # answers a share of the requests
    shadow: Trial | None = None  # computes a share of the images again, and answers none
    aliases: dict[Alias, Version] = Field(default={}, max_length=MAX_ALIASES)
    weight: float = Field(default=1.0, gt=0, le=MAX_WEIGHT)  # relative to that of other models
    new_versions: NewVersions | None = None
    judge: JudgeRules = JudgeRules()

    @field_validator("canary", "shadow")
    @classmethod
    def _differs_from_the_others(cls, trial: Trial | None, info: ValidationInfo) -> Trial | None:
        if trial is not None:
            stable = info.data.get("stable")
            if info.context is not None and stable == LATEST:
                stable = info.context.versions[-1]
            if trial.version == stable:
                raise ValueError(f"version {quoted(trial.version)} is stable already")
            canary = info.data.get("canary")
            if canary is not None and trial.version == canary.version:
                raise ValueError(f"version {quoted(trial.version)} is the canary already")
        return trial

    @field_validator("new_versions")
    @classmethod
    def _stable_is_a_version(
        cls, rule: NewVersions | None, info: ValidationInfo
    ) -> NewVersions | None:
        if rule is not None and info.data.get("stable") == LATEST:
            raise ValueError(f'has no effect if stable is "{LATEST}"; name a version in stable')
        return rule

    def resolve(self, versions: tuple[str, ...]) -> Self:
        """Return what is served if these versions exist, from the oldest to the newest.

        "latest" is replaced by the newest one. A version that is newer than all others here becomes
        the canary or the shadow if `new_versions` says so and the file names none.
        """
        if self.stable == LATEST:
            return self.model_copy(update={"stable": versions[-1]})
        rule = self.new_versions
        if rule is None or getattr(self, rule.alias) is not None:
            return self
        known = [*self.named.values(), *([] if rule.after is None else [rule.after])]
        if age(versions[-1]) <= max(map(age, known)):
            return self
        return self.model_copy(update={rule.alias: Trial(version=versions[-1], share=rule.share)})

    @property
    def named(self) -> dict[str, str]:
        """The version of each name: stable, canary, shadow and the aliases."""
        trials = {"canary": self.canary, "shadow": self.shadow}
        return {
            "stable": self.stable,
            **{name: trial.version for name, trial in trials.items() if trial is not None},
            **self.aliases,
        }


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What is served: the models, and the one that answers requests without a model's name."""

    default: str
    models: Mapping[str, ModelPlan]

    def resolve(self, repository: Repository) -> ServingPlan:
        """Return the plan with a folder's name for every version; see `ModelPlan.resolve`."""
        resolved = {
            name: plan.resolve(repository.versions[name]) for name, plan in self.models.items()
        }
        return ServingPlan(self.default, resolved)


def parse_plan(content: bytes, where: str, repository: Repository | None) -> ServingPlan:
    """Return the plan in the content of a serving file, as it is written.

    Raises ServingInvalid with everything that is wrong in it. `where` is the file's name in the
    messages. Without a repository, versions are not compared with what is on disk.
    """
    tables = _read_toml(content, where)
    default = tables.pop(NO_MODEL, None)
    names = [name for name, table in tables.items() if isinstance(table, dict)]
    problems: list[str] = []
    models: dict[str, ModelPlan] = {}
    for name, table in tables.items() if len(names) <= MAX_MODELS else ():
        try:
            models[name] = _parse_model(name, table, repository)
        except ValidationError as error:
            problems += describe(error, ModelPlan, (name,))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    problems += _check_names(names, default)
    if not tables and not problems:
        problems.append("no model is named: write a table such as [parts] for each")
    if more := problems[_MOST_PROBLEMS:]:
        problems[_MOST_PROBLEMS:] = [f"{len(more)} or more further problems"]
    if problems:
        raise ServingInvalid("\n".join(f"{where}: {sentence(problem)}" for problem in problems))
    return ServingPlan(default or next(iter(models)), models)


def _read_toml(content: bytes, where: str) -> dict[str, Any]:
    if len(content) > MAX_SERVING_BYTES:
        raise ServingInvalid(f"{where}: larger than {MAX_SERVING_BYTES:,} bytes.")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ServingInvalid(f"{where}: byte {error.start + 1} is not UTF-8.") from error
    except (ValueError, RecursionError) as error:  # TOML, a huge number, or too many brackets
        raise ServingInvalid(f"{where}: {_place(error)}.") from error


def _parse_model(name: str, table: Any, repository: Repository | None) -> ModelPlan:
    """Raises ValueError, of pydantic or with a sentence."""
    if not isinstance(table, dict):
        hint = did_you_mean(name, [NO_MODEL])
        raise ValueError(f"not a setting.{hint}" if hint else "expected a table, such as [parts]")
    if not re.fullmatch(SLUG, name):
        raise ValueError("a model's name has lower-case letters, digits and . _ - only")
    context = None if repository is None else _folders(name, repository)
    return ModelPlan.model_validate(table, strict=True, context=context)


def _folders(name: str, repository: Repository) -> _Folders:
    """Raises ValueError with a sentence if there is no version of the model."""
    refused = {v: why for (model, v), why in repository.refused.items() if model == name}
    if name in repository.versions:
        return _Folders(name, repository.versions[name], refused)
    if refused:
        raise ValueError("; ".join(refused.values()))
    near = did_you_mean(name, repository.versions) or f" There is {', '.join(repository.versions)}."
    raise ValueError(f"there is no such model in {repository.root}.{near}")


def _check_names(names: list[str], default: Any) -> list[str]:
    problems = []
    if len(names) > MAX_MODELS:
        problems.append(f"names {len(names)} models; at most {MAX_MODELS} are possible")
    if isinstance(default, dict):
        problems.append(f"{NO_MODEL}: no model can have this name")
    elif default is None and len(names) > 1:
        some = [quoted(name) for name in names[:5]]
        problems.append(f"{NO_MODEL} is missing: {' or '.join(some)}")
    elif default is not None and not isinstance(default, str):
        problems.append(f"{NO_MODEL}: expected a model's name in quotes, not {quoted(default)}")
    elif default is not None and default not in names:
        near = did_you_mean(default, names)
        problems.append(f"{NO_MODEL}: the file has no table [{default}].{near}")
    return problems


def _place(error: Exception) -> str:
    """Return what is wrong with the TOML, after its line and column if they are known."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    found = re.fullmatch(r"(.+) \(at (line \d+, column \d+|end of document)\)", f"{error}", re.S)
    return f"{found[2]}: {found[1]}" if found else f"{error}"
