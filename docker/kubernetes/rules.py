"""Write base/prometheusrule.yaml: Prometheus's own rules files as the operator's resource.

    python docker/kubernetes/rules.py [FILE]

A test holds the committed file to what this writes.
"""

import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus" / "rules"
FILE = HERE / "base" / "prometheusrule.yaml"


class _Plain(yaml.SafeDumper):
    """Without anchors, which not every reader of manifests understands."""

    def ignore_aliases(self, data: object) -> bool:
        """Write everything out."""
        return True


def prometheus_rules() -> str:
    """Return the resources, one for each of Prometheus's files."""
    head = "# Written by docker/kubernetes/rules.py from docker/prometheus/rules/.\n"
    resources = [_resource(path) for path in sorted(RULES.glob("*.yml"))]
    return head + yaml.dump_all(resources, Dumper=_Plain, sort_keys=False, width=100)


def _resource(path: Path) -> dict[str, object]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"tidegate-{path.stem}"},
        "spec": yaml.safe_load(path.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(prometheus_rules(), encoding="utf-8")
