"""`{"instances": [{"b64": "…"}], "parameters": {…}}`: the form of Vertex, KServe v1, TF Serving.

The answer is `{"predictions": […]}`, with one element for each instance, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder
from starlette.requests import Request

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.calls import Call, check_top_k, element
from tidegate.service.api.intake import Intake, Outcome
from tidegate.service.api.json_image import decode_base64, is_json_object, parse
from tidegate.service.api.parameters import MAX_TIMEOUT_MS, MAX_TOP_K, TOP_K
from tidegate.service.api.uploads import Reservation
from tidegate.service.errors import BadRequest

# Objects and lines: parsers create many times the memory of the shortest ones. Base64 has neither.
_PER_INSTANCE, _OTHERS = 4, 64
JSON_LINES = ("application/jsonlines", "application/x-jsonlines", "application/x-ndjson")


class Encoded(Struct):
    """Base64 text, as TensorFlow marks it in JSON."""

    b64: str


class Instance(Struct):
    """An image under one of the names that clients use; other fields are ignored."""

    b64: str | None = None
    image: Encoded | str | None = None
    image_bytes: Encoded | str | None = None

    def text(self) -> str | None:
        """Return the base64 text; None if there is none."""
        found = self.image if self.image is not None else self.image_bytes
        return self.b64 if found is None else found if isinstance(found, str) else found.b64


class Parameters(Struct):
    """What applies to all instances; other parameters are ignored, as the platforms do."""

    top_k: int | None = None
    timeout_ms: float | None = None


class Body(Struct):
    """The body of a prediction request."""

    instances: list[Instance]
    parameters: Parameters | None = None


_BODY = Decoder(Body)
_LINES = Decoder(list[Instance])


class InstanceReader:
    """Reads prediction requests."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def read(
        self, request: Request, context: RequestContext, reservation: Reservation
    ) -> Call:
        """Read a request with instances. Raises BadRequest."""
        body = await self._intake.reader.body(request, context, reservation)
        if not (is_json_object(body) or is_json_lines(context.content_type)):
            raise BadRequest('Send a JSON object with "instances".')
        return await self._parse(body, context, reservation)

    async def read_any(
        self, request: Request, context: RequestContext, reservation: Reservation
    ) -> Call:
        """Read a request with instances, or with one image as its body. Raises BadRequest."""
        body = await self._intake.reader.body(request, context, reservation)
        if is_json_object(body) or is_json_lines(context.content_type):
            return await self._parse(body, context, reservation)
        return Call([body], is_single=True)

    async def _parse(self, body: bytes, context: RequestContext, reservation: Reservation) -> Call:
        most = self._intake.limits.max_files
        if max(body.count(b"{"), body.count(b"\n")) > _PER_INSTANCE * most + _OTHERS:
            raise BadRequest(f"The body has too many objects or lines for {most} instances.")
        if is_json_lines(context.content_type):
            lines = b"[" + b",".join(line for line in body.split(b"\n") if line.strip()) + b"]"
            instances: list[Instance] = parse(_LINES, lines, reservation)
            return Call(await _images(instances))
        found = parse(_BODY, body, reservation)
        asked = found.parameters or Parameters()
        return Call(
            await _images(found.instances), check_top_k(asked.top_k), _seconds(asked.timeout_ms)
        )


def is_json_lines(content_type: str) -> bool:
    """Return whether a body or an answer with this media type is one JSON value per line."""
    return content_type.partition(";")[0].strip().lower() in JSON_LINES


def predictions(outcomes: Sequence[Outcome], context: RequestContext) -> dict[str, Any]:
    """Return the answer's body."""
    return {"predictions": [element(outcome, context) for outcome in outcomes]}


async def _images(instances: Sequence[Instance]) -> list[bytes | BadRequest]:
    return [await _image(index, instance) for index, instance in enumerate(instances)]


async def _image(index: int, instance: Instance) -> bytes | BadRequest:
    text = instance.text()
    if text is None:
        return BadRequest(f"Instance {index} has none of b64, image and image_bytes.")
    try:
        return await decode_base64(text, f"Instance {index}")
    except BadRequest as error:
        return error


def _seconds(timeout_ms: float | None) -> float | None:
    if timeout_ms is None:
        return None
    if not 1 <= timeout_ms <= MAX_TIMEOUT_MS:
        raise BadRequest("timeout_ms must be at least 1.")
    return timeout_ms / 1000


_TEXT = {"type": "string", "format": "byte"}
_ENCODED = {"type": "object", "required": ["b64"], "properties": {"b64": _TEXT}}
INSTANCE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "one of the three has the image as base64",
    "properties": {
        "b64": _TEXT,
        "image": {"anyOf": [_ENCODED, _TEXT]},
        "image_bytes": {"anyOf": [_ENCODED, _TEXT]},
    },
}
PREDICTIONS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["predictions"],
    "properties": {
        "predictions": {
            "type": "array",
            "description": "one element per instance, in order",
            "items": {
                "type": "object",
                "properties": {
                    "decision": {"type": "string", "enum": ["accept", "review", "reject"]},
                    "p_value": {"type": "number"},
                    "predictions": {
                        "type": "array",
                        "description": "empty if the image is rejected",
                        "items": {"$ref": "#/components/schemas/PredictionBody"},
                    },
                    "error": {"$ref": "#/components/schemas/Problem"},
                },
            },
        }
    },
}


def body_schema(most: int) -> dict[str, Any]:
    """Return the schema of a request's body, for at most this many instances."""
    return {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {
                "type": "array",
                "items": INSTANCE_SCHEMA,
                "minItems": 1,
                "maxItems": most,
            },
            "parameters": {
                "type": "object",
                "properties": {
                    "top_k": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MAX_TOP_K,
                        "default": TOP_K,
                    },
                    "timeout_ms": {"type": "number", "minimum": 1},
                },
            },
        },
    }
