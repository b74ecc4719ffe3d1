"""Holds requests and answers against RunPod's OpenAPI document, where that lies beside the repository."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

DOCUMENT = Path(__file__).parents[4] / "shared" / "runpod" / "openapi-v2.json"
PRESENT = DOCUMENT.is_file()


@cache
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return loaded


def check_request(request: httpx.Request) -> None:
    """Fail for a path, parameter or body that the document does not have."""
    if not PRESENT:
        return
    operation, parameters = _operation(request)
    known = {each["name"]: each for each in map(_resolved, parameters) if each["in"] == "query"}
    assert len(request.url.params) == len(request.url.params.multi_items())
    for name, text in request.url.params.items():
        assert name in known, name
        schema = known[name]["schema"]
        kind = _resolved(schema).get("type")
        value: object = int(text) if kind == "integer" else text.split(",") if kind == "array" else text
        _validate(schema, value)
    if request.content:
        assert request.headers["content-type"] == "application/json"
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        _validate(body, json.loads(request.content))
    else:
        assert "requestBody" not in operation


def check_answer(request: httpx.Request, response: httpx.Response) -> None:
    """Fail for a status or content that the document does not have."""
    if not PRESENT:
        return
    operation, _ = _operation(request)
    answers = operation["responses"]
    answer = _resolved(answers.get(str(response.status_code)) or answers["default"])
    if "content" not in answer:
        assert response.content == b""
        return
    media = response.headers["content-type"]
    schema = answer["content"][media]["schema"]
    if media.endswith("json"):
        _validate(schema, json.loads(response.content))


def examples(operation: dict[str, Any], status: str) -> list[tuple[str, Any]]:
    """Return media type and value of the document's own examples of an answer."""
    content = operation["responses"][status]["content"]
    return [(media, each["value"]) for media in content for each in content[media]["examples"].values()]


def _operation(request: httpx.Request) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = request.url.raw_path.decode().partition("?")[0]
    for template, item in document()["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            operation = item[request.method.lower()]
            return operation, [*item.get("parameters", ()), *operation.get("parameters", ())]
    raise AssertionError(f"no such path: {request.url.path}")


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = document()
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def _validate(schema: dict[str, Any], value: object) -> None:
    # References are to "#/components/…": the components come along at the root.
    Draft202012Validator({"allOf": [schema], "components": document()["components"]}).validate(value)
