"""`tidegate bundle`: inspect, verify, sign, pull, push."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from tidegate.service.commands import Commands
from tidegate.service.commands.progress import draw_progress
from tidegate.service.errors import TransferFailed


def add(commands: Commands) -> None:
    """Declare the commands."""
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


def _inspect(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.store import open_bundle

    bundle = open_bundle(arguments.path)
    fields = bundle.manifest.model_dump(mode="json")
    fields["reference"]["class_counts"] = f"{bundle.manifest.task.classes} numbers"
    print(json.dumps({"digest": bundle.digest, **fields}, indent=2, ensure_ascii=False))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.golden import check_golden, golden_tolerance
    from tidegate.service.bundle.signature import describe_signature, open_trusted
    from tidegate.service.engines.cpu_engines import calibrated_on
    from tidegate.service.settings import Settings

    trusted_keys = Settings.read().trusted_keys
    bundle = open_trusted(arguments.path, trusted_keys)
    manifest = bundle.manifest
    by = calibrated_on(manifest.precision, manifest.gate.calibrated_for_engine)
    engine = by.open(bundle.model_path, precision=manifest.precision)
    run = partial(engine.run, 0)
    probes = check_golden(bundle, run, golden_tolerance(engine.info))
    files = len(manifest.files)
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
    bundle = pull(address, arguments.dir, Settings.read().trusted_keys, draw_progress)
    print(f"{bundle.path}\ndigest {bundle.digest}")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.store import open_bundle
    from tidegate.service.distribution.transfer import push
    from tidegate.service.distribution.uri import parse

    address = parse(arguments.uri)
    bundle = open_bundle(arguments.path)
    push(bundle, address, draw_progress)
    print(f"{address}@sha256:{bundle.digest}")
    return 0
