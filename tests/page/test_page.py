"""The page in a real browser, against a real server: what a person sees and can do."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.client_environments import TRITON_HTTP, environment
from tests.page.browser import visit
from tests.page.conftest import Open
from tests.page.proxy import below
from tests.processes import output
from tests.server import PATIENCE_S, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.process
Images = dict[str, Path]
_PASTE = """
([kind, name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
    : new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}
"""
_LOGGED = """
async (bytes) => {
  const image = new Blob([new Uint8Array(bytes)]);
  const logged = [];
  const console = { log: (...values) => logged.push(...values) };
  %s
  return logged;
}
"""


def test_an_accepted_image_has_its_class_its_place_and_its_crop(
    open_page: Open, images: Images
) -> None:
    with open_page() as opened:
        opened.choose(images["coffee"])
        opened.answered()

        assert "Accepted" in opened.text(".verdict-card")
        assert re.search(r"espresso 99(\.\d)?%", opened.text(".verdict-label"))
        assert opened.text(".classes tr >> nth=0").split()[:2] == ["espresso", "967"]
        assert opened.find(".classes tr").count() == 5
        assert opened.find(".histogram").count() == 6
        assert opened.page.evaluate("() => document.querySelector('.seen').naturalWidth") == 224
        assert opened.find(".waterfall tr").count() == 5
        assert "coffee.png: Accepted, espresso" in opened.find("#live").inner_text()


def test_a_rejected_image_has_a_reason_and_no_class(open_page: Open, images: Images) -> None:
    with open_page() as opened:
        opened.choose(images["grass"])
        opened.answered()

        assert "Rejected" in opened.text(".verdict-card")
        assert "3 in 1,000" in opened.text(".verdict-why")
        assert opened.find(".classes").count() == 0
        marker = opened.find(".plot .marker >> nth=0").bounding_box()
        zone = opened.find(".zone.reject").bounding_box()
        assert marker is not None
        assert zone is not None
        assert zone["x"] <= marker["x"] <= zone["x"] + zone["width"]


@pytest.mark.slow
def test_an_unusual_image_is_to_be_checked(open_page: Open, images: Images) -> None:
    with open_page() as opened:
        opened.choose(images["review"])
        opened.answered()

        assert "To be checked" in opened.text(".verdict-card")
        assert "Only 3 in 100" in opened.text(".verdict-why")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("broken", "The image is broken"),
        pytest.param("text", "Not an image that can be read", marks=pytest.mark.slow),
        ("huge", "The file is too large"),
        pytest.param("many-pixels", "The image has too many pixels", marks=pytest.mark.slow),
    ],
)
def test_an_image_that_cannot_be_used_says_why(
    open_page: Open, images: Images, name: str, title: str
) -> None:
    with open_page() as opened:
        opened.choose(images[name])

        assert title in opened.text(".problem .verdict-word")
        assert "The server says:" in opened.text(".said")
        assert opened.find(".problem .button.primary").count() == 0  # it would fail again
        assert title in opened.text("#live")


def test_a_late_answer_says_so_and_can_be_had_without_the_deadline(
    open_page: Open, images: Images
) -> None:
    with open_page() as opened:
        opened.find("#options summary").click()
        opened.find("#deadline").fill("1")
        opened.choose(images["coffee"])
        # An idle server knows that it takes longer; a busy one, that it cannot begin in time.
        assert opened.text(".problem .verdict-word") in {"Too late", "The server is busy"}

        opened.find("#deadline").fill("")
        opened.find(".problem .button.primary").click()
        opened.answered()

        assert "espresso" in opened.text(".verdict-label")


def test_a_lost_connection_keeps_the_image_and_can_be_tried_again(
    open_page: Open, images: Images
) -> None:
    with open_page() as opened:
        opened.page.context.set_offline(True)
        opened.choose(images["coffee"])
        assert "The connection was lost" in opened.text(".problem .verdict-word")
        assert opened.text(".state") == "Not reachable"

        opened.page.context.set_offline(False)
        opened.find(".problem .button.primary").click()
        opened.answered()

        assert "espresso" in opened.text(".verdict-label")


@pytest.mark.slow
def test_several_images_each_have_a_mark_and_can_be_chosen(open_page: Open, images: Images) -> None:
    names = ("coffee", "grass", "review", "broken")
    with open_page() as opened:
        opened.choose(*(images[name] for name in names))
        opened.answered()

        for index, kind in enumerate(("accept", "reject", "review", "error")):
            assert opened.find(f".thumb >> nth={index} >> .badge.{kind}").count() == 1
        opened.find(".thumb >> nth=2").click()
        assert "To be checked" in opened.text(".verdict-card")
        opened.find(".chosen .button").click()
        assert opened.find(".thumb").count() == 3
        assert "The image is broken" in opened.text(".problem .verdict-word")


@pytest.mark.parametrize("how", ["paste", pytest.param("drop", marks=pytest.mark.slow)])
def test_an_image_can_be_pasted_and_dropped(open_page: Open, images: Images, how: str) -> None:
    content = list(images["review"].read_bytes())
    with open_page() as opened:
        opened.page.evaluate(_PASTE, [how, "given.png", content])
        opened.answered()

        assert opened.text(".file-name") == "given.png"
        assert "To be checked" in opened.text(".verdict-card")


@pytest.mark.slow
def test_too_many_images_and_none_are_said(open_page: Open, images: Images) -> None:
    with open_page() as opened:
        opened.page.evaluate(
            "() => document.body.dispatchEvent(new Event('paste', {bubbles: true}))"
        )
        assert "There is no image" in opened.text("#note")

        opened.choose(*[images["text"]] * 25)
        opened.answered()

        assert opened.text("#note") == "At most 24 images at a time; the rest was left out."
        assert opened.find(".thumb").count() == 24
        opened.find(".chosen .button").click()
        assert opened.page.evaluate("() => document.activeElement.className").startswith("thumb")


@pytest.mark.slow
def test_a_photo_can_be_taken(open_page: Open) -> None:
    with open_page() as opened:
        opened.find("#camera").click()
        opened.find("#shoot:enabled").click()
        opened.find(".verdict-card, .problem").wait_for()

        assert opened.text(".file-name") == "photo.jpg"
        assert not opened.find("#camera-dialog").is_visible()


def test_an_image_can_be_sent_and_read_by_keyboard_alone(open_page: Open, images: Images) -> None:
    with open_page() as opened:
        # The browser hands choosers over once somebody listens, which takes a moment.
        opened.page.on("filechooser", lambda chooser: None)
        keyboard = opened.page.keyboard
        keyboard.press("Tab")
        assert opened.page.evaluate("() => document.activeElement.className") == "skip"
        while opened.page.evaluate("() => document.activeElement.id") != "choose":
            keyboard.press("Tab")
        with opened.page.expect_file_chooser() as chooser:
            keyboard.press("Enter")
        chooser.value.set_files(images["coffee"])
        opened.answered()
        opened.find(".tabs button >> nth=0").focus()
        keyboard.press("ArrowRight")

        assert opened.find("[role=tab][aria-selected=true]").inner_text() == "Python"
        assert "import httpx" in opened.text("#code")


@pytest.mark.slow
def test_the_map_shows_on_which_part_the_class_rests(open_page: Open, images: Images) -> None:
    with open_page() as opened:
        opened.choose(images["coffee"])
        opened.answered()
        opened.find(".explain .button").click()
        opened.find(".heat").wait_for()

        words = opened.find(".heat").get_attribute("aria-label") or ""
        assert re.match(r"“espresso” rests most on the (top|centre) of the picture", words)
        assert "50 runs" in opened.text(".seen-text")
        opened.find(".explain select").select_option("968")
        assert not opened.find(".heat").is_visible()


@pytest.mark.slow
def test_feedback_finds_a_class_by_its_words(open_page: Open, images: Images) -> None:
    with open_page() as opened:
        opened.choose(images["coffee"])
        opened.answered()
        opened.find(".feedback .button >> nth=1").click()
        opened.page.keyboard.type("cup")
        opened.find(".match").filter(has_text="tea cup").first.click()
        opened.find(".feedback-result").filter(has_text="Thank you").wait_for()

        assert opened.text(".feedback-result") == "Thank you: counted as “tea cup”."


@pytest.mark.slow
def test_the_code_does_what_the_page_did(open_page: Open, images: Images) -> None:
    image = images["review"]
    said = {}
    with open_page() as opened:
        opened.find("#options summary").click()
        opened.find("#top-k").fill("2")
        opened.find("#deadline").fill("50000")
        opened.choose(image)
        opened.answered()
        label = opened.text(".verdict-label").rpartition(" ")[0]
        for index, name in enumerate(("curl", "Python", "JavaScript")):
            opened.find(f".tabs button >> nth={index}").click()
            said[name] = opened.text("#code")
            assert "50000" in said[name]
        logged = opened.page.evaluate(_LOGGED % said["JavaScript"], list(image.read_bytes()))

    by_curl = json.loads(output(["sh", "-c", said["curl"]], image.parent, os.environ, PATIENCE_S))
    python = [sys.executable, "-c", said["Python"]]
    assert len(by_curl["predictions"]) == 2
    assert [by_curl["decision"], by_curl["predictions"][0]["label"]] == ["review", label]
    assert output(python, image.parent, os.environ, PATIENCE_S) == f"review {label}\n"
    assert logged == ["review", label]


@pytest.mark.slow
def test_tritonclients_code_gets_the_same_answer(open_page: Open, images: Images) -> None:
    python = environment(TRITON_HTTP) / "bin" / "python"
    with open_page() as opened:
        opened.choose(images["review"])
        opened.answered()
        label = opened.text(".verdict-label").rpartition(" ")[0]
        opened.find(".tabs button >> nth=3").click()
        code = opened.text("#code code")

    said = output([python, "-c", code], images["review"].parent, os.environ, PATIENCE_S)
    assert "b'review'" in said
    assert label in said


@pytest.mark.slow
def test_a_key_is_asked_for_once_and_kept_in_memory_only(open_page: Open, images: Images) -> None:
    """The keys are fakes: the browser's requests are answered here unless they have the key."""
    with open_page() as opened:
        opened.page.route(
            re.compile(r"/(classify|preprocess|feedback|models)"),
            lambda route: (
                route.continue_()
                if route.request.headers.get("authorization") == "Bearer s3cret"
                else route.fulfill(status=401, json={"code": "unauthorized", "detail": "no key"})
            ),
        )
        opened.choose(images["coffee"], images["chelsea"])
        opened.find("#key").fill("wrong")
        opened.page.keyboard.press("Enter")
        opened.find("#key-error").filter(has_text="did not accept").wait_for()
        opened.find("#key").fill("s3cret")
        opened.page.keyboard.press("Enter")
        opened.answered()

        assert "espresso" in opened.text(".verdict-label")
        assert "Bearer YOUR_KEY" in opened.text("#code")
        kept = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert opened.page.evaluate(kept) == '[{},{},""]'


@pytest.mark.slow
def test_without_a_key_the_page_says_that_one_is_needed(open_page: Open, images: Images) -> None:
    """The key is a fake: the browser's requests are answered here."""
    with open_page() as opened:
        opened.page.route(
            "**/classify", lambda route: route.fulfill(status=401, json={"code": "unauthorized"})
        )
        opened.choose(images["coffee"])
        opened.find("#key-cancel").click()

        assert "A key is needed" in opened.text(".problem .verdict-word")


@pytest.mark.slow
def test_the_page_works_below_a_path(browser: Browser, server: Server, images: Images) -> None:
    with below("/apps/tidegate", server.url) as url, visit(browser, url) as opened:
        opened.choose(images["coffee"])
        opened.answered()

        assert "espresso" in opened.text(".verdict-label")
        assert f"{url}classify" in opened.text("#code")


@pytest.mark.slow
def test_a_german_browser_gets_german(open_page: Open, images: Images) -> None:
    with open_page(locale="de-AT") as opened:
        opened.choose(images["coffee"])
        opened.answered()

        assert opened.page.evaluate("() => document.documentElement.lang") == "de"
        assert "Angenommen" in opened.text(".verdict-card")
        assert re.search(r"99,\d\s%", opened.text(".verdict-label"))


def test_axe_finds_nothing_in_an_answer(open_page: Open, images: Images) -> None:
    with open_page(scheme="dark", width=360) as opened:
        opened.choose(images["coffee"])
        opened.answered()

        assert opened.violations_of_axe() == ""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_axe_finds_nothing_in_any_state(
    open_page: Open, images: Images, scheme: str, width: int
) -> None:
    found = {}
    with open_page(scheme=scheme, width=width) as opened:
        found["empty"] = opened.violations_of_axe()
        opened.find("#options summary").click()
        opened.choose(images["coffee"], images["grass"], images["review"], images["broken"])
        opened.answered()
        opened.find(".explain .button").click()
        opened.find(".heat").wait_for()
        opened.find(".feedback .button >> nth=1").click()
        opened.page.keyboard.type("cup")
        opened.find(".match").first.wait_for()
        opened.find(".json summary").click()
        for index, kind in enumerate(("accept", "reject", "review", "broken")):
            opened.find(f".thumb >> nth={index}").click()
            opened.answered()
            found[kind] = opened.violations_of_axe()
            overflow = "() => document.documentElement.scrollWidth - innerWidth"
            assert opened.page.evaluate(overflow) <= 0, kind

    assert {state: text for state, text in found.items() if text} == {}


@pytest.mark.slow
def test_axe_finds_nothing_in_the_dialogs(open_page: Open, images: Images) -> None:
    with open_page() as opened:
        opened.find("#camera").click()
        opened.find("#shoot:enabled").wait_for()
        camera = opened.violations_of_axe()
        opened.find("#camera-cancel").click()
        opened.page.route("**/classify", lambda route: route.fulfill(status=401, json={}))
        opened.choose(images["coffee"])
        opened.find("#key").wait_for()

        assert [camera, opened.violations_of_axe()] == ["", ""]
        opened.find("#key-cancel").click()
