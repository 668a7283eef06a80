"""Change the serving file: comments and order are kept, and no writer undoes another's change."""

from __future__ import annotations

import fcntl
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from tidegate.service.errors import ServingInvalid, ServingNotWritable
from tidegate.service.files import write_atomically
from tidegate.service.serving.changes import Versions
from tidegate.service.serving.plan import ModelPlan, ServingPlan, parse_plan
from tidegate.service.serving.repository import NO_MODEL
from tidegate.service.serving.serving_file import Found, Place, find

_BY_HAND = "is written in a way that the command cannot change. Edit it by hand."
Change = Callable[[ModelPlan | None, Versions], ModelPlan]  # of one model's plan, as written


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a change makes of one model, resolved, and of the serving file."""

    name: str
    before: ModelPlan | None
    after: ModelPlan
    content: bytes


def propose(found: Found, name: str, change: Change) -> Proposal:
    """Return what `change` makes of model `name`, without writing it.

    Raises ServingInvalid if the new file would be invalid; the old one may name versions that are
    not on disk.
    """
    versions = found.repository.versions.get(name)
    if versions is None:
        there = ", ".join(found.repository.versions) or "no model"
        raise ServingInvalid(f"There is no model {name} in {found.place.models}: there is {there}.")
    written = _written(found)
    old, default = written.models.get(name), written.default or name
    try:
        new = change(old, versions)
    except ServingInvalid as error:
        raise ServingInvalid(f"{name}: {error}") from error
    content = _edit(found, name, old, new, default).encode()
    plan = Found(found.place, found.repository, content).written()
    if plan != ServingPlan(default, {**written.models, name: new}):
        raise ServingInvalid(f"{found.place.path} {_BY_HAND}")
    before = None if old is None else old.resolve(versions)
    return Proposal(name, before, new.resolve(versions), content)


def update(
    place: Place, name: str, change: Change, approve: Callable[[Proposal], None] = lambda _: None
) -> bool:
    """Change model `name` in the serving file, and return whether the file is another one now.

    The file is created if there is none. `approve` is called before it is written, and may raise.
    After a crash it is the old file or the new one. Raises ServingInvalid, and ServingNotWritable
    if it is in a place that cannot be written, as a ConfigMap is.
    """
    path = place.path.resolve()  # a link stays a link
    with _locked(path):
        found = find(place)
        proposal = propose(found, name, change)
        approve(proposal)
        if proposal.content == found.content:
            return False
        with _disk_errors(path):
            _remove_leftovers(path)
            like = None if found.content is None else path.stat()
            write_atomically(path, proposal.content, like=like)
        return True


def _written(found: Found) -> ServingPlan:
    """Return the plan to change, which is empty if there is no file and no obvious plan."""
    if found.content is not None:
        return parse_plan(found.content, f"{found.place.path}", None)
    try:
        return found.written()
    except ServingInvalid:
        return ServingPlan("", {})


def _edit(found: Found, name: str, old: ModelPlan | None, new: ModelPlan, default: str) -> str:
    """Return the new text of the file, which tomllib reads."""
    try:
        text = _edit_text((found.content or b"").decode(), name, old, new, default)
        tomllib.loads(text)
    except (TOMLKitError, tomllib.TOMLDecodeError) as error:
        raise ServingInvalid(f"{found.place.path} {_BY_HAND}") from error
    return text


def _edit_text(text: str, name: str, old: ModelPlan | None, new: ModelPlan, default: str) -> str:
    document = tomlkit.parse(text)
    if name not in document:
        old = None
        document[name] = tomlkit.table()
    _apply(document[name], {} if old is None else _fields(old), _fields(new))
    if len(document) > 1 and NO_MODEL not in document:
        return f'{NO_MODEL} = "{default}"\n\n{tomlkit.dumps(document)}'
    return tomlkit.dumps(document)


def _fields(plan: ModelPlan) -> dict[str, Any]:
    return plan.model_dump(mode="json", exclude_defaults=True)


def _apply(table: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Write the differences into a table of the document, and leave the rest as it is."""
    for key, value in after.items():
        if value == before.get(key):
            continue
        if isinstance(value, dict) and key in table:
            _apply(table[key], before.get(key, {}), value)
        else:
            _put(table, key, value)
    for key in before.keys() - after.keys():
        del table[key]


def _put(table: Any, key: str, value: Any) -> None:
    item = tomlkit.item(value)
    if isinstance(value, dict):
        item = tomlkit.inline_table()
        item.update(value)
    last = _last_line(table)
    if key in table or last is None:
        table[key] = item
    else:  # `table[key] = …` would put it after a comment that belongs to the next table
        table.value._insert_after(last, key, item)


def _last_line(table: Any) -> Any:
    """Return the last key of a table that has lines of its own; None if there is none."""
    if not isinstance(table, Table):
        return None
    lines = [key for key, item in table.value.body if key and not isinstance(item, Table)]
    return lines[-1] if lines else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the serving file; another writer waits for it."""
    with _disk_errors(path):
        descriptor = _open_lock(path.with_name(f".{path.name}.lock"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only what can be written
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)  # another user's


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServingNotWritable(
            f"{path} cannot be written: {error.strerror}. If it comes from elsewhere, such as a "
            "ConfigMap or a mounted file, change it there."
        ) from error


def _remove_leftovers(path: Path) -> None:
    """Remove what writers left that were killed."""
    for item in path.parent.glob(f".{path.name}.*"):
        if re.fullmatch(r"[0-9a-f]{16}", item.suffix.removeprefix(".")):
            item.unlink(missing_ok=True)
