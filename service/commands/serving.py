"""`tidegate serving`: show and change what a folder of models serves."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tidegate.service.commands import Commands
from tidegate.service.errors import SettingsInvalid

if TYPE_CHECKING:
    from tidegate.service.serving.edit import Change, Proposal
    from tidegate.service.serving.plan import ModelPlan
    from tidegate.service.serving.serving_file import Place
    from tidegate.service.settings import Settings

EXIT_NOT_RELOADED = 3  # the file is written, but the service did not load it
_CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
_RELOAD_S = 600.0
_ANSWER_BYTES = 1 << 16
_ASSIGNMENT = re.compile(r"(?P<alias>[^=]+)=(?P<version>[^:]*)(:(?P<share>.+))?")


def add(commands: Commands) -> None:
    """Declare the commands."""
    serving = commands.add_parser("serving", help="show and change which versions are served")
    verbs = serving.add_subparsers(metavar="VERB", required=True)
    show = verbs.add_parser("show", help="show what is served, and what the folder has")
    show.set_defaults(run=_show)
    change = verbs.add_parser("set", help="name versions: stable, canary, shadow and others")
    change.add_argument("model")
    change.add_argument(
        "assignments",
        nargs="+",
        metavar="NAME=VERSION[:SHARE]",
        help="stable=4, canary=4:0.05 or previous=3; canary= removes it",
    )
    change.set_defaults(run=_set)
    promote = verbs.add_parser("promote", help="make the canary stable, or the shadow the canary")
    promote.add_argument("model")
    promote.add_argument("stage", nargs="?", choices=("canary", "shadow"), default="canary")
    promote.add_argument(
        "--share", type=float, help="share of the requests for a shadow (default: 0.05)"
    )
    promote.set_defaults(run=_promote)
    rollback = verbs.add_parser(
        "rollback", help="remove the canary; without one, make the previous version stable"
    )
    rollback.add_argument("model")
    rollback.set_defaults(run=_rollback)
    for parser in (show, change, promote, rollback):
        parser.add_argument(
            "--models", metavar="DIR", help="folder of NAME/VERSION/ (TIDEGATE_MODELS)"
        )
        parser.add_argument("--serving", metavar="FILE", help="the serving file (TIDEGATE_SERVING)")
    for parser in (change, promote, rollback):
        parser.add_argument("--dry-run", action="store_true", help="show the change only")
        parser.add_argument(
            "--no-verify", action="store_true", help="do not check the files of the new bundles"
        )
        parser.add_argument(
            "--reload",
            metavar="URL",
            help="let the service at URL load the change now, with the token in "
            "TIDEGATE_ADMIN_TOKEN_FILE",
        )


def _show(arguments: argparse.Namespace) -> int:
    from tidegate.service.serving.changes import describe
    from tidegate.service.serving.serving_file import find

    found = find(_place(_settings(arguments)))
    plan, versions = found.plan(), found.repository.versions
    print(f"{found.place.path}{' (not there)' if found.content is None else ''}")
    for name, model in plan.models.items():
        print(f"\n{name}{' (default)' if name == plan.default else ''}")
        for alias, version in describe(model):
            print(f"  {alias:10} {version}")
        if others := [v for v in versions[name] if v not in model.named.values()]:
            print(f"  {'not served':10} {', '.join(others)}")
    for name in versions.keys() - plan.models.keys():
        print(f"\n{name} (not served)\n  {'there is':10} {', '.join(versions[name])}")
    for reason in found.repository.refused.values():
        print(f"\nignored: {reason}.")
    return 0


def _set(arguments: argparse.Namespace) -> int:
    from tidegate.service.serving.changes import place_version, require_served

    given = [_parse(text) for text in arguments.assignments]

    def change(plan: ModelPlan | None, versions: tuple[str, ...]) -> ModelPlan:
        for alias, version, share in sorted(given, key=lambda one: one[0] != "stable"):
            plan = place_version(plan, versions, alias, version, share)
        return require_served(plan)

    return _change(arguments, change)


def _parse(text: str) -> tuple[str, str | None, float | None]:
    """Return name, version and share of an assignment; no version means that it is removed."""
    found = _ASSIGNMENT.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        share = None if found["share"] is None else float(found["share"])
    except ValueError:
        raise SettingsInvalid(
            f"{text}: write NAME=VERSION or NAME=VERSION:SHARE, for example canary=4:0.05."
        ) from None
    return found["alias"], found["version"] or None, share


def _promote(arguments: argparse.Namespace) -> int:
    from tidegate.service.serving.changes import FIRST_SHARE, promote, require_served

    if arguments.share is not None and arguments.stage == "canary":
        raise SettingsInvalid("--share is for a shadow; a canary becomes stable for all requests.")
    share = FIRST_SHARE if arguments.share is None else arguments.share

    def change(plan: ModelPlan | None, versions: tuple[str, ...]) -> ModelPlan:
        return promote(require_served(plan), versions, arguments.stage, share)

    return _change(arguments, change)


def _rollback(arguments: argparse.Namespace) -> int:
    from tidegate.service.serving.changes import require_served, roll_back

    def change(plan: ModelPlan | None, versions: tuple[str, ...]) -> ModelPlan:
        return roll_back(require_served(plan), versions)

    return _change(arguments, change)


def _change(arguments: argparse.Namespace, change: Change) -> int:
    """Show the change, check the bundles that are new in it, write it, and have it loaded."""
    from tidegate.service.serving.edit import propose, update
    from tidegate.service.serving.serving_file import find

    settings = _settings(arguments)
    place = _place(settings)
    service = None if arguments.reload is None else _service(arguments.reload)
    if arguments.dry_run:
        _show_change(propose(find(place), arguments.model, change))
        return 0

    def approve(proposal: Proposal) -> None:
        _show_change(proposal)
        if not arguments.no_verify:
            _verify(settings, place, proposal)

    if update(place, arguments.model, change, approve):
        print(f"{place.path}: written")
    return 0 if service is None else _reload(*service, settings.admin_token())


def _show_change(proposal: Proposal) -> None:
    from tidegate.service.serving.changes import in_words

    for line in in_words(proposal.name, proposal.before, proposal.after) or ["No version changes."]:
        print(line)


def _verify(settings: Settings, place: Place, proposal: Proposal) -> None:
    """Check every file, and the signature if keys are trusted, of each bundle that is new."""
    from tidegate.service.bundle.signature import open_trusted

    served = set() if proposal.before is None else set(proposal.before.named.values())
    for version in dict.fromkeys(proposal.after.named.values()):
        if version not in served:
            bundle = open_trusted(place.models / proposal.name / version, settings.trusted_keys)
            print(f"{bundle.path}: valid, digest {bundle.digest}")


def _settings(arguments: argparse.Namespace) -> Settings:
    from tidegate.service.settings import Settings

    return Settings.read({"models": arguments.models, "serving": arguments.serving})


def _place(settings: Settings) -> Place:
    from tidegate.service.serving.serving_file import Place

    if settings.models is None:
        raise SettingsInvalid("Set TIDEGATE_MODELS or --models to the folder of the models.")
    return Place(settings.models, settings.serving)


def _service(url: str) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection, not opened, to the service at `url`, and the path of the route."""
    try:
        parts = urlsplit(url)
        kind = _CONNECTIONS[parts.scheme]
        if not parts.hostname:
            raise ValueError
        return kind(
            parts.hostname, parts.port, timeout=_RELOAD_S
        ), f"{parts.path.rstrip('/')}/admin/reload"
    except (KeyError, ValueError, http.client.InvalidURL):
        raise SettingsInvalid(
            f"--reload {url}: write http:// or https://, a host and a port."
        ) from None


def _reload(connection: http.client.HTTPConnection, path: str, token: bytes | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token.decode('ascii')}"}
    try:
        with contextlib.closing(connection):
            connection.request("POST", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read(_ANSWER_BYTES).decode("utf-8", "replace").strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"tidegate: not reloaded: {error}", file=sys.stderr)
        return EXIT_NOT_RELOADED
    if answer.status // 100 != 2:
        print(f"tidegate: not reloaded: status {answer.status}: {text}", file=sys.stderr)
        return EXIT_NOT_RELOADED
    print(f"reloaded: {text}")
    return 0
