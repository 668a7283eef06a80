"""An address is a folder or a URI, with or without the bundle's digest."""

from __future__ import annotations

import pytest

from tidegate.service.distribution.uri import Address, parse
from tidegate.service.errors import TransferFailed

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("bundles/parts/3", Address("", "", "bundles/parts/3", None)),
        (f"/mnt/a@b/3@sha256:{DIGEST}", Address("", "", "/mnt/a@b/3", DIGEST)),
        ("/mnt/a@b", Address("", "", "/mnt/a@b", None)),
        ("https://host:8443/parts/3/", Address("https", "host:8443", "parts/3", None)),
        (f"s3://models/parts/3@sha256:{DIGEST}", Address("s3", "models", "parts/3", DIGEST)),
        ("gs://models", Address("gs", "models", "", None)),
        ("az://container/parts/3", Address("az", "container", "parts/3", None)),
        (
            f"oci://registry:5000/ml/parts:3@sha256:{DIGEST}",
            Address("oci", "registry:5000", "ml/parts:3", DIGEST),
        ),
    ],
)
def test_an_address_is_parsed(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://models/parts@sha256:abc", "64 hexadecimal digits"),
        (f"s3://models/parts@{DIGEST}", "64 hexadecimal digits"),
        (f"parts@sha256:{DIGEST.upper()}", "64 hexadecimal digits"),
        ("http://host/parts", "http:// is not supported"),
        ("ftp://host/parts", "Use a folder or https://, s3://, gs://, az://, oci://"),
        ("s3:///parts", "a host, bucket or container"),
        ("https://host/parts?token=1", "without a user, a query or a fragment"),
        ("https://user:secret@host/parts", "64 hexadecimal digits"),
        (f"https://user@host/parts@sha256:{DIGEST}", "without a user"),
        ("oci://registry/parts", "must be oci://REGISTRY/REPOSITORY:TAG"),
        ("oci://registry/Parts:3", "in lower case"),
        ("oci://registry:3", "must be oci://REGISTRY/REPOSITORY:TAG"),
    ],
)
def test_another_address_is_an_error_that_says_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(TransferFailed, match=message):
        parse(text)
