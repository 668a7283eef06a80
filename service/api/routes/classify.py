"""POST /classify and /classify/batch: the routes and their OpenAPI descriptions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.service.api import examples, problems
from tidegate.service.api.access import Access
from tidegate.service.api.classify_handler import ClassifyHandler
from tidegate.service.api.connection import ClientGone
from tidegate.service.api.context import RequestContext
from tidegate.service.api.described_failures import CLASSIFYING, Responses, as_problems
from tidegate.service.api.parameters import MAX_TIMEOUT_MS, MAX_TOP_K, TOP_K
from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF
from tidegate.service.api.schemas import BatchBody, ClassifyBody
from tidegate.service.errors import TidegateError

PATH = "/classify"
_IMAGE = {"type": "string", "format": "binary"}
_BASE64 = {
    "type": "object",
    "properties": {"image": {"type": "string", "format": "byte", "description": "base64"}},
    "required": ["image"],
    "additionalProperties": False,
}
_TYPES = ("jpeg", "png", "webp", "bmp", "gif", "tiff")
TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "deadline in milliseconds, from the last byte of the request; "
    "503 or 504 if it cannot be met",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
}
_PARAMETERS = [
    {
        "name": "top_k",
        "in": "query",
        "description": "number of classes to return, most probable first",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": TOP_K},
    },
    {
        "name": "min_probability",
        "in": "query",
        "description": "classes below this probability are left out",
        "schema": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    },
    {
        "name": "features",
        "in": "query",
        "description": "true: also return the input of the last layer, as a list of numbers; "
        "base64: its float32 bytes, little-endian",
        "schema": {"type": "string", "enum": ["true", "base64", "false"], "default": "false"},
    },
    TIMEOUT,
    {
        "name": "X-Canary-Key",
        "in": "header",
        "description": "while a canary has a share: requests with the same key go to the same "
        "version; default: the request id",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Tidegate-Version",
        "in": "header",
        "description": "a version or an alias of the model, such as canary, that must answer",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Force-Trace",
        "in": "header",
        "description": "1 traces this request, whatever the sampler says, if traces are exported",
        "schema": {"type": "string"},
    },
]
_OF_A_BATCH = {  # the problem of a single image is in its item
    **{status: CLASSIFYING[status] for status in (400, 404, 408, 429, 503)},
    413: "upload-too-large",
    415: "unsupported-encoding",
    500: "internal-error",
}


def _with_examples(responses: Responses) -> Responses:
    answer = {"content": {"application/json": {"example": examples.ANSWER}}}
    refusal = {MEDIA_TYPE: {"schema": PROBLEM_REF, "example": examples.REFUSAL}}
    return {**responses, 200: answer, 422: {**responses[422], "content": refusal}}


def _takes(content: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": _PARAMETERS, "requestBody": {"required": True, "content": content}}


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "properties": {field: schema}, "required": [field]}
    return {"multipart/form-data": {"schema": form}}


_ONE = {f"image/{kind}": {"schema": _IMAGE} for kind in _TYPES} | _form("file", _IMAGE)
_ONE["application/json"] = {"schema": _BASE64}
IMAGE_BODY = {"requestBody": {"required": True, "content": _ONE}}


def router(handler: ClassifyHandler) -> APIRouter:
    """Return the routes that classify."""
    routes = APIRouter(tags=["classify"])
    most = handler.limits.max_files
    files = {"type": "array", "items": _IMAGE, "minItems": 1, "maxItems": most}

    def add(prefix: str, whose: str) -> None:
        """Add the two routes of the default model, of a model or of a version."""

        @routes.post(
            prefix + PATH,
            summary=f"Classify one image{whose}",
            response_model=ClassifyBody,
            responses=_with_examples(as_problems(CLASSIFYING)),
            openapi_extra=_takes(_ONE),
        )
        async def classify(request: Request) -> Response:
            """Send the image as the raw body (fastest), as a file of a form, or as base64 in JSON.

            The content decides which image format it is. `Content-Encoding` may be gzip or deflate.
            """
            return await handler.single(request, **request.path_params)

        @routes.post(
            f"{prefix}{PATH}/batch",
            summary=f"Classify several images{whose}",
            response_model=BatchBody,
            responses=as_problems(_OF_A_BATCH),
            openapi_extra=_takes(_form("files", files)),
        )
        async def classify_batch(request: Request) -> Response:
            """Send multipart parts `files`. Returns one result or problem per image, in order."""
            return await handler.batch(request, **request.path_params)

    add("", "")
    add("/models/{name}", " with a model")
    add("/models/{name}/versions/{version}", " with a version or an alias")
    return routes


class FastPath:
    """Passes POST /classify directly to its handler; other requests go through the framework.

    The framework's routing and a dozen wrappers cost time. Between two engine runs the caches are
    cold, so each layer of Python costs several times what a benchmark of the layer shows.
    """

    def __init__(self, app: ASGIApp, handler: ClassifyHandler, access: Access) -> None:
        """`app` must check access by itself."""
        self._app = app
        self._handler = handler
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        context.route = PATH
        try:
            self._access.admit(scope, context)
            response = await self._handler.single(Request(scope, receive))
        except (TidegateError, ClientGone) as error:
            response = problems.response_to(error, context)
        await response(scope, receive, send)
