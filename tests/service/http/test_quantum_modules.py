"""What QKD modules ask of their key manager: for their own link, each key once, and no bit where it may be read."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.service.http.driver import Client, Reply, application_of
from tests.world import World

from qsotn.app.province import KM_A, KM_RELAY, LINK_A, LINK_B
from qsotn.domain import PartyId, Secret
from qsotn.parties.km import BlockState
from qsotn.quantum.ledger import BlockLedger
from qsotn.service import link_keys
from qsotn.service.http.quantum_modules import _LEDGER_EXAMPLE, Block, ExchangeKey, FirstKeys
from qsotn.service.link_keys import AUTHENTICATION_BYTES, POOL_DEPTH

MODULE = PartyId(f"qkd/{LINK_A}")
LINK = f"/kq/v1/links/{LINK_A}"
KEYS = [bytes([number]) * AUTHENTICATION_BYTES for number in range(1, POOL_DEPTH + 1)]
LEDGER: dict[str, Any] = msgspec.to_builtins(_LEDGER_EXAMPLE)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def first_keys(keys: list[bytes]) -> dict[str, Any]:
    return {"keys": [text(key) for key in keys]}


def block(number: int, key: bytes = bytes(range(256)) * 16, withheld: bytes = b"w" * AUTHENTICATION_BYTES) -> Any:
    return {"number": number, "key": text(key), "withheld": text(withheld), "ledger": LEDGER}


@pytest.fixture
def dark(open_world: Callable[..., World]) -> World:
    """A province whose links have not distilled anything."""
    world = open_world("provisioned")
    for party in (KM_A, KM_RELAY):
        connection = world.province.stores[party]._connection
        connection.execute("DELETE FROM records WHERE collection IN ('key-blocks', 'key-units', 'closed-blocks')")
    return world


@pytest.fixture
def module(dark: World) -> Client:
    """The module of the link between Jinan and Weifang, at Jinan."""
    return Client(application_of(dark, KM_A), MODULE)


def installed(module: Client) -> Client:
    assert module("PUT", f"{LINK}/first-keys", json=first_keys(KEYS)).status == 204
    return module


def begin(module: Client, number: int) -> Reply:
    return module("POST", f"{LINK}/exchanges", json={"number": number})


# --- whose link -------------------------------------------------------------------------------------------------------

ASKED: dict[str, tuple[str, str, Any]] = {
    "status": ("GET", "", None),
    "first keys": ("PUT", "/first-keys", first_keys(KEYS)),
    "an exchange": ("POST", "/exchanges", {"number": 1}),
    "a block": ("POST", "/blocks", block(1)),
    "a measurement": ("PUT", "/measurement", {"error_rate": 0.02, "distils": True}),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(
    ("party", "link", "status", "kind"),
    [
        (PartyId(f"qkd/{LINK_B}"), LINK_A, 403, "forbidden"),
        (MODULE, LINK_B, 403, "forbidden"),  # the relay has this link too: it is not this module's
        (PartyId("qkd/nowhere"), "nowhere", 404, "not-found"),
        (KM_A, LINK_A, 403, "forbidden"),
        (PartyId("operator/alice"), LINK_A, 403, "forbidden"),
    ],
)
def test_a_module_has_to_do_with_its_own_link_alone(
    dark: World, name: str, party: PartyId, link: str, status: int, kind: str
) -> None:
    before = dark.dump(KM_RELAY)
    method, path, body = ASKED[name]
    reply = Client(application_of(dark, KM_RELAY), party)(method, f"/kq/v1/links/{link}{path}", json=body)
    assert (reply.status, reply.problem) == (status, kind)
    assert dark.dump(KM_RELAY) == before


# --- once -------------------------------------------------------------------------------------------------------------


def test_a_link_tells_how_it_stands(dark: World, module: Client) -> None:
    def status() -> Any:
        return module("GET", LINK).json()

    assert status() == {"link": LINK_A, "available_bits": 0, "last_exchange": 0, "keys": []}
    installed(module)
    begin(module, 1)
    module("POST", f"{LINK}/blocks", json=block(1))
    kept = list(range(2, POOL_DEPTH + 2))
    assert status() == {"link": LINK_A, "available_bits": 0, "last_exchange": 1, "keys": kept}
    with dark.desk(KM_A) as km:
        km.set_state(km.block(LINK_A, 1), BlockState.AVAILABLE)
    assert status()["available_bits"] == 4096 * 8 // 2  # this end's half


def test_an_exchange_burns_its_key_once_and_those_it_passed_over(dark: World, module: Client) -> None:
    installed(module)
    for number in (1, 2, 5):
        reply = begin(module, number)
        assert reply.json() == {"number": number, "key": text(KEYS[number - 1])}
        for again in range(1, number + 1):
            refused = begin(module, again)
            assert (refused.status, refused.problem, refused.json()["code"]) == (409, "refused", "REPLAYED")
    with dark.desk(KM_A) as km:
        pool = [key for key, _ in km.desk.transaction.scan("link-authentication")]
    assert pool == [f"{LINK_A}/{number:08}" for number in range(6, POOL_DEPTH + 1)]


def test_an_exchange_without_a_key_is_refused_and_has_not_begun(module: Client) -> None:
    for number in (1, POOL_DEPTH + 1):
        reply = begin(module, number)
        assert (reply.status, reply.problem) == (409, "key-shortage")
        assert module("GET", LINK).json()["last_exchange"] == 0
        installed(module)
    assert begin(module, POOL_DEPTH).status == 200


def test_first_keys_may_be_brought_again_until_an_exchange_begins_and_never_after(module: Client) -> None:
    """One end may have got keys that the other never got: until one is used, both are given others."""
    others = [key[::-1].translate(bytes(range(255, -1, -1))) for key in KEYS]
    installed(module)
    assert module("PUT", f"{LINK}/first-keys", json=first_keys(others)).status == 204
    assert begin(module, 1).json()["key"] == text(others[0])
    assert module("PUT", f"{LINK}/first-keys", json=first_keys(KEYS)).status == 204
    assert begin(module, 1).status == 409
    assert begin(module, 2).json()["key"] == text(others[1])


def test_a_block_is_deposited_once_and_withholds_the_key_of_a_later_exchange(dark: World, module: Client) -> None:
    installed(module)
    begin(module, 1)
    assert module("POST", f"{LINK}/blocks", json=block(1)).status == 204
    before = dark.dump(KM_A)
    reply = module("POST", f"{LINK}/blocks", json=block(1, bytes(4096), b"x" * AUTHENTICATION_BYTES))
    assert (reply.status, reply.problem, reply.json()["code"]) == (409, "refused", "REPLAYED")
    assert dark.dump(KM_A) == before
    assert begin(module, POOL_DEPTH + 1).json()["key"] == text(b"w" * AUTHENTICATION_BYTES)


def test_a_block_of_an_exchange_that_never_began_is_refused(dark: World, module: Client) -> None:
    installed(module)
    before = dark.dump(KM_A)
    reply = module("POST", f"{LINK}/blocks", json=block(1))
    assert (reply.status, reply.json()["code"]) == (409, "NOT_BEGUN")
    assert dark.dump(KM_A) == before


def test_the_end_whose_name_sorts_first_tells_the_other_of_its_block(dark: World, module: Client) -> None:
    far = Client(application_of(dark, KM_RELAY), MODULE)
    for end in (module, far):
        installed(end)
        begin(end, 1)
        assert end("POST", f"{LINK}/blocks", json=block(1)).status == 204
    dark.settle()
    for party in (KM_A, KM_RELAY):
        with dark.desk(party) as km:
            assert km.block(LINK_A, 1).state is BlockState.AVAILABLE


def test_ends_that_were_brought_different_blocks_discard_them(dark: World, module: Client) -> None:
    far = Client(application_of(dark, KM_RELAY), MODULE)
    for end, key in ((module, bytes(4096)), (far, bytes(4095) + b"\1")):
        installed(end)
        begin(end, 1)
        assert end("POST", f"{LINK}/blocks", json=block(1, key)).status == 204
    dark.settle()
    for party in (KM_A, KM_RELAY):
        with dark.desk(party) as km:
            assert km.block(LINK_A, 1).state is BlockState.DISCARDED
            assert km.available_bits(LINK_A) == 0


# --- never to be read -------------------------------------------------------------------------------------------------

MARK = b"this key must show nowhere!!".ljust(AUTHENTICATION_BYTES, b"#")
SHOWN = (MARK, MARK[:24], base64.b64encode(MARK)[:20], MARK.hex().encode()[:20])

BENT: dict[str, tuple[str, str, Any, int]] = {
    "too few first keys": ("PUT", "/first-keys", first_keys([MARK]), 422),
    "a first key too short": ("PUT", "/first-keys", first_keys([*KEYS[1:], MARK[:-1]]), 422),
    "a field nobody declared": ("PUT", "/first-keys", {**first_keys([MARK] * POOL_DEPTH), "more": text(MARK)}, 422),
    "a block without a ledger": ("POST", "/blocks", {**block(1, MARK * 8, MARK), "ledger": None}, 422),
    "a block without a number": ("POST", "/blocks", {**block(1, MARK * 8, MARK), "number": text(MARK)}, 422),
    "a key that is no base64": ("POST", "/blocks", {**block(1, b"", MARK), "key": "§" + text(MARK)}, 422),
    "a block for an exchange that never began": ("POST", "/blocks", block(3, MARK * 8, MARK), 409),
    "a block too large": ("POST", "/blocks", block(1, MARK * 1024, MARK), 413),
}


@pytest.mark.parametrize("name", BENT)
def test_no_problem_and_no_log_shows_a_bit_of_a_key(module: Client, name: str) -> None:
    method, path, body, status = BENT[name]
    with capture_logs() as logs:
        reply = module(method, f"{LINK}{path}", json=body)
    assert reply.status == status
    assert reply.problem
    seen = reply.body + repr(logs).encode()
    assert not any(shown in seen for shown in SHOWN)


def test_a_defect_shows_no_bit_of_a_key_either(module: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(module)
    begin(module, 1)

    def stumble(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(link_keys, "deposit", stumble)
    with capture_logs() as logs:
        reply = module("POST", f"{LINK}/blocks", json=block(1, MARK * 8, MARK))
    assert (reply.status, reply.problem) == (500, "internal-error")
    seen = reply.body + repr(logs).encode()
    assert logs
    assert not any(shown in seen for shown in SHOWN)


def test_what_holds_keys_shows_none_of_them() -> None:
    ledger = msgspec.convert(LEDGER, BlockLedger)
    holders = [FirstKeys((MARK,) * POOL_DEPTH), ExchangeKey(1, MARK), Block(1, MARK * 8, MARK, ledger), Secret(MARK)]
    for holder in holders:
        assert not any(shown in f"{holder!r} {holder}".encode() for shown in SHOWN)
    assert repr(holders[0]) == "FirstKeys(…)"


def test_the_store_holds_authentication_keys_wrapped(dark: World, module: Client) -> None:
    assert module("PUT", f"{LINK}/first-keys", json=first_keys([MARK] * POOL_DEPTH)).status == 204
    stored = repr(dark.dump(KM_A)).encode()
    assert not any(shown in stored for shown in SHOWN)
