"""The environment of a server whose engine is a fake, see `fake/sitecustomize.py`."""

from load_tests.server.start import ROOT

FOLDER = ROOT / "load_tests" / "fronts" / "fake"


def with_fakes(*, decode: bool) -> dict[str, str]:
    """Return it; without `decode`, nothing is decoded either."""
    return {
        "PYTHONPATH": f"{FOLDER}:{ROOT}",
        "FAKE_ENGINE": "1",
        "FAKE_DECODING": "" if decode else "1",
    }
