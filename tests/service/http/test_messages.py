"""Datagrams over HTTP: the story of the paper's two figures through the applications, and every way to be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import msgspec
import pytest
from structlog.testing import capture_logs
from tests.service.http.driver import Client, DirectWorker, Reply, application_of
from tests.world import World

from qsotn import errors, wire
from qsotn.app.province import CPE_A, CPE_B, KM_A, LINE, PMP, POMP, QSSP_A, QSSP_B
from qsotn.domain import PartyId, ProcedureId, Role, role_of
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.runtime.admission import Bearer
from qsotn.service.http.framing import LARGEST_SEQUENCE, MOST_DATAGRAMS
from qsotn.service.repeating import Defect
from qsotn.service.taking import Receipts
from qsotn.service.worker import Overloaded

SEQUENCE = {"content-type": "application/cbor-seq"}
PROCEDURE = ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7")


def post(application: Any, party: PartyId, interface: str, *datagrams: bytes) -> Reply:
    """Hand over datagrams as one peer."""
    body = b"".join(map(cbor2.dumps, datagrams))
    return Client(application, party)("POST", f"/{interface}/v1/messages", headers=SEQUENCE, body=body)


class Http:
    """`ports.Transport` over the applications of a world. A device has no address: what is for it goes straight in."""

    def __init__(self, world: World) -> None:
        self.nodes = world.nodes
        self.applications = {
            party: application_of(world, party) for party in world.nodes if role_of(party) is not Role.CPE
        }
        self.replies: list[Reply] = []

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        if role_of(next_hop) is Role.CPE:
            self.nodes[next_hop].receive(datagram)
            return
        interface = wire.unpack(datagram).interface.lower()
        reply = post(self.applications[next_hop], sender, interface, datagram)
        self.replies.append(reply)
        if reply.status != 202:
            raise errors.LineError(reply.body.decode())


@pytest.fixture
def over_http(open_world: Callable[..., World]) -> tuple[World, Http]:
    """A province in which nothing has begun, joined by HTTP alone."""
    world = open_world("provisioned")
    http = Http(world)
    world.wire.send = http.send  # type: ignore[method-assign]  # from here on the wire is HTTP
    return world, http


def test_two_devices_and_a_line_come_into_service_over_http(over_http: tuple[World, Http]) -> None:
    world, http = over_http
    operator = Client(http.applications[POMP])
    for cpe, serial, home in ((CPE_A, "QS-2026-000001", QSSP_A), (CPE_B, "QS-2026-000002", QSSP_B)):
        asked = {"cpe": cpe, "serial_number": serial, "home_qssp": home}
        assert operator.order("POST", "/operations/v1/cpes", cpe.replace("/", "-"), json=asked).status == 202
    world.settle()
    assert [world.device_state(cpe) for cpe in (CPE_A, CPE_B)] == [DeviceState.READY] * 2
    operator.order("POST", "/operations/v1/accounts", "account", json={"name": "bank"})
    ordered = {"line": LINE, "account": "bank", "cpe_a": CPE_A, "cpe_b": CPE_B}
    quality = {"odu": "ODU2", "rekey_interval_s": 60, "max_latency_us": 5000}
    reply = operator.order("POST", "/operations/v1/lines", "line", json=ordered | quality)
    world.settle()
    world.connect()
    world.encrypt()
    assert world.line_state() is LineState.ENCRYPTED
    assert operator("GET", reply.headers["location"]).json()["state"] == "COMPLETED"
    assert {reply.status for reply in http.replies} == {202}
    assert len(http.replies) > 50


def test_an_answer_says_where_its_procedure_is_found(over_http: tuple[World, Http]) -> None:
    world, http = over_http
    world.initialize(CPE_A)
    world.settle()
    (first, *_) = http.replies
    (receipt,) = first.json()["receipts"]
    assert receipt == {"status": 202, "title": "taken", "detail": "", "procedure": receipt["procedure"]}
    assert first.headers["location"] == f"/ioa/v1/procedures/{receipt['procedure']}"
    shown = Client(http.applications[PMP], POMP)("GET", first.headers["location"]).json()
    assert (shown["state"], shown["ladder"], shown["awaits"]) == ("COMPLETED", "initialization", [])
    assert Client(http.applications[PMP], PartyId("pomp/hebei"))("GET", first.headers["location"]).status == 404


def test_what_a_courier_takes_belongs_to_no_procedure_it_knows(over_http: tuple[World, Http]) -> None:
    world, http = over_http
    world.initialize(CPE_A)
    world.settle()
    (request,) = [sent for sent in http.replies if sent.json()["receipts"][0]["procedure"] == ""][:1]
    assert (request.status, request.headers.get("location")) == (202, None)


def test_a_neighbour_is_told_what_is_awaited_and_not_whom_it_is_about(ready: World) -> None:
    procedure = ready.order_line()
    for _ in range(3):
        ready.pump()
    neighbour = Client(application_of(ready, PMP), POMP)
    path = f"/ioa/v1/procedures/{procedure}"
    shown = neighbour("GET", path)
    assert shown.json()["state"] == "RUNNING"
    assert all(" from " in awaited for awaited in shown.json()["awaits"])
    assert b"line-1" not in shown.body
    assert neighbour("GET", path, headers={"if-none-match": shown.headers["etag"]}).status == 304
    (listed,) = [one for one in neighbour("GET", "/ioa/v1/procedures").json()["items"] if one["state"] == "RUNNING"]
    assert listed == shown.json()


# --- who hands over what --------------------------------------------------------------------------------------------


def first_datagram(world: World, sender: PartyId, receiver: PartyId) -> bytes:
    """The first datagram that one party would send another."""
    with world.province.stores[sender].transaction() as transaction:
        for posted in transaction.lease(world.clock(), world.clock() + 1, 64):
            if wire.unpack(posted.datagram).receiver == receiver:
                return posted.datagram
    raise AssertionError(f"{sender} has nothing for {receiver}")


@pytest.fixture
def ordered(ready: World) -> tuple[World, bytes]:
    """A line was ordered; the POMP's first datagram, to the PMP over Ioa, is on its way."""
    ready.order_line()
    return ready, first_datagram(ready, POMP, PMP)


@pytest.mark.parametrize(
    ("party", "host", "interface", "status", "problem"),
    [
        (POMP, PMP, "ioa", 202, None),
        (PartyId("pomp/hebei"), PMP, "ioa", 403, "wrong-party"),
        (QSSP_A, PMP, "ioa", 403, "forbidden"),
        (QSSP_A, PMP, "iqssp", 403, "wrong-party"),
        (CPE_A, PMP, "ax", 403, "wrong-party"),
        (POMP, QSSP_A, "ioq", 403, "wrong-party"),
    ],
)
def test_a_datagram_is_taken_from_its_sender_on_its_interface_alone(
    ordered: tuple[World, bytes], party: PartyId, host: PartyId, interface: str, status: int, problem: str | None
) -> None:
    world, datagram = ordered
    reply = post(application_of(world, host), party, interface, datagram)
    assert reply.status == status
    assert problem is None or reply.problem == problem


def test_the_courier_hands_over_what_it_did_not_send(ready: World) -> None:
    sealed = wire.encode(wire.Datagram("Iaq", CPE_A, QSSP_A, b"sealed"))
    host = application_of(ready, PMP)
    assert post(host, CPE_A, "iaq", sealed).status == 202
    assert post(host, CPE_B, "iaq", sealed).problem == "wrong-party"
    assert post(application_of(ready, QSSP_A), PMP, "iaq", sealed).problem == "bad-proof"
    assert post(application_of(ready, QSSP_A), CPE_A, "iaq", sealed).problem == "forbidden"


def test_the_same_datagram_gets_its_receipt_again(ordered: tuple[World, bytes]) -> None:
    world, datagram = ordered
    host = application_of(world, PMP)
    assert post(host, POMP, "ioa", datagram) == post(host, POMP, "ioa", datagram)


def test_each_datagram_is_taken_or_refused_by_itself(ordered: tuple[World, bytes]) -> None:
    world, datagram = ordered
    foreign = wire.encode(msgspec.structs.replace(wire.unpack(datagram), interface="Ioq"))
    reply = post(application_of(world, PMP), POMP, "ioa", b"noise", datagram, foreign, datagram)
    assert (reply.status, reply.headers.get("location")) == (202, None)
    receipts = reply.json()["receipts"]
    assert [receipt["status"] for receipt in receipts] == [400, 202, 403, 202]
    assert [bool(receipt["procedure"]) for receipt in receipts] == [False, True, False, True]
    assert "Ioq" in receipts[2]["detail"]


# --- every refusal --------------------------------------------------------------------------------------------------


class Scripted(DirectWorker):
    """A desk that says what it is told to."""

    refusal: Exception = errors.OutOfOrder("not now")

    async def receive(self, datagrams: Any, bearer: Bearer) -> Receipts:
        assert bearer == Bearer(POMP, "Ioa")
        if isinstance(self.refusal, Overloaded):
            raise self.refusal
        refused = {position: self.refusal for position in range(len(datagrams)) if datagrams[position] != b"good"}
        taken = {position: PROCEDURE for position in range(len(datagrams)) if position not in refused}
        return Receipts(taken, refused)  # type: ignore[arg-type]  # a defect is refused as what it is


@pytest.fixture
def scripted(province: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tests.service.http.driver.DirectWorker", Scripted)
    return application_of(province, PMP)


@pytest.mark.parametrize(
    ("refusal", "status", "retry"),
    [
        (errors.MalformedMessage("x"), 400, None),
        (errors.BadSignature("x"), 403, None),
        (errors.BadProof("x"), 403, None),
        (errors.WrongParty("x"), 403, None),
        (errors.ReplayedMessage("x"), 409, None),
        (errors.OutOfOrder("x"), 409, "1"),
        (errors.ExpiredMessage("x"), 410, None),
        (errors.StoreError("x"), 503, "2"),
        (Overloaded("x"), 503, "1"),
        (Defect("secret"), 500, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_one_datagram_that_is_refused_is_a_problem(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, refusal: Exception, status: int, retry: str | None
) -> None:
    monkeypatch.setattr(Scripted, "refusal", refusal)
    with capture_logs():
        reply = post(scripted, POMP, "ioa", b"bad")
    assert (reply.status, reply.headers.get("retry-after")) == (status, retry)
    assert reply.problem
    assert b"secret" not in reply.body


def test_a_defect_among_several_is_logged_and_told_without_its_text(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "refusal", Defect("secret"))
    with capture_logs() as log:
        reply = post(scripted, POMP, "ioa", b"good", b"bad")
    good, bad = reply.json()["receipts"]
    assert (good["status"], good["procedure"], bad["status"]) == (202, PROCEDURE, 500)
    assert b"secret" not in reply.body
    assert log[0]["traceback"].endswith("Defect: secret\n")


@pytest.mark.parametrize(
    ("headers", "body", "status", "problem"),
    [
        (SEQUENCE, b"", 400, "malformed-message"),
        (SEQUENCE, b"\x41", 400, "malformed-message"),
        (SEQUENCE, b"\x40" * (MOST_DATAGRAMS + 1), 413, "content-too-large"),
        (SEQUENCE, b"\x5a\x00\x40\x00\x01" + bytes(4 * 1024 * 1024 + 1), 413, "content-too-large"),
        ({**SEQUENCE, "content-length": str(LARGEST_SEQUENCE + 1)}, b"", 413, "content-too-large"),
        ({"content-type": "application/cbor"}, b"\x40", 415, "unsupported-media-type"),
        ({}, b"\x40", 415, "unsupported-media-type"),
    ],
)
def test_what_is_no_sequence_of_datagrams_reaches_no_desk(
    province: World, headers: dict[str, str], body: bytes, status: int, problem: str
) -> None:
    neighbour = Client(application_of(province, PMP), POMP)
    reply = neighbour("POST", "/ioa/v1/messages", headers=headers, body=body)
    assert (reply.status, reply.problem) == (status, problem)


def test_a_query_is_refused(province: World) -> None:
    neighbour = Client(application_of(province, KM_A), QSSP_A)
    assert neighbour("POST", "/ak/v1/messages?x=1", headers=SEQUENCE, body=b"\x40").status == 400
