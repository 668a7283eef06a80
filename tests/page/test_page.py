"""The page in a real browser, against a real server: what a person sees and can do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.page.browser import Visit
from tests.page.conftest import Open

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


def violations_of_axe(visit: Visit) -> str:
    """Return what axe-core finds wrong, in words."""
    results = Axe().run(visit.page)
    return str(results.generate_report()) if results.violations_count else ""


def test_an_accepted_image_has_its_class_its_place_and_its_crop(
    open_page: Open, images: Images
) -> None:
    with open_page() as visit:
        visit.choose(images["coffee"])
        visit.answered()

        assert "Accepted" in visit.text(".verdict-card")
        assert re.search(r"espresso 99(\.\d)?%", visit.text(".verdict-label"))
        assert visit.text(".classes tr >> nth=0").split()[:2] == ["espresso", "967"]
        assert visit.find(".classes tr").count() == 5
        assert visit.find(".histogram").count() == 6
        assert visit.page.evaluate("() => document.querySelector('.seen').naturalWidth") == 224
        assert visit.find(".waterfall tr").count() == 5
        assert "coffee.png: Accepted, espresso" in visit.find("#live").inner_text()


def test_a_rejected_image_has_a_reason_and_no_class(open_page: Open, images: Images) -> None:
    with open_page() as visit:
        visit.choose(images["grass"])
        visit.answered()

        assert "Rejected" in visit.text(".verdict-card")
        assert "3 in 1,000" in visit.text(".verdict-why")
        assert visit.find(".classes").count() == 0
        marker = visit.find(".plot .marker >> nth=0").bounding_box()
        zone = visit.find(".zone.reject").bounding_box()
        assert marker is not None
        assert zone is not None
        assert zone["x"] <= marker["x"] <= zone["x"] + zone["width"]


def test_an_unusual_image_is_to_be_checked(open_page: Open, images: Images) -> None:
    with open_page() as visit:
        visit.choose(images["review"])
        visit.answered()

        assert "To be checked" in visit.text(".verdict-card")
        assert "Only 3 in 100" in visit.text(".verdict-why")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("broken", "The image is broken"),
        ("text", "Not an image that can be read"),
        ("huge", "The file is too large"),
        ("many-pixels", "The image has too many pixels"),
    ],
)
def test_an_image_that_cannot_be_used_says_why(
    open_page: Open, images: Images, name: str, title: str
) -> None:
    with open_page() as visit:
        visit.choose(images[name])

        assert title in visit.text(".problem .verdict-word")
        assert "The server says:" in visit.text(".said")
        assert title in visit.text("#live")


def test_a_late_answer_says_so_and_can_be_had_without_the_deadline(
    open_page: Open, images: Images
) -> None:
    with open_page() as visit:
        visit.find("#options summary").click()
        visit.find("#deadline").fill("1")
        visit.choose(images["coffee"])
        # An idle server knows that it takes longer; a busy one, that it cannot begin in time.
        assert visit.text(".problem .verdict-word") in {"Too late", "The server is busy"}

        visit.find("#deadline").fill("")
        visit.find(".problem .button").click()
        visit.answered()

        assert "espresso" in visit.text(".verdict-label")


def test_a_lost_connection_keeps_the_image_and_can_be_tried_again(
    open_page: Open, images: Images
) -> None:
    with open_page() as visit:
        visit.page.context.set_offline(True)
        visit.choose(images["coffee"])
        assert "The connection was lost" in visit.text(".problem .verdict-word")
        assert visit.text(".state") == "Not reachable"

        visit.page.context.set_offline(False)
        visit.find(".problem .button").click()
        visit.answered()

        assert "espresso" in visit.text(".verdict-label")


def test_several_images_each_have_a_mark_and_can_be_chosen(open_page: Open, images: Images) -> None:
    names = ("coffee", "grass", "review", "broken")
    with open_page() as visit:
        visit.choose(*(images[name] for name in names))
        visit.answered()

        for index, kind in enumerate(("accept", "reject", "review", "error")):
            assert visit.find(f".thumb >> nth={index} >> .badge.{kind}").count() == 1
        visit.find(".thumb >> nth=2").click()
        assert "To be checked" in visit.text(".verdict-card")
        visit.find(".chosen .button").click()
        assert visit.find(".thumb").count() == 3
        assert "The image is broken" in visit.text(".problem .verdict-word")


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_an_image_can_be_pasted_and_dropped(open_page: Open, images: Images, how: str) -> None:
    content = list(images["review"].read_bytes())
    with open_page() as visit:
        visit.page.evaluate(_PASTE, [how, "given.png", content])
        visit.answered()

        assert visit.text(".file-name") == "given.png"
        assert "To be checked" in visit.text(".verdict-card")


def test_a_photo_can_be_taken(open_page: Open) -> None:
    with open_page() as visit:
        visit.find("#camera").click()
        visit.find("#shoot:enabled").click()
        visit.find(".verdict-card, .problem").wait_for()

        assert visit.text(".file-name") == "photo.jpg"
        assert not visit.find("#camera-dialog").is_visible()


def test_an_image_can_be_sent_and_read_by_keyboard_alone(open_page: Open, images: Images) -> None:
    with open_page() as visit:
        keyboard = visit.page.keyboard
        keyboard.press("Tab")
        assert visit.page.evaluate("() => document.activeElement.className") == "skip"
        while visit.page.evaluate("() => document.activeElement.id") != "file":
            keyboard.press("Tab")
        with visit.page.expect_file_chooser() as chooser:
            keyboard.press("Enter")
        chooser.value.set_files(images["coffee"])
        visit.answered()
        visit.find(".tabs button >> nth=0").focus()
        keyboard.press("ArrowRight")

        assert visit.find("[role=tab][aria-selected=true]").inner_text() == "Python"
        assert "import httpx" in visit.text("#code")


def test_the_map_shows_on_which_part_the_class_rests(open_page: Open, images: Images) -> None:
    with open_page() as visit:
        visit.choose(images["coffee"])
        visit.answered()
        visit.find(".explain .button").click()
        visit.find(".heat").wait_for()

        words = visit.find(".heat").get_attribute("aria-label") or ""
        assert re.match(r"“espresso” rests most on the (top|centre) of the picture", words)
        assert "50 runs" in visit.text(".seen-text")
        visit.find(".explain select").select_option("968")
        assert not visit.find(".heat").is_visible()


def test_feedback_finds_a_class_by_its_words(open_page: Open, images: Images) -> None:
    with open_page() as visit:
        visit.choose(images["coffee"])
        visit.answered()
        visit.find(".feedback .button >> nth=1").click()
        visit.page.keyboard.type("cup")
        visit.find(".match", has_text="tea cup").first.click()

        assert visit.text(".feedback-result") == "Thank you: counted as “tea cup”."


def test_the_code_does_what_the_page_did(open_page: Open, images: Images, tmp_path: Path) -> None:
    (tmp_path / "coffee.png").write_bytes(images["coffee"].read_bytes())
    with open_page() as visit:
        visit.find("#options summary").click()
        visit.find("#top-k").fill("2")
        visit.find("#deadline").fill("50000")
        visit.choose(images["coffee"])
        visit.answered()
        said = {}
        for index, name in enumerate(("curl", "Python", "JavaScript")):
            visit.find(f".tabs button >> nth={index}").click()
            said[name] = visit.text("#code")
            assert "50000" in said[name]
        image = list(images["coffee"].read_bytes())
        logged = visit.page.evaluate(_LOGGED % said["JavaScript"], image)

    done = {
        "curl": subprocess.run(["sh", "-c", said["curl"]], cwd=tmp_path, capture_output=True),
        "Python": subprocess.run(
            [sys.executable, "-c", said["Python"]], cwd=tmp_path, capture_output=True
        ),
    }
    assert [p["label"] for p in json.loads(done["curl"].stdout)["predictions"]] == [
        "espresso",
        "tea cup",
    ]
    assert done["Python"].stdout.decode() == "accept espresso\n"
    assert logged == ["accept", "espresso"]


def test_a_key_is_asked_for_once_and_kept_in_memory_only(open_page: Open, images: Images) -> None:
    """The keys are fakes: the browser's requests are answered here unless they have the key."""
    with open_page() as visit:
        visit.page.route(
            re.compile(r"/(classify|preprocess|feedback)|/models/"),
            lambda route: (
                route.continue_()
                if route.request.headers.get("authorization") == "Bearer s3cret"
                else route.fulfill(status=401, json={"code": "unauthorized", "detail": "no key"})
            ),
        )
        visit.choose(images["coffee"], images["chelsea"])
        visit.find("#key").fill("s3cret")
        visit.page.keyboard.press("Enter")
        visit.answered()

        assert "espresso" in visit.text(".verdict-label")
        assert "Bearer YOUR_KEY" in visit.text("#code")
        kept = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        assert visit.page.evaluate(kept) == '[{},{},""]'


def test_without_a_key_the_page_says_that_one_is_needed(open_page: Open, images: Images) -> None:
    """The key is a fake: the browser's requests are answered here."""
    with open_page() as visit:
        visit.page.route(
            "**/classify", lambda route: route.fulfill(status=401, json={"code": "unauthorized"})
        )
        visit.choose(images["coffee"])
        visit.find("#key-cancel").click()

        assert "A key is needed" in visit.text(".problem .verdict-word")


def test_a_german_browser_gets_german(open_page: Open, images: Images) -> None:
    with open_page(locale="de-AT") as visit:
        visit.choose(images["coffee"])
        visit.answered()

        assert visit.page.evaluate("() => document.documentElement.lang") == "de"
        assert "Angenommen" in visit.text(".verdict-card")
        assert re.search(r"99,\d\s%", visit.text(".verdict-label"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_in_any_state(
    open_page: Open, images: Images, scheme: str, width: int
) -> None:
    found = {}
    with open_page(scheme=scheme, width=width) as visit:
        found["empty"] = violations_of_axe(visit)
        visit.find("#options summary").click()
        visit.choose(images["coffee"], images["grass"], images["review"], images["broken"])
        visit.answered()
        visit.find(".explain .button").click()
        visit.find(".heat").wait_for()
        visit.find(".feedback .button >> nth=1").click()
        visit.page.keyboard.type("cup")
        visit.find(".match").first.wait_for()
        visit.find(".json summary").click()
        for index, kind in enumerate(("accept", "reject", "review", "broken")):
            visit.find(f".thumb >> nth={index}").click()
            visit.answered()
            found[kind] = violations_of_axe(visit)
            overflow = "() => document.documentElement.scrollWidth - innerWidth"
            assert visit.page.evaluate(overflow) <= 0, kind

    assert {state: text for state, text in found.items() if text} == {}


def test_axe_finds_nothing_in_the_dialogs(open_page: Open, images: Images) -> None:
    with open_page() as visit:
        visit.find("#camera").click()
        visit.find("#shoot:enabled").wait_for()
        camera = violations_of_axe(visit)
        visit.find("#camera-cancel").click()
        visit.page.route("**/classify", lambda route: route.fulfill(status=401, json={}))
        visit.choose(images["coffee"])
        visit.find("#key").wait_for()

        assert [camera, violations_of_axe(visit)] == ["", ""]
        visit.find("#key-cancel").click()
