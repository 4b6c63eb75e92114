"""The documents: generated, complete, the same each time, and what is committed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from qsotn import messages, wire
from qsotn.domain import Role
from qsotn.service.http.application import document, operations_of, rendered
from qsotn.service.http.operation import Content

ROLES = [Role.POMP, Role.PMP, Role.QSSP, Role.KM, Role.QKMP, Role.CPE]
COMMITTED = Path(__file__).parents[3] / "docs" / "openapi"


def values(node: Any, key: str) -> Iterator[Any]:
    """Every value under a key, anywhere in a document."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == key)
        for value in node.values():
            yield from values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values(value, key)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_committed_is_what_the_code_says(role: Role) -> None:
    committed = COMMITTED / f"{role}.json"
    assert committed.read_bytes() == rendered(role), f"renew it: qsotn openapi {role} > docs/openapi/{role}.json"


def test_a_document_is_the_same_in_every_process() -> None:
    program = (
        "import sys; from qsotn.domain import Role; from qsotn.service.http.application import rendered;"
        " sys.stdout.buffer.write(rendered(Role.PMP))"
    )
    again = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env={"PYTHONHASHSEED": "12345"}
    )
    assert again.stdout == rendered(Role.PMP)


@pytest.mark.parametrize("role", ROLES)
def test_every_reference_leads_somewhere(role: Role) -> None:
    made = document(role)
    for reference in values(made, "$ref"):
        node: Any = made
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]


@pytest.mark.parametrize("role", ROLES)
def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(role: Role) -> None:
    declared = [one for methods in document(role)["paths"].values() for one in methods.values()]
    names = [one["operationId"] for one in declared]
    assert len(set(names)) == len(names)
    assert all(one["summary"] and one["tags"] for one in declared)


@pytest.mark.parametrize("role", ROLES)
def test_every_example_is_of_its_type_and_of_its_schema(role: Role) -> None:
    made = document(role)
    for one in operations_of(role):
        contents = [one.body, *(success.content for success in one.successes)]
        for content in filter(None, contents):
            if content.schema is None:
                shown = list(values(made["paths"][one.path][one.method.lower()], "example"))
                check_example(content, shown, made["components"])


def check_example(content: Content, shown: list[Any], components: Any) -> None:
    plain = msgspec.to_builtins(content.example)
    assert plain in shown
    assert msgspec.convert(plain, content.type) == content.example
    references, _ = msgspec.json.schema_components([content.type], ref_template="#/components/schemas/{name}")
    schema = {"$ref": references[0]["$ref"], "components": components} if "$ref" in references[0] else references[0]
    jsonschema_rs.validator_for(schema).validate(plain)


@pytest.mark.parametrize("role", ROLES)
def test_every_answer_is_described_with_a_problem_for_every_failure(role: Role) -> None:
    for methods in document(role)["paths"].values():
        for one in methods.values():
            for status, response in one["responses"].items():
                problem = "application/problem+json" in response.get("content", {})
                assert problem == (int(status) >= 400), (one["operationId"], status)
            assert {"400", "403", "414", "431", "500"} <= set(one["responses"])


@pytest.mark.parametrize("role", ROLES)
def test_what_an_operator_reads_holds_no_bytes(role: Role) -> None:
    made = document(role)
    reached = set[str]()
    waiting = [made["paths"][path] for path in made["paths"] if path.startswith("/operations/")]
    while waiting:
        node = waiting.pop()
        assert "base64" not in values(node, "contentEncoding")
        for reference in values(node, "$ref"):
            name = reference.rpartition("/")[2]
            if "/schemas/" in reference and name not in reached:
                reached.add(name)
                waiting.append(made["components"]["schemas"][name])
    assert reached


@pytest.mark.parametrize(
    ("role", "interface", "message", "step"),
    [
        (Role.PMP, "ioa", "InitializationRequest", "Step 1 of initialization (Figure 3), pomp to pmp, over Ioa."),
        (Role.PMP, "ax", "InitializationResponse", "Step 3 of initialization (Figure 3), cpe to pmp, over Ax."),
        (Role.POMP, "ioa", "ActivationReport", "Step 12c of leased-line (Figure 4), pmp to pomp, over Ioa."),
        (Role.QSSP, "iaq", "KeyFileRequest", "Step 8 of initialization (Figure 3), cpe to qssp, over Iaq."),
        (Role.KM, "ak", "DecKeysRequest", "Step 10d of leased-line (Figure 4), qssp-b to km-b, over AK."),
        (Role.KM, "kx", "KeyRelay", "Step 1 of key-supply (ours: one hop of a supply), km-near to km-far, over Kx."),
        (
            Role.QKMP,
            "iqq",
            "SynchronisationReport",
            "Step 10g of rekey (Figure 4, steps 9 to 12), qssp-a to qkmp, over Iqq.",
        ),
    ],
)
def test_the_messages_of_an_interface_are_described_with_their_steps(
    role: Role, interface: str, message: str, step: str
) -> None:
    made = document(role)
    listed = made["paths"][f"/{interface}/v1/messages"]["post"]["x-qsotn-messages"]
    assert {"$ref": f"#/components/schemas/{message}"} in [one["message"] for one in listed]
    schema = made["components"]["schemas"][message]
    kind = getattr(messages, message)
    assert set(schema["properties"]) == set(kind.__struct_fields__)
    assert step in schema["description"].splitlines()


def test_key_material_is_marked_as_what_is_always_sealed() -> None:
    supplied = document(Role.QSSP)["components"]["schemas"]["SuppliedKey"]
    assert supplied["properties"]["key"]["description"] == "Key material; always sealed."


def test_datagram_and_envelope_are_described_where_there_are_messages() -> None:
    for role in ROLES:
        described = document(role)["components"]["schemas"]
        assert (set(wire.Datagram.__struct_fields__) <= set(described.get("Datagram", {}).get("properties", ()))) == (
            role is not Role.CPE
        )


@pytest.mark.parametrize("role", ROLES)
def test_patterns_are_in_the_syntax_of_the_web(role: Role) -> None:
    for pattern in values(document(role), "pattern"):
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        assert "(?!" not in pattern
