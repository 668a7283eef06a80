"""The problem codes."""

from __future__ import annotations

from docs.tables.markdown import table
from tidegate.service import problem_codes
from tidegate.service.api import problems

# code → when a client gets it. The codes themselves come from the code; one without a text here,
# or a text without a code, is an error.
WHEN = {
    "bad-request": "malformed HTTP, an empty body or part, malformed multipart or JSON, or a bad "
    "parameter",
    "unauthorized": "the API key or the administrator's token is missing or wrong",
    "forbidden": "the key does not have the scope of the route; for `/admin`, also: no key has it",
    "not-found": "no such route, model, version or recent answer",
    "method-not-allowed": "the route has other methods; `Allow` lists them",
    "upload-timeout": "the body did not arrive in time, or it stalled: fewer than 8 KiB in 10 s, "
    "or in 1 s while other requests need its memory",
    "upload-too-large": "the body has more bytes than the route accepts",
    "image-too-large": "too many pixels, or too much estimated decoding work; both are read from "
    "the header before anything is decoded",
    "unsupported-image-type": "the content is not an accepted format, or a variant of one that is "
    "not decoded",
    "unsupported-encoding": "the body has a `Content-Encoding` other than gzip and deflate; "
    "`Accept-Encoding` lists them",
    "undecodable-image": "a truncated or corrupt image, missing rows or strips, or more chunks, "
    "tags or scans than allowed",
    "out-of-distribution": "the gate rejects the image; the body has `ood` and `model`, and no "
    "predictions",
    "reload-refused": "the serving file or a version is refused; what was served still is",
    "quota-exceeded": "this client exceeds its quota (`TIDEGATE_CLIENT_RATE`, or that of its key)",
    "head-too-large": "the request head has more than 64 KiB or 128 fields",
    "engine-failed": "the engine could not compute this image",
    "internal-error": "a bug; the log has the traceback under the `request_id`",
    "overloaded": "the answer would be too late, or a limit of the queue or of upload memory is "
    "reached",
    "draining": "the service is shutting down",
    "not-ready": "the model is warming up, the start failed, or drift cannot be monitored",
    "deadline-missed": "the deadline passed after admission, or it is shorter than one image takes",
}
# Those without a row in `problem_codes.TABLE`: answers of the framework, the parser and the gate.
MORE_CODES = (
    problems.OUT_OF_DISTRIBUTION,
    (405, "method-not-allowed", "Method not allowed"),
    (431, "head-too-large", "The request's head is too large"),
    (500, "internal-error", "Internal error"),
)
WITH_RETRY_AFTER = {429, 503}


def codes() -> list[tuple[int, str, str]]:
    """Return (status, code, title) of every problem a client can get, in order of the status."""
    return sorted({*problem_codes.TABLE.values(), *MORE_CODES})


def errors() -> str:
    """Return a row for each problem code."""
    known = [code for _, code, _ in codes()]
    if set(known) != set(WHEN):
        raise SystemExit(
            f"docs/tables/errors.py: WHEN and the codes differ: {set(known) ^ set(WHEN)}"
        )
    rows = [
        (
            str(status),
            f"`{code}`",
            title,
            WHEN[code],
            "yes" if status in WITH_RETRY_AFTER else "",
        )
        for status, code, title in codes()
    ]
    return table(("status", "code", "title", "returned when", "`Retry-After`"), rows)
