"""Write rules/drift.yml: the same rules over each window, from the templates in drift/.

    python docker/prometheus/drift_rules.py

A test compares the committed file with this script's output. In the templates `<w>` is the window.
"""

from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE / "rules" / "drift.yml"
# Long windows are evaluated less often: a day of a thousand classes is millions of samples. The
# interval stays below the five minutes for which Prometheus returns the last value of a series.
WINDOWS = {"10m": "1m", "1h": "1m", "6h": "2m", "1d": "4m"}  # window → evaluation interval
# Window → the dispersion that is assumed before it can be measured, with few images for days.
UNKNOWN = {"10m": "8", "1h": "8", "6h": "32", "1d": "32"}
ALERTING = {"1h": "5m", "1d": "15m"}  # window → the alerts' `for`. The others are for panels only.


def drift_rules() -> str:
    """Return the contents of rules/drift.yml."""
    return _text("header") + _text("reference") + "".join(map(_group, WINDOWS))


def _group(window: str) -> str:
    text = _text("window").replace("<interval>", WINDOWS[window])
    text = text.replace("<unknown>", UNKNOWN[window])
    if window in ALERTING:
        text += _text("alerts").replace("<for>", ALERTING[window])
    return text.replace("<w>", window)


def _text(part: str) -> str:
    return (HERE / "drift" / f"{part}.yml").read_text(encoding="utf-8")


if __name__ == "__main__":
    RULES.write_text(drift_rules(), encoding="utf-8")
