"""The `tidegate` command. An expected error prints one line and sets the exit code."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tidegate.service import makers
from tidegate.service.addresses import hosts_to_probe, split_hosts
from tidegate.service.errors import EngineUnavailable, TidegateError, TransferFailed

EXIT_BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
_BAR = 30  # characters
_HEALTH_S = 2.0
_HEALTH_BYTES = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 success, 1 expected error, 2 wrong usage, 70 engine failed, 130 interrupted, 141 broken pipe.
    """
    _open_closed_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if words and words[0] in makers.COMMANDS:
            return makers.run(words[0], words[1:])
        arguments = _parser().parse_args(words)
        code: int = arguments.run(arguments)
    except TidegateError as error:
        with contextlib.suppress(OSError):  # stderr may be closed; the exit code still reports it
            print(f"tidegate: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as in `tidegate describe | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return code


def _open_closed_streams() -> None:
    """Open the null device for each standard stream that is closed, for example by `2>&-`.

    Otherwise the next file or connection would get its descriptor, and receive what is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:  # open() returns the lowest free number, which is this one
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w")  # noqa: SIM115
            setattr(sys, name, stream)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate",
        description="Serve an image classifier that rejects out-of-distribution images.",
        epilog="Settings are TIDEGATE_* environment variables; `tidegate describe` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('tidegate')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="serve a bundle over HTTP")
    serve.add_argument("--bundle", help="bundle folder (TIDEGATE_BUNDLE)")
    serve.add_argument("--host", help="addresses to listen on (TIDEGATE_HOST)")
    serve.add_argument("--port", type=int, help="TCP port (TIDEGATE_PORT)")
    serve.set_defaults(run=_serve)

    health = commands.add_parser(
        "health", help="check whether the service on this machine is ready; for health checks"
    )
    health.set_defaults(run=_health)

    describe = commands.add_parser("describe", help="show the resolved configuration")
    describe.add_argument("--bundle", help="bundle folder (TIDEGATE_BUNDLE)")
    describe.add_argument("--json", action="store_true", help="print JSON")
    describe.set_defaults(run=_describe)

    engine = commands.add_parser("engine", help="prepare the engine that runs a bundle")
    verbs = engine.add_subparsers(metavar="VERB", required=True)
    build = verbs.add_parser(
        "build", help="build a bundle's TensorRT plans for this machine's GPUs before startup"
    )
    build.add_argument("--bundle", help="bundle folder (TIDEGATE_BUNDLE)")
    build.add_argument(
        "--engine", choices=("tensorrt", "tensorrt-rtx"), help="default: TIDEGATE_ENGINE"
    )
    build.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        help="fail if the bundle has another precision",
    )
    build.set_defaults(run=_build)

    _add_bundle_commands(commands)

    review = commands.add_parser("review", help="work with the images kept for review")
    verbs = review.add_subparsers(metavar="VERB", required=True)
    export = verbs.add_parser(
        "export", help="copy the images into one folder per class, for labelling or training"
    )
    export.add_argument("source", type=Path, help="the folder of TIDEGATE_REVIEW_DIR")
    export.add_argument("out", type=Path, help="the folder to write to")
    export.set_defaults(run=_export)

    completion = commands.add_parser("completion", help="print a completion script for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    completion.set_defaults(run=_completion)

    for name, (_, text) in makers.COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_bundle_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bundle = commands.add_parser("bundle", help="inspect, verify, sign, pull or push a bundle")
    verbs = bundle.add_subparsers(metavar="VERB", required=True)
    inspect = verbs.add_parser("inspect", help="print the manifest without its long lists")
    inspect.add_argument("path", type=Path)
    inspect.set_defaults(run=_inspect)
    verify = verbs.add_parser(
        "verify",
        help="check every file and the signature, and run the golden probes on ONNX Runtime (CPU)",
    )
    verify.add_argument("path", type=Path)
    verify.set_defaults(run=_verify)
    sign = verbs.add_parser(
        "sign", help="sign a bundle in the OpenSSF model-signing format: writes model.sig into it"
    )
    sign.add_argument("path", type=Path)
    sign.add_argument(
        "--key",
        type=Path,
        required=True,
        help="private key: PEM, elliptic curve P-256, P-384 or P-521, not encrypted",
    )
    sign.set_defaults(run=_sign)
    pull = verbs.add_parser(
        "pull",
        help="copy a bundle to DIR/NAME/VERSION, verified, in one step; continues if repeated",
    )
    pull.add_argument(
        "uri",
        help="folder or https://, s3://, gs://, az://, oci://, ending in @sha256: and the digest",
    )
    pull.add_argument(
        "dir",
        type=Path,
        nargs="?",
        default=Path("models/bundles"),
        help="folder of the bundles (default: models/bundles)",
    )
    pull.add_argument(
        "--any-digest",
        action="store_true",
        help="accept a URI without a digest, and print the digest of the bundle that is there",
    )
    pull.set_defaults(run=_pull)
    push = verbs.add_parser("push", help="copy a bundle, with its signature, to another place")
    push.add_argument("path", type=Path)
    push.add_argument("uri", help="new folder, s3://, gs://, az:// or oci://")
    push.set_defaults(run=_push)


def _completion(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        print("tidegate: completion needs shtab: pip install shtab", file=sys.stderr)
        return 1
    print(shtab.complete(_parser(), arguments.shell))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from tidegate.service.app import run
    from tidegate.service.settings import Settings

    given = {name: getattr(arguments, name) for name in ("bundle", "host", "port")}
    return run(Settings.read(given))


def _health(_: argparse.Namespace) -> int:
    """Request `/readyz` without loading the service: a health check runs every few seconds."""
    names = {name.upper(): value.strip() for name, value in os.environ.items()}
    port = names.get("TIDEGATE_PORT") or "8000"
    end = time.monotonic() + _HEALTH_S
    failed = ""
    try:
        for host in hosts_to_probe(names.get("TIDEGATE_HOST") or "127.0.0.1"):
            try:
                status, text = _probe(host, int(port), max(0.1, end - time.monotonic()))
            except (OSError, http.client.HTTPException) as error:
                failed = failed or f"{error}"
            else:
                print(text)
                return 0 if status == http.HTTPStatus.OK else 1
    except ValueError as error:
        failed = f"{error}"
    print(f"tidegate: not reachable: {failed}", file=sys.stderr)
    return 1


def _probe(host: str, port: int, timeout_s: float) -> tuple[int, str]:
    """Return status and body of `/readyz`, whatever the status is."""
    client = http.client.HTTPConnection(host, port, timeout=timeout_s)
    with contextlib.closing(client) as connection:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(_HEALTH_BYTES).decode("utf-8", "replace")


def _describe(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.store import open_bundle
    from tidegate.service.cpu import usable_cores
    from tidegate.service.settings import PREFIX, Settings

    settings = Settings.read({"bundle": arguments.bundle})
    bundle = open_bundle(settings.bundle)
    manifest = bundle.manifest
    values = settings.model_dump(mode="json")
    if arguments.json:
        served = {"name": manifest.name, "version": manifest.version, "digest": bundle.digest}
        print(json.dumps({"serves": served, "cores": usable_cores(), "settings": values}, indent=2))
        return 0
    gate = manifest.gate
    print(f"serves    {manifest.name} {manifest.version}, digest {bundle.digest[:16]}")
    print(f"from      {bundle.path.resolve()}")
    for host in split_hosts(settings.host):
        print(f"at        http://{f'[{host}]' if ':' in host else host}:{settings.port}")
    print(
        f"classes   {manifest.task.classes}, input {manifest.task.height} × {manifest.task.width}"
    )
    print(f"gate      reject p ≤ {gate.alpha_reject:g}, review p ≤ {gate.alpha_review:g}, ", end="")
    print(f"calibrated on {gate.fold_a} + {gate.fold_b} images")
    print(f"cores     {usable_cores()}\nsettings")
    for name, field in Settings.model_fields.items():
        print(f"  {PREFIX + name.upper():28} {values[name]!s:14} {field.description}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.signature import open_trusted
    from tidegate.service.engines.choose import buckets_for
    from tidegate.service.engines.open_gpu import EngineRequest, build_plans
    from tidegate.service.settings import Settings

    settings = Settings.read({"bundle": arguments.bundle, "engine": arguments.engine})
    bundle = open_trusted(settings.bundle, settings.trusted_keys)
    manifest, config = bundle.manifest, settings.engine_config()
    if arguments.precision not in (None, manifest.precision):
        raise EngineUnavailable(
            f"{bundle.path} has precision {manifest.precision}, and its gate is calibrated for it. "
            f"Make a bundle with --precision {arguments.precision} and build that one."
        )
    engine = "tensorrt" if config.name == "auto" else config.name
    buckets = buckets_for(config.max_batch_size, manifest.engine.buckets)
    request = EngineRequest(bundle.model_path, engine, buckets, manifest.precision, _draw_progress)
    for plan in build_plans(request, config.gpu):
        print(plan)
    return 0


def _draw_progress(phase: str, done: int, steps: int) -> None:
    """Draw a progress bar on a terminal; elsewhere print a line for each phase."""
    if sys.stderr.isatty():
        width = _BAR * done // max(1, steps)
        end = "\n" if done >= steps else ""
        print(f"\r{phase:.40} [{'#' * width:{_BAR}}]", end=end, file=sys.stderr, flush=True)
    elif done >= steps:
        print(phase, file=sys.stderr)


def _inspect(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.store import open_bundle

    bundle = open_bundle(arguments.path)
    fields = bundle.manifest.model_dump(mode="json")
    fields["reference"]["class_counts"] = f"{bundle.manifest.task.classes} numbers"
    print(json.dumps({"digest": bundle.digest, **fields}, indent=2, ensure_ascii=False))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from tidegate.service.review.export import Skip, export, in_words

    skipped: dict[Skip, int] = {}

    def report(path: Path, kind: Skip, reason: str) -> None:
        skipped[kind] = skipped.get(kind, 0) + 1
        print(f"skipped {path}: {reason}", file=sys.stderr)

    for folder, images in sorted(export(arguments.source, arguments.out, report).items()):
        print(f"{images:8,}  {folder}")
    if skipped:
        print(f"skipped: {in_words(skipped)}", file=sys.stderr)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.golden import check_golden
    from tidegate.service.bundle.signature import describe_signature, open_trusted
    from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
    from tidegate.service.settings import Settings

    trusted_keys = Settings.read().trusted_keys
    bundle = open_trusted(arguments.path, trusted_keys)
    engine = OnnxEngine(bundle.model_path)
    probes = check_golden(bundle, lambda images: engine.run(0, images))
    files = len(bundle.manifest.files)
    print(f"{bundle.path}: valid. {files} files, {probes} golden probes, digest {bundle.digest}")
    print(f"signature: {describe_signature(bundle, trusted_keys)}")
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.signature import sign
    from tidegate.service.bundle.store import SIGNATURE, open_bundle

    bundle = open_bundle(arguments.path)
    fingerprint = sign(bundle, arguments.key)
    print(f"{bundle.path / SIGNATURE}: digest {bundle.digest}, signed by key {fingerprint}")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from tidegate.service.distribution.transfer import pull
    from tidegate.service.distribution.uri import parse
    from tidegate.service.settings import Settings

    address = parse(arguments.uri)
    if address.digest is None and not arguments.any_digest:
        raise TransferFailed(
            f"{address} has no digest. Add @sha256: and the digest that `tidegate bundle push` or "
            "`verify` printed, or accept any bundle with --any-digest."
        )
    bundle = pull(address, arguments.dir, Settings.read().trusted_keys, _draw_progress)
    print(f"{bundle.path}\ndigest {bundle.digest}")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.store import open_bundle
    from tidegate.service.distribution.transfer import push
    from tidegate.service.distribution.uri import parse

    address = parse(arguments.uri)
    bundle = open_bundle(arguments.path)
    push(bundle, address, _draw_progress)
    print(f"{address}@sha256:{bundle.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
