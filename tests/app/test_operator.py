"""An operator at a province: asks once however often it must, waits in sight, and says clearly what went wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.app.served_world import ADVICE, as_operator, served
from tests.world import World

from qsotn.adapters.tls.trust import Trust, TrustFiles
from qsotn.app import operator as app_operator
from qsotn.app import operator_orders as orders
from qsotn.app.installation import create_installation
from qsotn.app.operator import Operator
from qsotn.app.operator_errors import Busy, Declined, StillRunning, Unanswered, Unreachable
from qsotn.app.operator_keys import key_status
from qsotn.app.operator_orders import LineWishes, line_order
from qsotn.app.plan import sample_file
from qsotn.app.province import ACCOUNT, CPE_A, CPE_B, KM_A, KM_RELAY, LINE, POMP, QSSP_B
from qsotn.app.record import operator_tls
from qsotn.console import cpe as cpe_console
from qsotn.console import key as key_console
from qsotn.console import line as line_console
from qsotn.domain import LineId, PartyId, Role
from qsotn.errors import LineError, Refusal, UsageError
from qsotn.parties import cpe as cpe_records
from qsotn.parties.pomp import Account, DeviceState
from qsotn.procedures.turn import State
from qsotn.service.http.operations_pomp import AccountOrder, DeviceStatus
from qsotn.service.http.procedures import PROCEDURE_EXAMPLE, Procedure

PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions follow at once."""
    monkeypatch.setattr(app_operator, "PAUSES_S", (0.01, 0.01, 0.01))


# --- asking ---------------------------------------------------------------------------------------------------------


def test_an_order_whose_answer_is_lost_is_sent_again_and_begun_once(ready: World) -> None:
    async def run() -> None:
        async with served(ready, work=lambda: None) as one:
            one.faults.lost_answers = 2
            await one.operator.order("POST", "/accounts", AccountOrder("bank"), Account)
            begun = await orders.revoke_device(one.operator, CPE_A, "lost, 100% & /")
            sent = one.faults.asked
        assert [method for method, _, _ in sent] == ["POST"] * 3 + ["DELETE"]
        assert len({key for _, _, key in sent[:3]}) == 1, "the same order"
        assert sent[3][2] != sent[0][2], "another order"
        with ready.desk(POMP) as pomp:
            assert [account.name for account in pomp.accounts.values()] == ["bank"]
            assert pomp.devices.require(CPE_A).failure == "lost, 100% & /"
        with ready.nodes[POMP].rows() as rows:
            assert [row.procedure for row in rows if row.ladder == "revocation"] == [begun.procedure]

    asyncio.run(run())


def test_a_line_ordered_over_a_bad_connection_exists_once(ready: World) -> None:
    async def run() -> Procedure:
        async with served(ready, work=lambda: None) as one:
            await orders.open_account(one.operator, "default")
            one.faults.lost_answers = 1
            return await orders.order_line(one.operator, line_order(wishes()))

    begun = asyncio.run(run())
    with ready.nodes[POMP].rows() as rows:
        assert [row.procedure for row in rows if row.ladder == "leased-line"] == [begun.procedure]


def test_a_refused_order_says_code_and_detail(ready: World) -> None:
    with pytest.raises(Refusal, match=r"^UNKNOWN_ACCOUNT: no account 'default'$"):
        as_operator(ready, lambda operator: orders.order_line(operator, line_order(wishes())))


def test_what_is_not_there_is_declined_in_the_services_own_words(ready: World) -> None:
    with pytest.raises(Declined, match=r"pomp/shandong: there is no line 'line-9' here"):
        as_operator(ready, lambda operator: orders.line_view(operator, LineId("line-9")))


def test_a_service_that_is_not_there_is_named_with_its_url_and_asked_once(ready: World) -> None:
    with pytest.raises(Unreachable) as told:
        as_operator(ready, orders.devices, without=[POMP])
    assert str(told.value) == f"{POMP} is not reached at http://127.0.0.1:1: Connection refused; {ADVICE}"


def test_another_replica_answers_for_one_that_is_gone(ready: World) -> None:
    found = as_operator(ready, orders.devices, replicas=["http://127.0.0.1:1"])
    assert [device.cpe for device in found] == [CPE_A, CPE_B]


def test_a_list_longer_than_a_page_is_read_to_its_end(ready: World) -> None:
    names = [f"customer-{number:03}" for number in range(205)]
    with ready.desk(POMP) as pomp:
        for name in names:
            pomp.open_account(name)
    assert [account.name for account in as_operator(ready, orders.accounts)] == names


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def asking(answers: Sequence[web.Response | None], act: Callable[[Operator], Awaitable[Any]]) -> Any:
    """Ask a service that gives these answers in turn, the last one ever after; None breaks the connection."""
    given = iter(answers)

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = next(given, answers[-1])
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def run() -> Any:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handle)
        async with TestServer(application) as server:
            urls = {POMP: (str(server.make_url("")).rstrip("/"),)}
            async with Operator(urls, lambda _: True) as operator:
                return await act(operator)

    return asyncio.run(run())


def answer(shown: object, status: int = 200, **headers: str) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(shown), headers=headers)


def procedure(state: State, failure: str = "") -> web.Response:
    return answer(msgspec.structs.replace(PROCEDURE_EXAMPLE, state=state, failure=failure))


TOO_MUCH = {"type": "about:blank", "title": "Too much", "status": 503, "detail": "too much to do"}
BUSY = answer(TOO_MUCH, 503, **{"Retry-After": "0"})
NO_PROBLEM = web.Response(status=500, text="<html>")


def test_a_busy_service_is_asked_again() -> None:
    found = asking([BUSY, answer({"items": [], "next_cursor": None})], orders.devices)
    assert found == []


@pytest.mark.parametrize(
    ("answers", "error", "told"),
    [
        ([BUSY], Busy, "cannot serve now: too much to do"),
        ([None], Unanswered, "gave no answer"),
        ([NO_PROBLEM], Declined, "status 500 without a problem document"),
        ([answer({"items": 3})], LineError, "answered .* with something else than it should"),
    ],
)
def test_a_service_that_does_not_do_its_part_is_told(
    answers: list[web.Response | None], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        asking(answers, orders.devices)


# --- waiting --------------------------------------------------------------------------------------------------------


def test_waiting_shows_what_is_awaited_and_ends_with_the_procedure() -> None:
    seen: list[Procedure] = []
    states = [procedure(State.RUNNING), procedure(State.RUNNING), procedure(State.COMPLETED)]
    ended = asking(states, lambda operator: operator.ended(PROCEDURE_EXAMPLE.procedure, PATIENCE_S, seen.append))
    assert ended.state is State.COMPLETED
    assert [one.state for one in seen] == [State.RUNNING, State.RUNNING, State.COMPLETED]
    assert seen[0].parts[0].awaits == ("4 from pmp",)


def test_waiting_outlasts_a_pomp_that_does_not_answer_for_a_while() -> None:
    states = [procedure(State.RUNNING), *[None] * 16, procedure(State.COMPLETED)]
    ended = asking(states, lambda operator: operator.ended(PROCEDURE_EXAMPLE.procedure, PATIENCE_S))
    assert ended.state is State.COMPLETED


def test_waiting_ends_with_its_patience_and_leaves_the_procedure_alone() -> None:
    with pytest.raises(StillRunning, match=r"has not ended within 0.1 s; it goes on"):
        asking([procedure(State.RUNNING)], lambda operator: operator.ended(PROCEDURE_EXAMPLE.procedure, 0.1))


# --- names and defaults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["jinan-1", "cpe/jinan-1"])
def test_a_device_may_be_named_with_or_without_its_role(typed: str) -> None:
    assert orders.party_named(typed, Role.CPE) == "cpe/jinan-1"


@pytest.mark.parametrize("typed", ["", "cpe/", "qssp/jinan", "a b", "a/b", "ü", "x" * 57])
def test_what_names_no_device_is_refused_before_anybody_is_asked(typed: str) -> None:
    with pytest.raises(UsageError, match="names no cpe"):
        orders.party_named(typed, Role.CPE)


def wishes(**other: Any) -> LineWishes:
    asked: dict[str, Any] = {
        "name": LINE,
        "ends": ("jinan-1", "cpe/qingdao-1"),
        "account": None,
        "odu": "ODU2",
        "rekey_interval_s": 60,
        "max_latency_us": 5000,
    }
    return LineWishes(**(asked | other))


@pytest.mark.parametrize(
    "wrong", [{"odu": "ODU9"}, {"rekey_interval_s": 0}, {"max_latency_us": 0}, {"account": "a b"}, {"name": "a b"}]
)
def test_a_line_that_cannot_be_is_refused_before_anybody_is_asked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        line_order(wishes(**wrong))


def test_a_line_without_a_name_takes_the_first_that_was_never_used(encrypted: World) -> None:
    assert as_operator(encrypted, orders.free_line_name) == "line-2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A province's folder, as `qsotn init` makes it."""
    place = tmp_path_factory.mktemp("installed")
    file, state = place / "province.toml", place / "state"
    file.write_text(sample_file().read_text().replace("first_port = 7400", "first_port = 0"))
    create_installation(file, state, os.urandom, dt.datetime.now(dt.UTC))
    return state


@pytest.mark.parametrize(
    ("name", "serial", "home", "order"),
    [
        ("jinan-1", None, None, ("cpe/jinan-1", "QS-2026-000001", "qssp/jinan")),
        ("jinan-1", "QS-9", None, ("cpe/jinan-1", "QS-9", "qssp/jinan")),
        ("x-7", "QS-7", "qingdao", ("cpe/x-7", "QS-7", "qssp/qingdao")),
    ],
)
def test_what_is_not_typed_of_a_device_stands_in_the_province_file(
    folder: Path, name: str, serial: str | None, home: str | None, order: tuple[str, str, str]
) -> None:
    made = orders.device_order(folder, name, serial, home)
    assert (made.cpe, made.serial_number, made.home_qssp) == order


def test_a_device_that_stands_nowhere_must_be_described(folder: Path) -> None:
    with pytest.raises(UsageError, match="give its --serial and its --home"):
        orders.device_order(folder, "x-7", "QS-7", None)


def test_revoking_puts_the_device_on_the_list_that_everybody_has(folder: Path, tmp_path: Path) -> None:
    def trust() -> Trust:
        files = operator_tls(folder)
        four = (files.operator_root, files.manufacturer_root, files.operator_list, files.manufacturer_list)
        return Trust(TrustFiles(*four), lambda: dt.datetime.now(dt.UTC), lambda _: None)

    before = trust()
    assert orders.revoke_device_certificate(folder, CPE_A, os.urandom, dt.datetime.now(dt.UTC))
    assert before.reload_if_changed()
    assert not orders.revoke_device_certificate(tmp_path, CPE_A, os.urandom, dt.datetime.now(dt.UTC)), "no roots here"


# --- the whole of it, over a real province --------------------------------------------------------------------------


def test_key_status_is_what_the_stores_say_and_names_who_could_not_be_asked(encrypted: World) -> None:
    status = as_operator(encrypted, lambda operator: key_status(operator, 24_576, "127.0.0.1:1"), without=[QSSP_B])
    assert [(one.link, one.km) for one in status.links][:2] == [("jinan-weifang", KM_A), ("jinan-weifang", KM_RELAY)]
    with encrypted.desk(KM_A) as km:
        assert status.links[0].available_bits == km.available_bits("jinan-weifang") > 0
    assert [(one.cpe, one.entries - one.left) for one in status.key_files] == [(CPE_A, 1)]
    assert [(one.line, one.cpe, one.in_service, one.keys_drawn) for one in status.lines] == [(LINE, CPE_A, True, 2)]
    assert [one.party for one in status.unreached] == [QSSP_B]
    assert status.twin.reason == "not reached at 127.0.0.1:1: Connection refused"


def test_a_line_is_shown_with_both_ends_own_word_even_if_one_is_silent(encrypted: World) -> None:
    view = as_operator(encrypted, lambda operator: orders.line_view(operator, LINE), without=[CPE_B])
    near, far = view.ends
    assert near.status is not None
    assert near.status.state is cpe_records.LineState.ENCRYPTED
    assert far.status is None
    assert "cpe/qingdao-1 is not reached at" in far.unreached


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the verbs operate on a world instead of a folder's province."""

    def install(world: World, work: Callable[[], object] | None = None) -> None:
        for module in (cpe_console, line_console, key_console):
            monkeypatch.setattr(module, "operate", lambda _, act: as_operator(world, act, work=work))

    return install


def test_a_device_is_added_listed_and_shown(
    open_world: Callable[..., World], here: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = open_world("provisioned")
    here(world)
    cpe_console.list_devices(folder, as_json=False)
    assert capsys.readouterr().out.startswith("No device was ordered yet; order one with: qsotn cpe add CPE")
    cpe_console.add_device(folder, "jinan-1", None, None, PATIENCE_S, as_json=True)
    done = json.loads(capsys.readouterr().out)
    assert (done["procedure"]["state"], done["device"]["state"]) == ("COMPLETED", "READY")
    cpe_console.add_device(folder, "cpe/qingdao-1", None, None, PATIENCE_S, as_json=False)
    assert capsys.readouterr().out.startswith("cpe/qingdao-1 is READY, bound to qssp/qingdao; its key file is ")
    cpe_console.list_devices(folder, as_json=False)
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["cpe", "serial", "number", "home", "state", "failure"]
    assert first.split() == ["cpe/jinan-1", "QS-2026-000001", "qssp/jinan", "READY"]
    assert second.startswith("cpe/qingdao-1")
    cpe_console.show_device(folder, "jinan-1", as_json=False)
    assert "64 of 64 entries left, by its own count" in capsys.readouterr().out


def test_an_order_that_nobody_waits_for_says_where_to_look(
    open_world: Callable[..., World], here: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here(open_world("provisioned"), lambda: None)
    cpe_console.add_device(folder, "jinan-1", None, None, None, as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith("Ordered: initialization ")
    assert shown.endswith(f" of cpe/jinan-1 is RUNNING; see: qsotn cpe show jinan-1 --state {folder}\n")


def test_a_procedure_that_fails_is_told_with_its_reason(
    encrypted: World, here: Callable[..., None], folder: Path
) -> None:
    here(encrypted)
    with pytest.raises(Refusal, match=r"^PORT_BUSY: leased-line .* of line-2 failed$"):
        line_console.create_line(folder, wishes(name=None), PATIENCE_S, as_json=False)


def test_a_line_is_created_rekeyed_shown_and_deleted(
    ready: World, here: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here(ready, lambda: carry(ready))
    line_console.create_line(folder, wishes(name=None), PATIENCE_S, as_json=False)
    assert capsys.readouterr().out == "line-1 is ENCRYPTED between cpe/jinan-1 and cpe/qingdao-1, over ODU2.\n"
    line_console.rekey(folder, LINE, PATIENCE_S, as_json=False)
    assert capsys.readouterr().out == "line-1 is encrypted with its generation 2 of keys.\n"
    line_console.show_line(folder, LINE, as_json=False)
    assert "keys in use generation 2, alarms none" in capsys.readouterr().out
    key_console.show_key_status(folder, as_json=False)
    assert "line-1  cpe/jinan-1    in service  4           4          2" in capsys.readouterr().out
    line_console.delete(folder, LINE, PATIENCE_S, as_json=True)
    done = json.loads(capsys.readouterr().out)
    assert (done["line"]["state"], done["usage"]["line"]) == ("DELETED", LINE)
    line_console.list_lines(folder, as_json=True)
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["DELETED"]


def carry(world: World) -> None:
    """What a province does between two requests: say what there is to say, and carry the line once it is there."""
    if world.line is None:
        with world.desk(CPE_A) as one, world.desk(CPE_B) as other:
            prepared = one.lines.get(LINE) is not None and other.lines.get(LINE) is not None
        if prepared:
            world.connect()
        world.pump()
    else:
        world.turn()


def test_a_revoked_device_is_shown_as_such(
    ready: World, here: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here(ready)
    cpe_console.revoke(tmp_path, "qingdao-1", "stolen", PATIENCE_S, as_json=True)
    shown = capsys.readouterr()
    assert "does not hold the province's roots" in shown.err
    done = json.loads(shown.out)
    assert done["certificate_revoked"] is False
    device = msgspec.convert(done["device"], DeviceStatus)
    assert (device.cpe, device.state, device.failure) == (PartyId("cpe/qingdao-1"), DeviceState.REVOKED, "stolen")


def test_an_account_is_opened_once(
    ready: World, here: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here(ready)
    for _ in range(2):
        line_console.open_customer(folder, ACCOUNT, as_json=False)
    assert capsys.readouterr().out.count(f"The account {ACCOUNT} is open since ") == 2
    line_console.list_accounts(folder, as_json=True)
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == [ACCOUNT]
