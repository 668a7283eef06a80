"""The changes of a rollout: a model's plan before to its plan after. Pure: it writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tidegate.service.errors import ServingInvalid
from tidegate.service.serving.plan import ModelPlan, NewVersions, Trial
from tidegate.service.serving.repository import ROLES

PREVIOUS = "previous"  # the alias of the version that was stable before
FIRST_SHARE = 0.05  # of a shadow that becomes the canary
Versions = tuple[str, ...]  # of the model, from the oldest to the newest


def place_version(
    plan: ModelPlan | None,
    versions: Versions,
    alias: str,
    version: str | None,
    share: float | None = None,
) -> ModelPlan:
    """Give a version the name `alias`, or remove that name if `version` is None.

    A canary or shadow keeps its share if none is given. Versions and shares are checked when the
    new file is parsed. Raises ServingInvalid if the plan cannot be changed in this way.
    """
    if share is not None and alias not in ("canary", "shadow"):
        raise ServingInvalid(f"{alias} has no share: only canary and shadow have one.")
    if plan is None:
        if alias == "stable" and version is not None:
            return ModelPlan.model_construct(stable=version)
        plan = require_served(plan)
    before = plan.resolve(versions)
    match alias:
        case "stable":
            if version is None:
                raise ServingInvalid("A model always has a stable version.")
            changed = _stable(plan, before, version)
        case "canary" | "shadow":
            changed = plan.model_copy(update={alias: _trial(before, alias, version, share)})
        case _:
            others = {name: old for name, old in plan.aliases.items() if name != alias}
            new = {} if version is None else {alias: version}
            changed = plan.model_copy(update={"aliases": others | new})
    return _leave_out(changed, before.named.get(alias), versions)


def promote(
    plan: ModelPlan,
    versions: Versions,
    alias: str = "canary",
    share: float = FIRST_SHARE,
    expected: str | None = None,
) -> ModelPlan:
    """Make the canary stable, and the old stable version `previous`; or the shadow the canary.

    Raises ServingInvalid if there is no such version, or it is not the `expected` one.
    """
    before = plan.resolve(versions)
    trial = _require(before, alias, expected)
    if alias == "canary":
        return _stable(plan.model_copy(update={"canary": None}), before, trial.version)
    if before.canary is not None:
        raise ServingInvalid(
            f"Version {before.canary.version} is the canary. Promote or remove it before the "
            "shadow becomes the canary."
        )
    canary = Trial.model_construct(version=trial.version, share=share)
    return plan.model_copy(update={"canary": canary, "shadow": None})


def roll_back(plan: ModelPlan, versions: Versions, expected: str | None = None) -> ModelPlan:
    """Remove the canary; without one, make the version `previous` stable again.

    Raises ServingInvalid if there is neither, or if the canary is not the `expected` one.
    """
    before = plan.resolve(versions)
    if expected is not None or before.canary is not None:
        trial = _require(before, "canary", expected)
        changed = plan.model_copy(update={"canary": None})
        return _leave_out(changed, trial.version, versions)
    aliases = dict(plan.aliases)
    previous = aliases.pop(PREVIOUS, before.stable)
    if previous == before.stable:
        raise ServingInvalid(
            f"There is nothing to roll back: version {before.stable} is stable, and there is no "
            f"canary and no other version {PREVIOUS}."
        )
    changed = plan.model_copy(update={"stable": previous, "aliases": aliases})
    return _leave_out(changed, before.stable, versions)


def require_served(plan: ModelPlan | None) -> ModelPlan:
    """Return the plan; raises ServingInvalid if the model has none."""
    if plan is None:
        raise ServingInvalid("The model is not served yet. Set its stable version first.")
    return plan


def in_words(name: str, before: ModelPlan | None, after: ModelPlan) -> list[str]:
    """Return a line for each difference between two resolved plans of model `name`."""
    old, new = _described(before), _described(after)
    return [
        f"{name}: {key} {old.get(key, 'none')} → {new.get(key, 'none')}"
        for key in dict.fromkeys([*ROLES, *old, *new])
        if old.get(key) != new.get(key)
    ]


def describe(plan: ModelPlan) -> Iterator[tuple[str, str]]:
    """Yield each name of a resolved plan with its version, and its share if it has one."""
    trials = {"canary": (plan.canary, "requests"), "shadow": (plan.shadow, "images")}
    for alias, version in plan.named.items():
        trial, unit = trials.get(alias, (None, ""))
        share = "" if trial is None else f" ({100 * trial.share:.4g} % of the {unit})"
        yield alias, version + share


def _described(plan: ModelPlan | None) -> Mapping[str, str]:
    if plan is None:
        return {}
    rule = plan.new_versions
    after = {} if rule is None or rule.after is None else {"new versions after": rule.after}
    return {**dict(describe(plan)), **after}


def _stable(plan: ModelPlan, before: ModelPlan, version: str) -> ModelPlan:
    update: dict[str, Any] = {"stable": version}
    if version != before.stable:
        update["aliases"] = {**plan.aliases, PREVIOUS: before.stable}
    return plan.model_copy(update=update)


def _trial(before: ModelPlan, alias: str, version: str | None, share: float | None) -> Trial | None:
    if version is None:
        return None
    old: Trial | None = getattr(before, alias)
    if share is None and old is None:
        raise ServingInvalid(f"{alias} needs a share, for example {alias}={version}:{FIRST_SHARE}.")
    return Trial.model_construct(
        version=version, share=old.share if share is None and old is not None else share
    )


def _require(before: ModelPlan, alias: str, expected: str | None) -> Trial:
    trial: Trial | None = getattr(before, alias)
    if trial is None:
        raise ServingInvalid(f"There is no {alias}.")
    if expected is not None and trial.version != expected:
        raise ServingInvalid(f"The {alias} is version {trial.version}, not {expected}.")
    return trial


def _leave_out(plan: ModelPlan, version: str | None, versions: Versions) -> ModelPlan:
    """Keep the rule for new versions from bringing back a version that was taken out."""
    rule = plan.new_versions
    if rule is None or version is None or version in plan.named.values():
        return plan
    if version not in plan.resolve(versions).named.values():
        return plan
    later = NewVersions(alias=rule.alias, share=rule.share, after=version)
    return plan.model_copy(update={"new_versions": later})
