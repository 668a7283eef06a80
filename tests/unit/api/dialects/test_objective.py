"""The objective on errors counts the classifying routes of every dialect."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from tests.server import ROOT
from tidegate.service.api.dialects import catalogue
from tidegate.service.api.dialects.base import Dialect, Parts
from tidegate.service.api.dialects.names import NAMES
from tidegate.service.api.dialects.v2.rpc import calls
from tidegate.service.metrics.tables import CLASSIFY_ROUTES

RULES = ROOT / "docker" / "prometheus" / "rules" / "service.yml"
SHARED = {"/"}  # the page of GET / has this route, too


def dialects() -> list[Dialect]:
    intake: Any = SimpleNamespace(limits=SimpleNamespace(max_files=16), service=None)
    parts = Parts(intake, "reject", "0")
    return [*(catalogue.build([name], parts)[0] for name in NAMES), calls.dialect(parts)]


def test_the_rules_match_the_routes_that_answer_images() -> None:
    every, single = sorted(
        set(re.findall(r'route=~"([^"]+)"', RULES.read_text("utf-8"))), key=len, reverse=True
    )
    classifying = {route for dialect in dialects() for route in dialect.classifying} - SHARED
    others = {route for dialect in dialects() for route in dialect.routes} - classifying

    for route in {*CLASSIFY_ROUTES, *classifying}:
        assert re.fullmatch(every, route), route
        assert bool(re.fullmatch(single, route)) != route.endswith("/batch"), route
    for route in others:
        assert not re.fullmatch(every, route), route
