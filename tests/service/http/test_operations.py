"""What an operator reads at each party, and orders at the POMP: against the parties' own records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from tests.service.http.driver import DEPLOYMENT, STARTED_AT, Client, application_of
from tests.world import BEGINS_US, World

from qsotn import __version__
from qsotn.app.province import CPE_A, CPE_B, HOMES, KM_RELAY, LINE, PLATFORM, PMP, POMP, QKMP, QSSP_A, SERIALS, VALIDITY
from qsotn.domain import PartyId
from qsotn.parties.pomp import DeviceState, LineState

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DEVICE = {"cpe": CPE_A, "serial_number": SERIALS[CPE_A], "home_qssp": HOMES[CPE_A]}
LINE_ORDER = {
    "line": LINE,
    "account": "bank",
    "cpe_a": CPE_A,
    "cpe_b": CPE_B,
    "odu": "ODU2",
    "rekey_interval_s": 60,
    "max_latency_us": 5000,
}


def read(world: World, party: PartyId, path: str) -> Any:
    """What an operator reads at one party."""
    reply = Client(application_of(world, party))("GET", f"/operations/v1/{path}")
    assert reply.status == 200, reply
    return reply.json()


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", [*PLATFORM, CPE_A])
def test_every_party_says_who_it_is(province: World, party: PartyId) -> None:
    told = read(province, party, "service")
    assert (told["party"], told["role"]) == (party, party.partition("/")[0])
    assert (told["version"], told["started_at"], told["store"]) == (__version__, STARTED_AT, "sqlite")
    assert (told["ready"], told["waiting"], told["rejections"]) == (True, 0, {})
    assert told["certificate_not_after"] == BEGINS_US + int(VALIDITY.total_seconds()) * 1_000_000


def test_what_was_refused_and_what_waits_is_counted(ready: World) -> None:
    ready.order_line()
    with pytest.raises(Exception, match="CBOR"):
        ready.nodes[POMP].receive(b"noise")
    told = read(ready, POMP, "service")
    assert (told["waiting"], told["rejections"]) == (1, {"MalformedMessage": 1})


def test_a_procedure_is_shown_with_what_it_awaits(ready: World) -> None:
    procedure = ready.order_line()
    shown = read(ready, POMP, f"procedures/{procedure}")
    assert (shown["state"], shown["ladder"], shown["subject"]) == ("RUNNING", "leased-line", LINE)
    assert shown["parts"] == [{"seat": "pomp", "state": "RUNNING", "failure": "", "awaits": ["4 from pmp"]}]
    assert shown["seats"]["cpe-b"] == CPE_B
    assert read(ready, POMP, f"procedures/{procedure}/steps") == {"items": []}
    ready.settle()
    steps = read(ready, POMP, f"procedures/{procedure}/steps")["items"]
    assert [(step["number"], step["part"]) for step in steps] == [(4, ""), (7, "a"), (7, "a")]
    assert read(ready, POMP, f"procedures/{procedure}")["parts"][0]["awaits"] == ["12c from pmp"]


def test_a_procedure_that_failed_says_why(open_world: Callable[..., World]) -> None:
    world = open_world("provisioned")
    procedure = world.initialize(CPE_A)
    world.clock.advance(3600 * 1_000_000)
    world.nodes[POMP].tick()
    shown = read(world, POMP, f"procedures/{procedure}")
    assert (shown["state"], shown["failure"]) == ("FAILED", "TIMEOUT")
    assert shown["parts"][0]["awaits"] == []


def test_a_relay_shows_both_its_links(province: World) -> None:
    links = read(province, KM_RELAY, "links")["items"]
    assert [(link["link"], link["neighbour"]) for link in links] == [
        ("jinan-weifang", "km/jinan"),
        ("weifang-qingdao", "km/qingdao"),
    ]
    with province.desk(KM_RELAY) as km:
        assert [link["available_bits"] for link in links] == [km.available_bits(link["link"]) for link in links]
    assert [(link["blocks"], link["pending_blocks"]) for link in links] == [(1, 0)] * 2


def test_links_come_in_pages(province: World) -> None:
    first = read(province, KM_RELAY, "links?limit=1")
    second = read(province, KM_RELAY, f"links?limit=1&cursor={first['next_cursor']}")
    assert [first["items"][0]["link"], second["items"][0]["link"]] == ["jinan-weifang", "weifang-qingdao"]
    assert second["next_cursor"] is None


def test_a_key_manager_shows_each_block_of_a_link(province: World) -> None:
    (block,) = read(province, KM_RELAY, "links/jinan-weifang/blocks")["items"]
    with province.desk(KM_RELAY) as km:
        assert block["left_bits"] == km.available_bits("jinan-weifang")
    assert (block["link"], block["number"], block["state"], block["bits"]) == ("jinan-weifang", 1, "AVAILABLE", 65_536)
    client = Client(application_of(province, KM_RELAY))
    assert client("GET", "/operations/v1/links/none/blocks").problem == "not-found"


def test_a_city_shows_where_the_keys_of_a_line_came_from(province: World) -> None:
    (shared,) = read(province, QKMP, "synchronisations")["items"]
    (drawn,) = read(province, QSSP_A, f"lines/{LINE}/generations")["items"]
    assert (drawn["line"], drawn["end"], drawn["generation"], drawn["key_ids"]) == (LINE, "a", 1, shared["key_ids"])
    assert drawn["sources"] == ["qkd:km/jinan–km/weifang–km/qingdao"] * 2
    assert shared["at"] >= drawn["drawn_at"] > 0
    assert drawn["armed_at"] > drawn["drawn_at"]


def test_a_city_shows_what_is_left_of_its_key_files(province: World) -> None:
    (file,) = read(province, QSSP_A, "key-files")["items"]
    assert (file["cpe"], file["state"], file["entries"], file["left"]) == (CPE_A, "ACTIVE", 64, 63)
    (service,) = read(province, QSSP_A, "services")["items"]
    assert (service["line"], service["end"], service["keys_drawn"], service["entries_burned"]) == (LINE, "a", 2, 1)


def test_the_pmp_shows_devices_and_ports(province: World) -> None:
    devices = read(province, PMP, "registrations")["items"]
    assert [(one["cpe"], one["gate_open"]) for one in devices] == [(CPE_A, True), (CPE_B, True)]
    assert devices[0]["certificate_sha384"] == province.verified(CPE_A).certificate_sha384.hex()
    (held,) = read(province, PMP, "reservations")["items"]
    assert (held["line"], held["state"], held["quality"]["odu"]) == (LINE, "GRANTED", "ODU2")
    assert {CPE_A, CPE_B} <= set(held["answered"])


def test_the_qkmp_shows_shared_keys_by_identifier(province: World) -> None:
    (shared,) = read(province, QKMP, "synchronisations")["items"]
    assert (shared["line"], shared["generation"], len(shared["key_ids"])) == (LINE, 1, 2)


def test_a_device_shows_its_binding_and_its_line(province: World) -> None:
    binding = read(province, CPE_A, "binding")
    assert (binding["state"], binding["qssp"], binding["entries"], binding["left"]) == ("READY", QSSP_A, 64, 63)
    line = read(province, CPE_A, "line")
    assert (line["state"], line["end"], line["active"], line["alarms"]) == ("ENCRYPTED", "a", 1, [])


def test_a_device_shows_what_its_terminal_reports(province: World) -> None:
    alarmed = dataclasses.replace(DEPLOYMENT, alarms=lambda line: (f"LOF of {line}",))
    client = Client(application_of(province, CPE_A, deployment=alarmed))
    assert client("GET", "/operations/v1/line").json()["alarms"] == ["LOF of line-1"]


@pytest.mark.parametrize("path", ["binding", "line"])
def test_a_new_device_has_neither_binding_nor_line(open_world: Callable[..., World], path: str) -> None:
    client = Client(application_of(open_world("provisioned"), CPE_A))
    assert client("GET", f"/operations/v1/{path}").problem == "not-found"


# --- ordering -------------------------------------------------------------------------------------------------------


def test_a_number_without_a_fraction_is_an_integer_however_it_is_written(ready: World) -> None:
    operator = Client(application_of(ready, POMP))
    operator.order("POST", "/operations/v1/accounts", "account", json={"name": "bank"})
    asked = {**LINE_ORDER, "rekey_interval_s": 60.0}
    assert operator.order("POST", "/operations/v1/lines", "line", json=asked).status == 202
    assert operator("GET", "/operations/v1/lines/line-1").json()["quality"]["rekey_interval_s"] == 60


def test_an_account_is_opened_once(newcomer: Client) -> None:
    first = newcomer.order("POST", "/operations/v1/accounts", "a", json={"name": "bank"})
    second = newcomer.order("POST", "/operations/v1/accounts", "b", json={"name": "bank"})
    assert (first.status, second.status, second.json()) == (201, 200, first.json())
    assert newcomer("GET", "/operations/v1/accounts").json()["items"] == [first.json()]


def test_a_line_lives_from_order_to_bill(ready: World) -> None:
    operator = Client(application_of(ready, POMP))
    operator.order("POST", "/operations/v1/accounts", "account", json={"name": "bank"})
    order = operator.order("POST", "/operations/v1/lines", "line", headers={"traceparent": TRACE}, json=LINE_ORDER)
    assert order.headers["location"] == f"/operations/v1/procedures/{order.json()['procedure']}"
    assert order.json()["traceparent"] == TRACE
    assert operator("GET", order.headers["location"]).json() == order.json()
    ready.settle()
    ready.connect()
    ready.encrypt()
    assert operator("GET", "/operations/v1/lines").json()["items"][0]["state"] == "ENCRYPTED"
    deletion = operator.order("DELETE", "/operations/v1/lines/line-1", "delete")
    ready.settle()
    assert operator("GET", deletion.headers["location"]).json()["state"] == "COMPLETED"
    usage = operator("GET", "/operations/v1/usage/line-1").json()
    assert usage == operator("GET", "/operations/v1/usage").json()["items"][0]
    assert (usage["account"], len(usage["key_usage"])) == ("bank", 2)
    assert ready.line_state() is LineState.DELETED


def test_a_rekey_begins_and_a_second_one_waits_for_it(own_province: World) -> None:
    operator = Client(application_of(own_province, POMP))
    first = operator.order("POST", "/operations/v1/lines/line-1/rekeys", "1")
    assert (first.status, first.json()["ladder"]) == (202, "rekey-order")
    second = operator.order("POST", "/operations/v1/lines/line-1/rekeys", "2")
    assert (second.status, second.json()["code"]) == (409, "UNDER_WAY")


def test_a_device_is_revoked_for_a_reason(own_province: World) -> None:
    operator = Client(application_of(own_province, POMP))
    device = "/operations/v1/cpes/jinan-1"
    revocation = operator.order("DELETE", f"{device}?reason=stolen%20from%20the%20cabinet", "r")
    assert (revocation.status, revocation.json()["ladder"]) == (202, "revocation")
    own_province.settle()
    shown = operator("GET", device).json()
    assert (shown["state"], shown["failure"]) == ("REVOKED", "stolen from the cabinet")
    assert own_province.device_state(CPE_A) is DeviceState.REVOKED
    assert operator("GET", revocation.headers["location"]).json()["state"] == "COMPLETED"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "cpes", {**DEVICE}, 409, "ALREADY_BOUND"),
        ("POST", "cpes", {**DEVICE, "cpe": "cpe/x", "home_qssp": "qssp/nowhere"}, 409, "UNKNOWN_QSSP"),
        ("POST", "cpes", {**DEVICE, "cpe": "qssp/jinan"}, 422, "$.cpe"),
        ("POST", "cpes", {**DEVICE, "home_qssp": "cpe/jinan-1"}, 422, "$.home_qssp"),
        ("POST", "cpes", {**DEVICE, "serial_number": "a b"}, 422, "$.serial_number"),
        ("POST", "lines", {**LINE_ORDER, "account": "nobody"}, 409, "UNKNOWN_ACCOUNT"),
        ("POST", "lines", {**LINE_ORDER, "cpe_b": CPE_A}, 409, "SAME_DEVICE"),
        ("POST", "lines", {**LINE_ORDER, "odu": "ODU9"}, 422, "$.odu"),
        ("POST", "lines", {**LINE_ORDER, "rekey_interval_s": 0}, 422, "$.rekey_interval_s"),
        ("POST", "lines", {**LINE_ORDER, "rekey_interval_s": "60"}, 422, "$.rekey_interval_s"),
        ("POST", "lines", {**LINE_ORDER, "rekey_interval_s": 60.5}, 422, "$.rekey_interval_s"),
        ("POST", "lines", {**LINE_ORDER, "max_latency_us": 1e9}, 422, "$.max_latency_us"),
        ("POST", "lines", {**LINE_ORDER, "line": "line/1"}, 422, "$.line"),
        ("POST", "lines/none/rekeys", None, 404, "none"),
        ("DELETE", "lines/none", None, 404, "none"),
        ("DELETE", "cpes/none?reason=lost", None, 404, "none"),
        ("DELETE", "cpes/jinan-1", None, 400, "reason"),
        ("DELETE", "cpes/jinan-1?reason=", None, 400, "$.reason"),
        ("DELETE", "cpes/jinan-1?reason=%0A", None, 400, "$.reason"),
    ],
)
def test_an_order_that_cannot_be_is_refused_and_changes_nothing(
    ready: World, method: str, path: str, body: Any, status: int, said: str
) -> None:
    operator = Client(application_of(ready, POMP))
    before = ready.dump(POMP)
    reply = operator.order(method, f"/operations/v1/{path}", "k", json=body)
    assert (reply.status, bool(reply.problem)) == (status, True)
    assert said in (reply.json()["detail"] + reply.json().get("code", ""))
    assert ready.dump(POMP) == before


def test_a_line_that_does_not_run_is_neither_deleted_nor_rekeyed(ready: World) -> None:
    operator = Client(application_of(ready, POMP))
    operator.order("POST", "/operations/v1/accounts", "account", json={"name": "bank"})
    operator.order("POST", "/operations/v1/lines", "line", json=LINE_ORDER)
    assert operator.order("DELETE", "/operations/v1/lines/line-1", "d").json()["code"] == "NOT_CONFIRMED"
    assert operator.order("POST", "/operations/v1/lines/line-1/rekeys", "r").json()["code"] == "UNDER_WAY"
    assert operator.order("POST", "/operations/v1/lines", "again", json=LINE_ORDER).json()["code"] == "LINE_EXISTS"


def test_a_pomp_without_a_pmp_takes_no_orders(ready: World) -> None:
    client = Client(application_of(ready, POMP, deployment=dataclasses.replace(DEPLOYMENT, terms=None)))
    reply = client.order("POST", "/operations/v1/cpes", "k", json={**DEVICE, "cpe": "cpe/another"})
    assert (reply.status, reply.problem) == (503, "not-ready")


def test_a_trace_that_is_none_is_ignored(newcomer: Client) -> None:
    reply = newcomer.order("POST", "/operations/v1/cpes", "k", headers={"traceparent": "nonsense"}, json=DEVICE)
    assert reply.status == 202
    assert reply.json()["traceparent"] != "nonsense"


def test_an_order_lives_ten_minutes(newcomer: Client) -> None:
    shown = newcomer.order("POST", "/operations/v1/cpes", "k", json=DEVICE).json()
    assert shown["deadline"] - shown["started_at"] == 600_000_000
