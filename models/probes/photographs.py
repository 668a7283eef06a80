"""The committed photographs, whose licences are in models/demo/LICENSES.md."""

from pathlib import Path

_NAMES = ("brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "rocket.jpg")
PHOTOS = tuple(Path(__file__).parent / "photos" / name for name in _NAMES)
