"""Every request and answer is checked by models of our own, and by the OpenAPI document where there is one.

A request that does not fit is answered with 422, as RunPod does. An answer that does not fit, or a request
on which the two disagree, is a defect of the simulator: it is kept in `defects`, and closing it raises.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT.parent / "shared" / "runpod" / "openapi-v2.json"
KNOWN_MAX = 50_000

Model = TypeVar("Model", bound=BaseModel)


class Misfit(Exception):
    """A request that breaks the contract; `errors` says where, without values."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


class Checks:
    """The two judges. Without the document the models judge alone."""

    def __init__(self, document: Path | None = None) -> None:
        path = document or CONTRACT
        self._document = path if path.is_file() else None
        self.defects: list[str] = []
        self._known: set[str] = set()

    def body(self, model: type[Model], schema: str, data: bytes) -> Model:
        """Read a request's body, which is JSON. Raises Misfit."""
        value = json.loads(data)
        objections = self._objections(schema, value)
        try:
            found = model.model_validate_json(data)
        except ValidationError as error:
            if self._document is not None and schema and not objections:
                self.defects.append(f"only our own model refuses a request: {_told(error)}")
            raise Misfit(_told(error)) from None
        if objections:
            self.defects.append(f"only the document refuses a request: {objections}")
            raise Misfit(objections)
        return found

    def query(self, model: type[Model], parameters: dict[str, str]) -> Model:
        """Read a query string. Raises Misfit."""
        try:
            return model.model_validate(parameters)
        except ValidationError as error:
            raise Misfit(_told(error)) from None

    def answer(self, model: type[BaseModel], schema: str, value: Any) -> None:
        """Check what the simulator is about to say."""
        try:
            model.model_validate_json(json.dumps(value))
        except ValidationError as error:
            self.defects.append(f"answer, by our own model {model.__name__}: {_told(error)}")
        if schema == "ListPodsResponse":
            # One by one, so that what was checked before costs nothing: a list may hold a thousand. What
            # changes at every look is left to our own model.
            for pod in value["pods"]:
                self._check("Pod", {**pod, "runtime": pod["runtime"] and {**pod["runtime"], "uptime": 0}})
            value = value | {"pods": []}
        self._check(schema, value)

    def conclude(self) -> None:
        """Raise AssertionError when anything did not fit."""
        assert not self.defects, "\n".join(self.defects[:5])

    def _check(self, schema: str, value: Any) -> None:
        if self._document is None or not schema:
            return
        shown = f"{schema} {json.dumps(value, sort_keys=True)}"
        if shown in self._known:
            return
        if objections := self._objections(schema, value):
            self.defects.append(f"answer, by the document's {schema}: {objections}")
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known.add(shown)

    def _objections(self, schema: str, value: Any) -> list[str]:
        if self._document is None or not schema:
            return []
        # A message may show a value, such as a link in `env`: only the place is told.
        found = _validator(self._document, schema).iter_errors(value)
        return [f"{error.json_path}: {error.validator}" for error in found]


@lru_cache
def _validator(document: Path, schema: str) -> Draft202012Validator:
    registry: Registry[Any] = Registry().with_resource(
        "urn:runpod", Resource.from_contents(_read(document), default_specification=DRAFT202012)
    )
    return Draft202012Validator({"$ref": f"urn:runpod#/components/schemas/{schema}"}, registry=registry)


@lru_cache
def _read(document: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document.read_text())
    return found


def _told(error: ValidationError) -> list[str]:
    return [
        "$" + "".join(f".{part}" for part in item["loc"]) + f": {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)
    ]
