"""Take the picture of the page that is in the guide: `python -m tests.page.screenshot`."""

from __future__ import annotations

import io
import sys

from PIL import Image

from tests.page.browser import chromium, find_chromium, visit
from tests.server import PHOTOS, ROOT, running

PICTURE = ROOT / "docs/static/page.webp"
HEIGHT = 1760  # pixels: down to what the model saw


def main() -> None:
    """Answer three photographs, explain the first, and write the picture."""
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium: run tests/page/fetch_chromium.sh, or set CHROMIUM")
    with running() as server, chromium(program) as browser, visit(browser, server.url) as opened:
        opened.page.set_viewport_size({"width": 1280, "height": HEIGHT})
        opened.choose(*(PHOTOS / name for name in ("coffee.png", "grass.png", "chelsea.png")))
        opened.answered()
        opened.find(".explain .button").click()
        opened.find(".heat").wait_for()
        opened.page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
        content = opened.page.screenshot()
    Image.open(io.BytesIO(content)).save(PICTURE, quality=78, method=6)
    sys.stdout.write(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
