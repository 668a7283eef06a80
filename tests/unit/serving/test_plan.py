from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.errors import ServingInvalid
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.serving.plan import (
    MAX_ALIASES,
    MAX_MODELS,
    MAX_SERVING_BYTES,
    ModelPlan,
    NewVersions,
    ServingPlan,
    Trial,
    parse_plan,
)
from tidegate.service.serving.repository import Repository

BUNDLES = Repository(
    Path("/bundles"),
    {"parts": ("1", "2", "3", "9", "10"), "cats": ("1",), "resnet.v2": ("1",)},
    {("parts", "11"): "model.onnx is missing", ("dogs", "1"): "the bundle is cats 1"},
)


def parse(text: str) -> ServingPlan:
    return parse_plan(text.encode(), "serving.toml", BUNDLES)


def problems(text: str) -> list[str]:
    with pytest.raises(ServingInvalid) as raised:
        parse(text)
    lines = f"{raised.value}".split("\n")
    assert all(line.startswith("serving.toml: ") for line in lines)
    return [line.removeprefix("serving.toml: ") for line in lines]


def test_a_file_with_everything_is_parsed() -> None:
    plan = parse(
        """
        default = "parts"
        [parts]
        stable = "3"
        canary = { version = "9", share = 0.05 }
        shadow = { version = "10", share = 1 }
        aliases = { previous = "2" }
        weight = 2
        new_versions = { alias = "shadow", share = 0.2 }
        [parts.judge]
        promote = true
        [cats]
        stable = "latest"
        ["resnet.v2"]
        stable = "1"
        """
    )

    assert plan == ServingPlan(
        "parts",
        {
            "parts": ModelPlan(
                stable="3",
                canary=Trial(version="9", share=0.05),
                shadow=Trial(version="10", share=1.0),
                aliases={"previous": "2"},
                weight=2.0,
                new_versions=NewVersions(alias="shadow", share=0.2),
                judge=JudgeRules(promote=True),
            ),
            "cats": ModelPlan(stable="latest"),
            "resnet.v2": ModelPlan(stable="1"),
        },
    )
    assert plan.models["parts"].named == {
        "stable": "3",
        "canary": "9",
        "shadow": "10",
        "previous": "2",
    }


def test_the_example_of_the_guide_is_valid_and_its_errors_are_those_of_the_service() -> None:
    page = (Path(__file__).parents[3] / "docs" / "guides" / "models.md").read_text("utf-8")
    [example] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    there = Repository(Path("/bundles"), {"parts": ("2", "3", "4", "5"), "cats": ("1",)}, {})
    wrong = example.replace("canary =", "canray =").replace('"3"', '"6"')

    plan = parse_plan(example.encode(), "/bundles/serving.toml", there)
    with pytest.raises(ServingInvalid) as raised:
        parse_plan(wrong.encode(), "/bundles/serving.toml", there)

    assert plan.default == "parts"
    assert plan.resolve(there).models["cats"].stable == "1"
    for line in f"{raised.value}".split("\n"):
        assert f"\n{line}\n" in page


def test_the_only_model_is_the_default() -> None:
    assert parse('[cats]\nstable = "1"').default == "cats"


def test_all_problems_are_found_at_once() -> None:
    text = """
        defaults = "parts"
        [parts]
        stable = 3
        canary = "4"
        weights = 1
        [parts.judge]
        promot = true
        [cats]
        canary = { version = "2", share = 5 }
        """

    assert problems(text) == [
        "defaults: not a setting. Did you mean default?",
        'parts.stable: expected a version in quotes, such as "3", not 3.',
        'parts.canary: expected a table such as { version = "4", share = 0.05 }, not "4".',
        "parts.judge.promot is not a setting. Did you mean promote?",
        "parts.weights is not a setting. Did you mean weight?",
        "cats.stable is missing.",
        'cats.canary.version: there is no version "2" of cats; there is 1.',
        "cats.canary.share: must be at most 1, not 5.",
        'default is missing: "parts" or "cats".',
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('stable = "4"', 'stable: there is no version "4" of parts; there is 1, 2, 3, 9, 10.'),
        ('stable = "11"', 'stable: "11" cannot be served: model.onnx is missing.'),
        ('stable = "A b"', 'stable: "A b" must be 1 to 64 lower-case letters, digits and . _ -.'),
        ('aliases = { good = "4" }', "aliases.good: there is no version"),
        ('aliases = { stable = "2" }', 'aliases.stable: "stable" has a meaning of its own'),
        ('aliases = { latest = "2" }', 'aliases.latest: "latest" has a meaning of its own'),
        ('aliases = { "3" = "2" }', 'aliases.3: "3" is the name of a version; choose another'),
        ('aliases = { Good = "2" }', 'aliases.Good: "Good" must be 1 to 64 lower-case'),
        ("aliases = { good = 2 }", "aliases.good: expected a version in quotes, such as"),
        ('aliases = "2"', 'aliases: expected a table such as { previous = "2" }, not "2".'),
        ('canary = { version = "3", share = 0.1 }', 'canary: version "3" is stable already.'),
        ('canary = { version = "9", share = -0.1 }', "canary.share: must be at least 0, not -0.1."),
        ('canary = { version = "9", share = nan }', "canary.share: expected a number, not NaN."),
        ('canary = { version = "9", share = "5%" }', 'canary.share: expected a number, not "5%".'),
        ('canary = { version = "9", share = true }', "canary.share: expected a number, not true."),
        ('canary = { version = "9" }', "canary.share is missing."),
        ('canary = { version = "latest", share = 1 }', 'canary.version: only stable can be "lat'),
        (
            'canary = { version = "9", share = 1, sahre = 1 }',
            "canary.sahre is not a setting. Did you mean sh",
        ),
        ('shadow = { version = "9", share = 1, x = 1 }', "shadow.x is not a setting. There is ver"),
        ("weight = 0", "weight: must be above 0, not 0."),
        ("weight = 1001", "weight: must be at most 1000, not 1001."),
        (
            'new_versions = { alias = "prod", share = 1 }',
            "new_versions.alias: expected 'canary' or",
        ),
        ('new_versions = "shadow"', "new_versions: expected a table such as { alias ="),
        ("judge = true", "judge: expected a table such as { promote = true }, not true."),
        ("judge = { promote = 1 }", "judge.promote: expected true or false, not 1."),
        ("judge = { least_images = 1000.5 }", "judge.least_images: expected a whole number, not"),
        ("judge = { alpha = 0.5 }", "judge.alpha: must be at most 0.2, not 0.5."),
    ],
)
def test_a_problem_is_said_with_its_place(line: str, problem: str) -> None:
    text = line if line.startswith("stable") else f'stable = "3"\n{line}'

    found = problems(f"[parts]\n{text}")

    assert len(found) == 1 or line.startswith("aliases = { stable")
    assert found[0].startswith(f"parts.{problem}")


def test_canary_and_shadow_are_different_versions() -> None:
    trial = '{ version = "9", share = 0.1 }'

    assert problems(f'[parts]\nstable = "3"\ncanary = {trial}\nshadow = {trial}') == [
        'parts.shadow: version "9" is the canary already.'
    ]


def test_the_newest_version_cannot_be_tried_if_it_is_stable_as_the_latest() -> None:
    text = '[parts]\nstable = "latest"\ncanary = { version = "10", share = 0.1 }'

    assert problems(text) == ['parts.canary: version "10" is stable already.']


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no model is named: write a table such as [parts] for each."),
        ('default = "cats"', "default: the file has no table [cats]."),
        ('[cat]\nstable = "1"', "cat: there is no such model in /bundles. Did you mean cats?"),
        ('[dogs]\nstable = "1"', "dogs: the bundle is cats 1."),
        ('[Cats]\nstable = "1"', "Cats: a model's name has lower-case letters, digits and . _ - o"),
        ('[default]\nstable = "1"', "default: no model can have this name."),
        ('cats = "1"', "cats: expected a table, such as [parts]."),
        ('default = 1\n[cats]\nstable = "1"', "default: expected a model's name in quotes, not 1."),
        ('default = "cat"\n[cats]\nstable = "1"', "default: the file has no table [cat]. Did you"),
    ],
)
def test_a_wrong_model_is_refused(text: str, problem: str) -> None:
    assert problems(text)[0].startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'[parts]\nstable = "3\n', "line 2, column 12: Illegal character"),
        (b"[parts", "end of document: Expected ']'"),
        (b"[parts]\nstable = '3'\nstable = '4'\n", "Cannot overwrite a value"),
        (b"a = " + b"[" * 10_000, "nested too deeply"),
        (b"a = " + b"9" * 5_000, "Exceeds the limit"),
        (b'[parts]\nstable = "\xff"', "byte 19 is not UTF-8"),
        (b"#" * (MAX_SERVING_BYTES + 1), "larger than 262,144 bytes"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(content: bytes, problem: str) -> None:
    with pytest.raises(ServingInvalid, match=problem) as raised:
        parse_plan(content, "serving.toml", BUNDLES)

    assert "\n" not in f"{raised.value}"


def test_models_and_aliases_are_bounded() -> None:
    tables = "".join(f"[cats{n}]\n" for n in range(MAX_MODELS + 1))
    aliases = ", ".join(f'a{n} = "1"' for n in range(MAX_ALIASES + 1))

    assert problems(tables)[0] == f"names 65 models; at most {MAX_MODELS} are possible."
    assert problems(f'[cats]\nstable = "1"\naliases = {{ {aliases} }}') == [
        "cats.aliases: at most 16 are possible."
    ]


def test_of_very_many_problems_the_first_are_described() -> None:
    keys = "".join(f"key{n} = 1\n" for n in range(15_000))

    found = problems(f'[cats]\nstable = "1"\n{keys}')

    assert found[0].startswith("cats.key0 is not a setting.")
    assert found[-1] == "80 or more further problems."
    assert len(found) == 21


WORDS = st.sampled_from(
    [*ModelPlan.model_fields, *JudgeRules.model_fields, *BUNDLES.versions, "version", "share", "x"]
)
VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-2, 10**30),
        st.floats(allow_nan=False),
        st.dates(),
        st.sampled_from(["1", "3", "11", "latest", "canary", "", "A"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


def problems_or_none(text: str) -> list[str]:
    try:
        parse(text).resolve(BUNDLES)
    except ServingInvalid as error:
        return f"{error}".split("\n")
    return []


@pytest.mark.lengthy
@given(st.dictionaries(st.one_of(WORDS, st.just("default")), VALUES, max_size=3))
def test_whatever_a_file_says_is_a_plan_or_a_problem_in_words(tables: dict[str, Any]) -> None:
    for line in problems_or_none(tomlkit.dumps(tables)):
        assert line.endswith((".", "?"))
        assert "Input should" not in line


@pytest.mark.lengthy
@given(st.sampled_from([*JudgeRules.model_fields, *ModelPlan.model_fields]), VALUES)
def test_every_setting_has_words_for_a_wrong_value(name: str, value: object) -> None:
    table = {name: value} if name in ModelPlan.model_fields else {"judge": {name: value}}
    for line in problems_or_none(tomlkit.dumps({"parts": {"stable": "3", **table}})):
        assert "Input should" not in line


def resolved(text: str, *versions: str) -> dict[str, str]:
    folder = Repository(Path("/bundles"), {"parts": versions}, {})
    return parse_plan(text.encode(), "serving.toml", folder).resolve(folder).models["parts"].named


def test_nothing_is_the_latest_version_unless_the_file_says_so() -> None:
    assert resolved('[parts]\nstable = "3"', "3", "10") == {"stable": "3"}
    assert resolved('[parts]\nstable = "latest"', "3", "10") == {"stable": "10"}


RULE = """
[parts]
stable = "3"
aliases = { good = "4" }
new_versions = { alias = "shadow", share = 1 }
"""


def test_a_version_newer_than_all_others_enters_by_the_rule() -> None:
    assert resolved(RULE, "3", "4")["stable"] == "3"
    assert "shadow" not in resolved(RULE, "3", "4")
    assert "shadow" not in resolved(RULE, "2", "3", "4")
    assert resolved(RULE, "3", "4", "5", "6")["shadow"] == "6"


def test_a_version_that_the_file_names_is_not_replaced_by_a_new_one() -> None:
    text = f'{RULE}\nshadow = {{ version = "5", share = 0.1 }}'

    assert resolved(text, "3", "4", "5", "6")["shadow"] == "5"


def test_only_versions_after_the_one_in_the_rule_enter() -> None:
    text = RULE.replace("share = 1", 'share = 1, after = "6"')

    assert "shadow" not in resolved(text, "3", "4", "6")
    assert resolved(text, "3", "4", "6", "7")["shadow"] == "7"


def test_a_rule_for_new_versions_needs_a_stable_version() -> None:
    text = '[parts]\nstable = "latest"\nnew_versions = { alias = "shadow", share = 1 }'

    assert problems(text) == [
        'parts.new_versions: has no effect if stable is "latest"; name a version in stable.'
    ]
