"""Who may call what: the table of interfaces, written out by hand, against every route of every role.

`DOORS` is Table 2 of the paper with our extensions, as a guard would have it on paper: at whose door stands which
interface, and who may come in. Nothing of it is computed from the code.
"""

from __future__ import annotations

import re
from typing import Any, Final

import jsonschema_rs
import pytest
from tests.service.http.driver import Client, application_of
from tests.world import World

from qsotn.app.province import CPE_A, KM_A, PMP, POMP, QKMP, QSSP_A
from qsotn.domain import PartyId, Role, role_of
from qsotn.service.http.application import document, operations_of
from qsotn.service.http.operation import Operation

PARTIES: Final = {
    "pomp": POMP,
    "pmp": PMP,
    "qssp": QSSP_A,
    "km": KM_A,
    "qkmp": QKMP,
    "cpe": CPE_A,
    "operator": PartyId("operator/alice"),
    "qkd": PartyId("qkd/jinan-weifang"),
    "sae": PartyId("sae/bank"),
}
HOSTS: Final = ("pomp", "pmp", "qssp", "km", "qkmp", "cpe")

DOORS: Final = {
    "pomp": {"ioa": "pmp", "ioq": "qssp"},
    "pmp": {"ioa": "pomp", "iqssp": "qssp", "ax": "cpe", "iaq": "cpe qssp"},
    "qssp": {"ioq": "pomp", "iqssp": "pmp", "iaq": "pmp", "iqq": "qssp qkmp", "ak": "km"},
    "km": {"ak": "qssp", "kx": "km"},
    "qkmp": {"iqq": "qssp"},
    "cpe": {},
}
BEHIND_EACH_DOOR: Final = ("POST /messages", "GET /procedures", "GET /procedures/{procedure}")

COMMON: Final = "GET service, GET procedures, GET procedures/{procedure}, GET procedures/{procedure}/steps"
OPERATIONS: Final = {
    "pomp": (
        "GET accounts, POST accounts, GET cpes, POST cpes, GET cpes/{name}, DELETE cpes/{name}, GET lines, POST lines,"
        " GET lines/{line}, DELETE lines/{line}, POST lines/{line}/rekeys, GET usage, GET usage/{line}"
    ),
    "pmp": "GET registrations, GET reservations",
    "qssp": "GET key-files, GET services, GET lines/{line}/generations, GET generations",
    "km": "GET links, GET links/{link}/blocks, GET pools, GET streams, GET keys/{key_id}/provenance",
    "qkmp": (
        "GET synchronisations, GET network, GET network/pools, GET network/lines, GET network/forecast,"
        " GET network/rates, GET network/alarms, POST network/admission"
    ),
    "cpe": "GET line, GET binding",
}
SUPERVISED: Final = {"qssp": ("generations",), "km": ("links", "pools", "streams")}
"""What the QKMP may read beside the operator: counts and key IDs."""


def expected(host: str) -> dict[str, set[str]]:
    """Every route of a role, with the roles that may call it."""
    routes = {f"GET {path}": set(PARTIES) for path in ("/livez", "/readyz", "/openapi.json")}
    routes["GET /metrics"] = {"operator"}
    for named in f"{COMMON}, {OPERATIONS[host]}".split(", "):
        method, path = named.split(" ")
        watcher = {"qkmp"} if path in SUPERVISED.get(host, ()) else set()
        routes[f"{method} /operations/v1/{path}"] = {"operator"} | watcher
    for interface, visitors in DOORS[host].items():
        for behind in BEHIND_EACH_DOOR:
            method, path = behind.split(" ")
            routes[f"{method} /{interface}/v1{path}"] = set(visitors.split())
    if host == "km":
        paths = ("GET ", "PUT /first-keys", "POST /exchanges", "POST /blocks", "PUT /measurement")
        routes["PUT /operations/v1/network/links"] = {"qkmp"}
        routes |= {path.replace(" ", " /kq/v1/links/{link}"): {"qkd"} for path in paths}
        routes |= {"POST /kx/v1/assignments": {"km"}, "POST /kx/v1/voids": {"km"}, "POST /kx/v1/stocks": {"km"}}
        routes |= {f"POST /kx/v1/streams/{asked}": {"km"} for asked in ("connect", "locate", "leave")}
    if host == "pmp":
        routes |= {"GET /ax/v1/mailbox": {"cpe"}, "POST /ax/v1/mailbox/receipts": {"cpe"}}
    return routes


@pytest.mark.parametrize("host", HOSTS)
def test_a_role_serves_what_the_table_says_and_nothing_else(host: str) -> None:
    assert {f"{one.method} {one.path}" for one in operations_of(Role(host))} == set(expected(host))


def asked(one: Operation, client: Client) -> Any:
    """Ask for an operation in the simplest way: the answer of whoever may is anything but *forbidden*."""
    path = re.sub(r"\{procedure\}", "8c9e6679-7425-40de-944b-e07fc1f90ae7", one.path)
    return client(one.method, re.sub(r"\{\w+\}", "none", path.replace("{link}", "jinan-weifang")))


@pytest.mark.parametrize("visitor", PARTIES)
@pytest.mark.parametrize("host", HOSTS)
def test_a_role_may_call_what_the_table_says_and_nothing_else(province: World, host: str, visitor: str) -> None:
    client = Client(application_of(province, PARTIES[host]), PARTIES[visitor])
    allowed, made = expected(host), document(Role(host))
    problem = {"$schema": DIALECT, "$ref": "#/components/schemas/Problem", "components": made["components"]}
    check_problem = jsonschema_rs.validator_for(problem).validate
    for one in operations_of(Role(host)):
        reply = asked(one, client)
        declared = made["paths"][one.path][one.method.lower()]
        may = visitor in allowed[f"{one.method} {one.path}"]
        assert (reply.status != 403) == may, (host, visitor, one.path)
        assert str(reply.status) in declared["responses"]
        if not may:
            assert reply.problem == "forbidden"
            check_problem(reply.json())


DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("host", HOSTS)
def test_the_document_names_the_roles_that_may_call(host: str) -> None:
    paths, allowed = document(Role(host))["paths"], expected(host)
    for path, methods in paths.items():
        for method, declared in methods.items():
            (requirement,) = declared["security"]
            named = set(requirement["mutualTLS"]) or set(PARTIES)
            assert named == allowed[f"{method.upper()} {path}"]


def test_every_role_of_the_platform_is_in_the_table() -> None:
    assert {role_of(party) for party in PARTIES.values()} == set(Role)


@pytest.mark.parametrize("host", [host for host in HOSTS if host != "pmp"])
@pytest.mark.parametrize("path", ["/ax/v1/mailbox", "/ax/v1/messages", "/line/v1/messages", "/iaq/v1/mailbox"])
def test_a_door_that_is_not_there_is_not_found(province: World, host: str, path: str) -> None:
    for visitor in PARTIES.values():
        assert Client(application_of(province, PARTIES[host]), visitor)("POST", path).status == 404
