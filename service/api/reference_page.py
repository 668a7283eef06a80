"""The OpenAPI document as one HTML page, without scripts and without files of other hosts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

_FORMATS = {"binary": "bytes", "byte": "base64 text"}
_METHODS = ("get", "post", "put", "delete")
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
html { background: Canvas; color: CanvasText }
body { max-width: 62rem; margin: 0 auto; padding: 1rem }
code, pre { font: .9em/1.4 ui-monospace, monospace }
pre { overflow-x: auto; padding: .75rem; border: 1px solid GrayText; border-radius: .4rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0 }
code { overflow-wrap: anywhere }
@media (max-width: 40rem) {
  thead { position: absolute; left: -100vw }
  td { display: block }
}
tr { border-bottom: 1px solid color-mix(in srgb, GrayText 40%, transparent) }
section { border-top: 1px solid GrayText; margin-top: 1.5rem }
h3 { overflow-wrap: anywhere }
.method { text-transform: uppercase }
"""
# 'unsafe-inline' is not needed: the only style is allowed by its digest.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'sha256-"
        + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        + "'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def render(document: Json) -> str:
    """Return an OpenAPI document as a page. Its links are relative, so any prefix works."""
    info = document["info"]
    operations = list(_operations(document))
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_text(info['title'])}: HTTP API</title><style>{_STYLE}</style>",
        f"<main><h1>{_text(info['title'])} {_text(info['version'])}: HTTP API</h1>",
        f"<p>{_text(info.get('summary', ''))}",
        '<p><a href="openapi.json">OpenAPI document</a>',
        "<h2>Routes</h2>",
        _table(("route", "summary"), _contents(operations)),
        *(_operation(path, method, of) for path, method, of in operations),
        "<h2>Schemas</h2>",
        *(_schema(name, of) for name, of in _schemas(document).items()),
        "</main></html>",
    ]
    return "\n".join(parts)


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _schemas(document: Json) -> Json:
    schemas: Json = document.get("components", {}).get("schemas", {})
    return schemas


def _contents(operations: Iterable[tuple[str, str, Json]]) -> Iterator[tuple[str, str]]:
    for path, method, of in operations:
        link = f'<a href="#{_id(method, path)}"><code>{method.upper()} {_text(path)}</code></a>'
        yield link, _text(of.get("summary", ""))


def _operation(path: str, method: str, of: Json) -> str:
    parts = [
        f'<section id="{_id(method, path)}"><h3><code><span class="method">{method}</span> '
        f"{_text(path)}</code></h3><p>{_text(of.get('summary', ''))}.",
        *(f"<p>{_text(text)}" for text in of.get("description", "").split("\n\n") if text),
    ]
    if parameters := of.get("parameters"):
        named = (
            (f"<code>{_text(p['name'])}</code>", p["in"], _type(p["schema"]), _text(_about(p)))
            for p in parameters
        )
        parts.append(_table(("parameter", "in", "type", "meaning"), named))
    if body := of.get("requestBody"):
        parts.append(_table(("request body", "content"), _contents_of(body)))
    rows = [
        (f"<code>{status}</code>", _text(response.get("description", "")), content)
        for status, response in of["responses"].items()
        for content in ["<br>".join(" ".join(row) for row in _contents_of(response))]
    ]
    parts.append(_table(("status", "meaning", "content"), rows))
    return "\n".join([*parts, "</section>"])


def _contents_of(message: Json) -> Iterator[tuple[str, str]]:
    for media_type, content in message.get("content", {}).items():
        yield f"<code>{_text(media_type)}</code>", _type(content.get("schema", {}))


def _schema(name: str, of: Json) -> str:
    required = of.get("required", ())
    rows = [
        (
            f"<code>{_text(field)}</code>{'' if field in required else ' (optional)'}",
            _type(schema),
            _text(_about(schema)),
        )
        for field, schema in of.get("properties", {}).items()
    ]
    body = _table(("field", "type", "meaning"), rows) if rows else f"<pre>{_json(of)}</pre>"
    return (
        f'<section id="{_text(name)}"><h3>{_text(name)}</h3><p>{_text(_about(of))}{body}</section>'
    )


def _about(of: Json) -> str:
    text: str = of.get("description", "")
    return text


def _type(schema: Json) -> str:
    """Return a schema in a few words, with links to named ones."""
    if reference := schema.get("$ref"):
        name = _text(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema)}"
    if properties := schema.get("properties"):
        fields = ", ".join(f"<code>{_text(k)}</code>: {_type(v)}" for k, v in properties.items())
        return f"object with {fields}"
    if "const" in schema or "enum" in schema:
        choices = schema.get("enum") or [schema["const"]]
        return " | ".join(f"<code>{_json(choice)}</code>" for choice in choices)
    kind = _FORMATS.get(schema.get("format", "")) or str(schema.get("type", "any"))
    return _text(kind) + _bounds(schema)


def _bounds(schema: Json) -> str:
    names = {"minimum": "≥", "maximum": "≤", "minItems": "at least", "maxItems": "at most"}
    words = [f"{word} {schema[key]:,}" for key, word in names.items() if key in schema]
    if "default" in schema:
        words.append(f"default {_json(schema['default'])}")
    return f" ({', '.join(words)})" if words else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"


def _id(method: str, path: str) -> str:
    return method + re.sub(r"[^a-z0-9]+", "-", path.lower())


def _json(value: object) -> str:
    return html.escape(json.dumps(value))


def _text(text: str) -> str:
    """Return text for HTML; what is between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(text)))
