"""The OpenAPI 3.1 document of a role's service, generated from its declared operations and their types.

It is made without a running service, and always the same for the same code: what is served is what is committed. Beside
what a client needs it shows, for each interface, which messages of which procedures travel in its datagrams.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from qsotn import __version__, messages, wire
from qsotn.domain import Role, Secret
from qsotn.interfaces import BY_NAME, Interface
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import Ladder, Step
from qsotn.service.http.framing import CBOR_SEQUENCE
from qsotn.service.http.names import END
from qsotn.service.http.operation import Content, HeaderParameter, Operation, Success
from qsotn.service.http.problems import PROBLEM_JSON, Kind, Problem, problem

Json = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas/{name}"
_HEADERS: Final[Json] = {
    "Allow": ("The methods of this resource.", "string"),
    "ETag": ("The strong entity tag of the representation (RFC 9110, section 8.8.3).", "string"),
    "Location": ("Where the procedure that has begun is found.", "string"),
    "Retry-After": ("After how many seconds the same may be tried again.", "integer"),
}
_EXAMPLE_DETAIL: Final = "what was wrong, where, and what would be right"


def openapi_document(role: Role, operations: Sequence[Operation]) -> Json:
    """Return the document of a service with these operations."""
    letters = _letters(role, operations)
    schemas = _Schemas([*_types_of(operations), Problem, *letters.types])
    paths: dict[str, Json] = defaultdict(dict)
    for one in sorted(operations, key=lambda each: (each.path, each.method)):
        paths[one.path][one.method.lower()] = _operation(one, schemas, letters)
    document = {
        "openapi": "3.1.0",
        "info": _info(role),
        "paths": dict(paths),
        "components": {
            "schemas": letters.explained(schemas.components),
            "examples": {kind.name: _example(kind) for kind in _kinds(operations)},
            "headers": {name: _header(*about) for name, about in _HEADERS.items()},
            "securitySchemes": {
                "mutualTLS": {
                    "type": "mutualTLS",
                    "description": "A certificate of this province: its URI (SAN) names the client and its role.",
                }
            },
        },
        "tags": [{"name": tag} for tag in sorted({one.tag for one in operations})],
    }
    in_ecma_syntax: Json = _in_ecma_syntax(document)
    return in_ecma_syntax


def _info(role: Role) -> Json:
    return {
        "title": f"qsotn {role}",
        "version": __version__,
        "description": (
            f"The service of a party of role `{role}`. Every error is a problem document (RFC 9457). A request is read"
            " strictly: an undeclared field or parameter is an error. `security` names the roles that may call."
        ),
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    }


# --- schemas --------------------------------------------------------------------------------------------------------


class _Schemas:
    """The schemas of all types, and a reference to each."""

    def __init__(self, types: Iterable[Any]) -> None:
        wanted = list(dict.fromkeys(types))
        references, components = msgspec.json.schema_components(
            wanted, schema_hook=_schema_of_secret, ref_template=_SCHEMAS
        )
        self._references = dict(zip(wanted, references, strict=True))
        self.components: Json = dict(sorted(components.items()))

    def of(self, kind: Any) -> Json:
        """Return the schema of a type, by reference where it has a name."""
        reference: Json = self._references[kind]
        return reference


def _schema_of_secret(kind: type) -> Json:
    if kind is Secret:
        return {"type": "string", "contentEncoding": "base64", "description": "Key material; always sealed."}
    raise NotImplementedError(f"{kind.__name__} has no schema")


def _types_of(operations: Iterable[Operation]) -> Iterator[Any]:
    for one in operations:
        for content in (one.body, *(success.content for success in one.successes)):
            if content is not None and content.schema is None:
                yield content.type


def _in_ecma_syntax(value: Any) -> Any:
    """Put patterns into the syntax of ECMA-262, where `$` holds at the very end only."""
    if isinstance(value, dict):
        return {key: _in_ecma_syntax(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_ecma_syntax(item) for item in value]
    return value.replace(END, "$") if isinstance(value, str) else value


# --- operations -----------------------------------------------------------------------------------------------------


def _operation(one: Operation, schemas: _Schemas, letters: _Letters) -> Json:
    made: Json = {
        "operationId": one.name,
        "summary": one.summary,
        "description": one.description,
        "tags": [one.tag],
        "security": [{"mutualTLS": sorted(one.roles or ())}],
        "parameters": [*_parameters(one), *map(_header_parameter, one.headers)],
        "responses": _responses(one, schemas),
    }
    if one.body is not None:
        made["requestBody"] = {"required": True, "content": _content(one.body, schemas)}
        made |= letters.of(one)
    return {key: value for key, value in made.items() if value}


def _parameters(one: Operation) -> Iterator[Json]:
    for place, kind in (("path", one.path_type), ("query", one.query_type)):
        for field in msgspec.structs.fields(kind):
            schema = msgspec.json.schema(field.type)
            if not field.required:
                schema["default"] = field.default
            description = schema.pop("description", "")
            parameter = {"name": field.encode_name, "in": place, "description": description}
            yield {**parameter, "required": field.required, "schema": schema}


def _header_parameter(header: HeaderParameter) -> Json:
    schema: Json = {"type": "string"}
    if header.pattern is not None:
        schema["pattern"] = header.pattern
    made = {"name": header.name, "in": "header", "description": header.description, "required": header.required}
    example = {} if header.example is None else {"example": header.example}
    return {**made, "schema": schema, **example}


def _content(content: Content, schemas: _Schemas) -> Json:
    made: Json = {"schema": schemas.of(content.type) if content.schema is None else content.schema}
    if content.example is not None:
        made["example"] = msgspec.to_builtins(content.example)
    return {content.media_type: made}


def _responses(one: Operation, schemas: _Schemas) -> Json:
    by_status: dict[int, list[Kind]] = defaultdict(list)
    for kind in sorted(set(one.problems)):
        by_status[kind.status].append(kind)
    problems = {str(status): _problems(kinds, schemas) for status, kinds in by_status.items()}
    successes = {str(success.status): _success(success, schemas) for success in one.successes}
    return dict(sorted({**successes, **problems}.items()))


def _success(success: Success, schemas: _Schemas) -> Json:
    made: Json = {"description": success.description}
    if success.headers:
        made["headers"] = _header_references(success.headers)
    if success.content is not None:
        made["content"] = _content(success.content, schemas)
    return made


def _problems(kinds: Sequence[Kind], schemas: _Schemas) -> Json:
    examples = {kind.name: {"$ref": f"#/components/examples/{kind.name}"} for kind in kinds}
    made: Json = {
        "description": "; ".join(kind.title for kind in kinds),
        "content": {PROBLEM_JSON: {"schema": schemas.of(Problem), "examples": examples}},
    }
    if any(kind.retry_after_s is not None for kind in kinds):
        made["headers"] = _header_references(("Retry-After",))
    return made


def _header_references(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(description: str, kind: str) -> Json:
    return {"description": description, "schema": {"type": kind}}


def _kinds(operations: Iterable[Operation]) -> list[Kind]:
    return sorted({kind for one in operations for kind in one.problems})


def _example(kind: Kind) -> Json:
    return {"summary": kind.title, "value": msgspec.to_builtins(problem(kind, _EXAMPLE_DETAIL))}


# --- messages -------------------------------------------------------------------------------------------------------


class _Letters:
    """Which messages of which ladders reach this role in the datagrams of its interfaces."""

    def __init__(self, role: Role, interfaces: Iterable[Interface]) -> None:
        self._steps = {interface.name: list(_steps_to(role, interface)) for interface in interfaces}

    @property
    def types(self) -> list[Any]:
        """The types to describe: datagram, envelope, and every message."""
        if not self._steps:
            return []
        found = [step.message for steps in self._steps.values() for _, step in steps]
        return [wire.Datagram, wire.Envelope, messages.ProcedureRefusal, *found]

    def of(self, one: Operation) -> Json:
        """Return what an operation that takes datagrams says of them."""
        if one.body is None or one.body.media_type != CBOR_SEQUENCE:
            return {}
        listed = [
            {**_said(ladder, step), "message": {"$ref": _SCHEMAS.format(name=step.message.__name__)}}
            for ladder, step in self._steps[one.tag]
        ]
        return {"x-qsotn-messages": listed}

    def explained(self, components: Json) -> Json:
        """Return schemas in which each message says which steps it stands for."""
        explained = dict(components)
        steps: dict[str, list[str]] = defaultdict(list)
        for ladder, step in dict.fromkeys(each for found in self._steps.values() for each in found):
            steps[step.message.__name__].append(_in_words(ladder, step))
        for name, words in steps.items():
            said = explained[name].get("description", "")
            explained[name] = {**explained[name], "description": f"{said}\n\n" + "\n".join(words)}
        return explained


def _letters(role: Role, operations: Iterable[Operation]) -> _Letters:
    tags = {one.tag for one in operations if one.body is not None and one.body.media_type == CBOR_SEQUENCE}
    return _Letters(role, [interface for name, interface in sorted(BY_NAME.items()) if name in tags])


def _steps_to(role: Role, interface: Interface) -> Iterator[tuple[Ladder, Step]]:
    for ladder in LADDERS.values():
        for step in ladder:
            if step.interface == interface and any(receiver.role is role for _, receiver in step.edges):
                yield ladder, step


def _said(ladder: Ladder, step: Step) -> Json:
    ways = sorted({f"{sender} to {receiver}" for sender, receiver in step.edges})
    return {"procedure": ladder.name, "step": step.label, "ways": ways}


def _in_words(ladder: Ladder, step: Step) -> str:
    ways = ", ".join(_said(ladder, step)["ways"])
    return f"Step {step.label} of {ladder.name} ({ladder.source}), {ways}, over {step.interface.name}."
