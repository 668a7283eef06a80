from __future__ import annotations

from fastapi import FastAPI

from tidegate.service.api.openapi_access import describe_access


def test_every_route_that_needs_a_key_says_so_once() -> None:
    app = FastAPI()

    @app.get("/livez")
    async def livez() -> None: ...

    @app.post("/classify")
    async def classify() -> None:
        """Send an image."""

    @app.get("/models/{name}")
    async def model(name: str) -> None: ...

    @app.post("/v2/models/{name}/infer", responses={400: {"content": {"application/json": {}}}})
    async def infer(name: str) -> None: ...

    describe_access(app)
    document = app.openapi()

    assert document is app.openapi()
    paths = document["paths"]
    assert "security" not in paths["/livez"]["get"]
    assert paths["/classify"]["post"]["security"] == [{"bearer": []}, {"apiKey": []}]
    assert paths["/classify"]["post"]["description"] == "Send an image.\n\nScope: classify."
    assert paths["/models/{name}"]["get"]["description"] == "Scope: classify or metrics."
    responses = paths["/models/{name}"]["get"]["responses"]
    assert responses["401"]["content"] == responses["403"]["content"]
    assert responses["401"]["content"].keys() == {"application/problem+json"}
    assert document["components"]["securitySchemes"].keys() == {"bearer", "apiKey"}
    # A protocol's refusals have the form of its other errors.
    refusal = paths["/v2/models/{name}/infer"]["post"]["responses"]["401"]
    assert refusal["content"].keys() == {"application/json"}
