from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st
from tomlkit.exceptions import ParseError

from tests.unit.serving.folders import repository
from tidegate.service.errors import ServingInvalid, ServingNotWritable
from tidegate.service.serving import edit
from tidegate.service.serving.changes import place_version, promote, require_served, roll_back
from tidegate.service.serving.edit import Change, Proposal, propose, update
from tidegate.service.serving.plan import ModelPlan
from tidegate.service.serving.repository import Repository
from tidegate.service.serving.serving_file import Found, Place, find

ROOT = Path(__file__).parents[3]
FILE = """\
# What we serve
default = "parts"  # the main one

[parts]  # trained monthly
# pinned since May
stable = "3"  # good
canary = { version = "4", share = 0.05 }  # since Monday
weight=2.0

# the rules
[parts.judge]
promote = true

# rarely used
[cats]
stable = "1"
[cats.canary]
version = "2"  # a try
share = 0.5
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    repository(tmp_path, parts="2 3 4 5", cats="1 2 3")
    (tmp_path / "serving.toml").write_text(FILE)
    return tmp_path


def setting(alias: str, version: str | None, share: float | None = None) -> Change:
    def change(plan: ModelPlan | None, versions: tuple[str, ...]) -> ModelPlan:
        return place_version(plan, versions, alias, version, share)

    return change


def promoting(plan: ModelPlan | None, versions: tuple[str, ...]) -> ModelPlan:
    return promote(require_served(plan), versions)


def changed(models: Path, name: str, *changes: Change) -> str:
    for change in changes:
        update(Place(models), name, change)
    return (models / "serving.toml").read_text()


def test_comments_and_order_are_kept(models: Path) -> None:
    changed(models, "parts", promoting, setting("shadow", "5", 0.2))

    text = changed(models, "cats", setting("canary", "3", 0.25), setting("good", "1"))

    assert text == FILE.replace('"3"  # good', '"4"  # good').replace(
        'canary = { version = "4", share = 0.05 }  # since Monday\nweight=2.0\n',
        'weight=2.0\naliases = {previous = "3"}\nshadow = {version = "5", share = 0.2}\n',
    ).replace('stable = "1"\n', 'stable = "1"\naliases = {good = "1"}\n').replace(
        'version = "2"  # a try\nshare = 0.5', 'version = "3"  # a try\nshare = 0.25'
    )


@pytest.mark.parametrize(
    "text",
    [
        'parts.stable = "3"\nparts.canary.version = "4"\nparts.canary.share = 0.5\n',
        'parts = { stable = "3", canary = { version = "4", share = 0.5 } }\n',
        '[parts.canary]\nversion = "4"\nshare = 0.5\n[parts]\nstable = "3"\n',
        '"parts" = { "stable" = \'3\', canary = { version = "\\u0034", share = 5e-1 } }\r\n',
        '[parts]\nstable="3"\n[parts.canary]\nversion="4"\nshare=0.5\n[parts.aliases]\ngood="2"',
    ],
)
def test_every_way_to_write_the_same_plan_can_be_changed(models: Path, text: str) -> None:
    (models / "serving.toml").write_bytes(text.encode())

    changed(models, "parts", promoting, setting("canary", "5", 0.5), setting("previous", "2"))

    plan = find(Place(models)).plan().models["parts"]
    assert plan.named.items() >= {"stable": "4", "canary": "5", "previous": "2"}.items()
    changed(models, "cats", setting("stable", "1"))
    assert find(Place(models)).plan().default == "parts"


def test_the_first_change_creates_the_file(models: Path) -> None:
    (models / "serving.toml").unlink()

    assert changed(models, "parts", setting("stable", "3")) == '[parts]\nstable = "3"\n'
    assert changed(models, "cats", setting("stable", "1"), setting("canary", "2", 0.5)) == (
        'default = "parts"\n\n[parts]\nstable = "3"\n\n'
        '[cats]\nstable = "1"\ncanary = {version = "2", share = 0.5}\n'
    )


def test_the_only_version_is_the_plan_before_the_first_change(tmp_path: Path) -> None:
    repository(tmp_path, parts="3")

    proposal = propose(find(Place(tmp_path)), "parts", setting("good", "3"))

    assert proposal.before is not None
    assert proposal.before.named == {"stable": "3"}
    assert proposal.content == b'[parts]\nstable = "3"\naliases = {good = "3"}\n'


def test_removing_everything_again_removes_the_keys(models: Path) -> None:
    text = changed(models, "parts", setting("good", "2"), setting("good", None))

    assert text == FILE


def test_a_change_is_checked_as_the_file_is(models: Path) -> None:
    with pytest.raises(ServingInvalid) as raised:
        update(Place(models), "parts", setting("canary", "77", 1.5))

    assert f"{raised.value}" == (
        f'{models}/serving.toml: parts.canary.version: there is no version "77" of parts; '
        f"there is 2, 3, 4, 5.\n{models}/serving.toml: parts.canary.share: must be at most 1, "
        "not 1.5."
    )
    assert (models / "serving.toml").read_text() == FILE


def test_a_change_that_is_impossible_names_the_model(models: Path) -> None:
    with pytest.raises(ServingInvalid, match=r"^cats: There is no shadow"):
        update(
            Place(models),
            "cats",
            lambda plan, there: promote(require_served(plan), there, "shadow"),
        )
    with pytest.raises(ServingInvalid, match=r"There is no model dogs in .*: there is cats, parts"):
        update(Place(models), "dogs", setting("stable", "1"))


def test_a_file_with_problems_is_not_changed(models: Path) -> None:
    (models / "serving.toml").write_text('[parts]\nstable = "3"\nfoo = 1\n')

    with pytest.raises(ServingInvalid, match=r"parts\.foo is not a setting"):
        update(Place(models), "parts", setting("stable", "4"))


def test_a_version_that_is_gone_can_be_removed_from_the_file(models: Path) -> None:
    (models / "serving.toml").write_text('[parts]\nstable = "3"\naliases = { previous = "1" }\n')
    with pytest.raises(ServingInvalid, match=r"parts\.aliases\.previous: there is no version"):
        update(Place(models), "parts", setting("stable", "3"))

    assert changed(models, "parts", setting("previous", None)) == '[parts]\nstable = "3"\n'


def test_a_change_of_nothing_does_not_write(models: Path) -> None:
    before = (models / "serving.toml").stat().st_ino

    assert update(Place(models), "parts", setting("stable", "3")) is False

    assert (models / "serving.toml").stat().st_ino == before
    assert update(Place(models), "parts", setting("stable", "5")) is True


def test_nothing_is_written_if_the_change_is_not_approved(models: Path) -> None:
    seen = []

    def refuse(proposal: Proposal) -> None:
        seen.append(proposal.after.stable)
        raise ServingInvalid("no")

    with pytest.raises(ServingInvalid, match=r"^no$"):
        update(Place(models), "parts", setting("stable", "5"), refuse)

    assert seen == ["5"]
    assert (models / "serving.toml").read_text() == FILE


def test_a_link_stays_a_link_and_the_permissions_stay(models: Path, tmp_path: Path) -> None:
    file, target = models / "serving.toml", tmp_path / "etc" / "serving.toml"
    target.parent.mkdir()
    file.rename(target)
    target.chmod(0o640)
    file.symlink_to(target)

    update(Place(models), "parts", setting("stable", "5"))

    assert file.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert find(Place(models)).plan().models["parts"].stable == "5"


def test_a_place_that_cannot_be_written_has_an_error_of_its_own(models: Path) -> None:
    nowhere = Path("/proc/serving.toml")

    with pytest.raises(ServingNotWritable, match=r"cannot be written: .* ConfigMap .* change it"):
        update(Place(models, nowhere), "parts", setting("stable", "5"))


def test_a_mounted_file_cannot_be_replaced(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: Path, content: bytes, like: os.stat_result | None) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"{path}")

    monkeypatch.setattr(edit, "write_atomically", busy)

    with pytest.raises(ServingNotWritable, match="busy"):
        update(Place(models), "parts", setting("stable", "5"))


def test_the_lock_file_of_another_user_is_used(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def deny(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_ACCMODE == os.O_RDWR:  # root may write every file, and may run the tests
            raise PermissionError(errno.EACCES, "Permission denied", f"{path}")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", deny)

    with pytest.raises(ServingNotWritable, match="Permission denied"):
        update(Place(models), "parts", setting("stable", "5"))
    (models / ".serving.toml.lock").touch()
    assert update(Place(models), "parts", setting("stable", "5"))


def test_a_change_that_the_library_gets_wrong_is_not_written(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> NoReturn:
        raise ParseError(1, 1)

    with monkeypatch.context() as patched:
        patched.setattr(edit, "_apply", lambda table, before, after: None)
        with pytest.raises(ServingInvalid, match="Edit it by hand"):
            update(Place(models), "parts", setting("stable", "5"))
    with monkeypatch.context() as patched:
        patched.setattr(tomlkit, "dumps", lambda document: "[parts")
        with pytest.raises(ServingInvalid, match="Edit it by hand"):
            update(Place(models), "parts", setting("stable", "5"))
    with monkeypatch.context() as patched:
        patched.setattr(tomlkit, "parse", fail)
        with pytest.raises(ServingInvalid, match="Edit it by hand"):
            update(Place(models), "parts", setting("stable", "5"))
    assert (models / "serving.toml").read_text() == FILE


def test_the_file_is_locked_from_reading_to_writing(models: Path) -> None:
    def try_to_lock(proposal: Proposal) -> None:
        with (models / ".serving.toml.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    update(Place(models), "parts", setting("stable", "5"), try_to_lock)

    with (models / ".serving.toml.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


SHARES = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 1.0, 2.0]))
SETTING = st.builds(
    setting,
    st.sampled_from(["stable", "canary", "shadow", "previous", "good", "latest"]),
    st.sampled_from([None, "2", "3", "4", "5", "6", "77", "latest"]),
    SHARES,
)
STEPS = st.one_of(
    SETTING,
    st.just(promoting),
    st.just(lambda plan, there: promote(require_served(plan), there, "shadow", 0.1)),
    st.just(lambda plan, there: roll_back(require_served(plan), there)),
)


@pytest.mark.lengthy
@given(st.sampled_from(["", 'new_versions = { alias = "shadow", share = 1 }\n']), st.data())
def test_whatever_is_changed_the_file_stays_valid_and_commented(
    rule: str, data: st.DataObject
) -> None:
    there = {"parts": ("2", "3", "4", "5", "6"), "cats": ("1", "2")}
    text = FILE.replace("weight=2.0\n", f"weight=2.0\n{rule}")
    found = Found(Place(Path("/bundles")), Repository(Path("/bundles"), there, {}), text.encode())
    cats = found.plan().models["cats"]
    for change in data.draw(st.lists(STEPS, min_size=1, max_size=8)):
        try:
            proposal = propose(found, "parts", change)
        except ServingInvalid as error:
            assert "by hand" not in f"{error}"  # noqa: PT017
            continue
        found = Found(found.place, found.repository, proposal.content)
        assert found.plan().models == {"parts": proposal.after, "cats": cats}

    lines = (found.content or b"").decode().split("\n")
    for comment, below in (
        ("# What we serve", 'default = "parts"  # the main one'),
        ("# the rules", "[parts.judge]"),
        ("# rarely used", "[cats]"),
    ):
        assert lines[lines.index(comment) + 1] == below


WRITER = """
import sys
from pathlib import Path
from tests.unit.serving.test_edit import setting
from tidegate.service.serving.edit import update
from tidegate.service.serving.serving_file import Place
for number in range(8):
    update(Place(Path(sys.argv[1])), "parts", setting(f"{sys.argv[2]}{number}", "2"))
"""


@pytest.mark.process
def test_two_writers_lose_no_change(models: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, models, name], cwd=ROOT) for name in "ab"
    ]

    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(find(Place(models)).plan().models["parts"].aliases) == 16


@pytest.mark.process
def test_a_promotion_that_is_killed_leaves_the_old_file_or_the_new_one(models: Path) -> None:
    """The process is killed before its first change to the disk, before the second, and so on."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.serving.killed_change", repository_of_parts(models)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)

    assert set(states) == {"old", "new"}
    assert states == sorted(states, reverse=True)
    assert len(states) >= 4


def repository_of_parts(models: Path) -> Path:
    folder = models / "only"
    repository(folder, parts="3 4")
    return folder


def test_a_roll_back_is_written(models: Path) -> None:
    text = changed(models, "parts", lambda plan, there: roll_back(require_served(plan), there, "4"))

    assert text == FILE.replace('canary = { version = "4", share = 0.05 }  # since Monday\n', "")


def test_a_version_that_was_taken_out_is_kept_out_by_the_file(models: Path) -> None:
    rule = 'new_versions = { alias = "shadow", share = 0.5 }  # each month\n'
    (models / "serving.toml").write_text(f'[parts]\nstable = "4"\n{rule}')
    assert find(Place(models)).plan().models["parts"].named["shadow"] == "5"

    text = changed(models, "parts", setting("shadow", None))

    assert text == (
        '[parts]\nstable = "4"\n'
        'new_versions = { alias = "shadow", share = 0.5, after = "5"}  # each month\n'
    )
    assert "shadow" not in find(Place(models)).plan().models["parts"].named


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to another user")
def test_the_file_keeps_its_owner_and_its_permissions(models: Path) -> None:
    serving = models / "serving.toml"
    os.chown(serving, 10001, 10002)
    serving.chmod(0o600)

    changed(models, "parts", promoting)

    now = serving.stat()
    assert (now.st_uid, now.st_gid, now.st_mode & 0o777) == (10001, 10002, 0o600)
