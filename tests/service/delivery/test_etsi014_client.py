"""The client of ETSI GS QKD 014: what it gets from an honest key manager, and that it takes nothing from others."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from structlog.testing import capture_logs
from tests.service.delivery.etsi014_world import (
    MASTER,
    SLAVE,
    STRANGER,
    THIRD,
    Certificates,
    MemoryDelivery,
    listener,
    make_certificates,
    served,
)

from qsotn.adapters.keysource.etsi014 import Etsi014Client
from qsotn.adapters.transport.http import Unavailable
from qsotn.domain import KeyId, Secret
from qsotn.errors import LineError, MalformedMessage, QsotnError, Refusal, WrongParty
from qsotn.service.delivery.http_protocol import Answer, Limits, Request
from qsotn.service.delivery.http_server import serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def client(port: int, context: ssl.SSLContext) -> Etsi014Client:
    return Etsi014Client(f"https://localhost:{port}/", lambda: context)


def test_both_ends_get_the_same_keys(certificates: Certificates) -> None:
    async def story() -> None:
        async with (
            served(MemoryDelivery(), certificates.server_context) as port,
            client(port, certificates.client(MASTER)) as master,
            client(port, certificates.client(SLAVE)) as slave,
            client(port, certificates.client(THIRD)) as third,
        ):
            assert (await master.status(SLAVE)).max_key_per_request == 128
            keys = await master.enc_keys(SLAVE, 5, 512, [THIRD])
            assert {len(ready.key) for ready in keys} == {64}
            wanted = [ready.key_id for ready in reversed(keys)]
            assert await slave.dec_keys(MASTER, wanted, 512) == tuple(reversed(keys))
            assert await third.dec_keys(MASTER, wanted, 512) == tuple(reversed(keys))

    asyncio.run(story())


Ask = Callable[[Etsi014Client], Awaitable[object]]
REFUSED: list[tuple[Ask, type[QsotnError], str]] = [
    (lambda one: one.dec_keys(SLAVE, [KeyId(str(uuid4()))], 256), Refusal, "KEYS_NOT_FOUND"),
    (lambda one: one.enc_keys(SLAVE, 1, 255), Refusal, "BAD_REQUEST: size shall be a multiple of 8"),
    (lambda one: one.enc_keys(SLAVE, 10**6, 256), Refusal, "BAD_REQUEST"),
    (lambda one: one.status("nobody"), Refusal, "BAD_REQUEST: no SAE nobody"),
]


@pytest.mark.parametrize(("ask", "kind", "text"), REFUSED)
def test_a_refusal_says_whose_fault_it_is(
    certificates: Certificates, ask: Ask, kind: type[QsotnError], text: str
) -> None:
    async def story() -> None:
        async with (
            served(MemoryDelivery(), certificates.server_context) as port,
            client(port, certificates.client(MASTER)) as master,
        ):
            with pytest.raises(kind, match=text):
                await ask(master)

    asyncio.run(story())


def test_who_is_nobody_there_and_who_is_to_wait_are_told_apart(certificates: Certificates) -> None:
    async def story() -> None:
        delivery = MemoryDelivery(failure=Refusal("KEY_SHORTAGE", "too few keys are ready"))
        async with served(delivery, certificates.server_context) as port:
            async with client(port, certificates.client(STRANGER)) as stranger:
                with pytest.raises(WrongParty, match="does not let this SAE"):
                    await stranger.status(SLAVE)
            async with client(port, certificates.client(MASTER)) as master:
                with pytest.raises(Unavailable, match="too few keys") as told:
                    await master.enc_keys(SLAVE, 1, 256)
                assert told.value.retry_after_s == 5
        async with client(port, certificates.client(MASTER)) as late:
            with pytest.raises(LineError, match="gave no answer"):
                await late.status(SLAVE)

    with capture_logs():
        asyncio.run(story())


# --- a key manager that is wrong --------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """Answers every request with one answer, and notes the requests."""

    given: Answer
    requests: list[Request] = field(default_factory=list)

    def greet(self, _: object) -> Scripted:
        return self

    async def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.given

    def problem(self, status: int, message: str) -> Answer:
        raise AssertionError(f"{status} {message}")


ONE, TWO = KeyId(str(uuid4())), KeyId(str(uuid4()))
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def container(*keys: tuple[str, bytes]) -> bytes:
    listed = [{"key_ID": key_id, "key": base64.b64encode(key).decode()} for key_id, key in keys]
    return json.dumps({"keys": listed}).encode()


def status_body(**changes: object) -> bytes:
    members = {
        "source_KME_ID": "a",
        "target_KME_ID": "b",
        "master_SAE_ID": MASTER,
        "slave_SAE_ID": SLAVE,
        "key_size": 256,
        "stored_key_count": 10,
        "max_key_count": 20,
        "max_key_per_request": 5,
        "max_key_size": 1024,
        "min_key_size": 64,
        "max_SAE_ID_count": 0,
    }
    return json.dumps({**members, **changes}).encode()


def enc(one: Etsi014Client) -> Awaitable[object]:
    return one.enc_keys(SLAVE, 2, 256)


def dec(one: Etsi014Client) -> Awaitable[object]:
    return one.dec_keys(MASTER, [ONE, TWO], 256)


def status(one: Etsi014Client) -> Awaitable[object]:
    return one.status(SLAVE)


WRONG: list[tuple[Ask, Answer, str]] = [
    (enc, Answer(200, container((ONE, KEY))), "1 keys came, 2 were asked for"),
    (enc, Answer(200, container((ONE, KEY), (TWO, OTHER), (str(uuid4()), b"x" * 32))), "3 keys came"),
    (enc, Answer(200, container((ONE, KEY), (ONE, OTHER))), "one key ID came twice"),
    (enc, Answer(200, container((ONE, KEY), (ONE.upper(), OTHER))), "one key ID came twice"),
    (enc, Answer(200, container((ONE, KEY), (TWO, KEY))), "one key came under two IDs"),
    (enc, Answer(200, container((ONE, KEY), (TWO, b""))), "an empty key came"),
    (enc, Answer(200, container((ONE, KEY), (TWO, OTHER[:31]))), "has 248 bits: expected 256"),
    (enc, Answer(200, container((ONE, KEY * 8), (TWO, OTHER * 8))), "has 2048 bits: expected 256"),
    (enc, Answer(200, container(("1", KEY), (TWO, OTHER))), "'1' is no UUID"),
    (enc, Answer(200, b'{"keys": []}'), "0 keys came"),
    (enc, Answer(200, b'{"keys": [{"key_ID": "a", "key": "?"}]}'), "not of the standard's form"),
    (enc, Answer(200, b"[" * 100_000), "not of the standard's form"),
    (enc, Answer(200, b"<html>"), "not of the standard's form"),
    (enc, Answer(200, b" " * (5 * 1024 * 1024)), "more than"),
    (enc, Answer(404, b'{"message": "no key"}'), "answered 404, which"),
    (enc, Answer(302, b"", b"Location: /elsewhere\r\n"), "answered 302, which"),
    (enc, Answer(500, b"oops"), "answered 500, which"),
    (dec, Answer(200, container((ONE, KEY))), "other keys came"),
    (dec, Answer(200, container((ONE, KEY), (str(uuid4()), OTHER))), "other keys came"),
    (dec, Answer(200, container((ONE, KEY), (TWO, b"x"))), "has 8 bits: expected 256"),
    (status, Answer(200, status_body(stored_key_count=21)), "21 keys are stored, of at most 20"),
    (status, Answer(200, status_body(slave_SAE_ID="x")), "is about 'x'"),
    (status, Answer(200, status_body(key_size=2048)), "outside of the sizes"),
    (status, Answer(200, status_body(key_size="256")), "not of the standard's form"),
    (status, Answer(200, status_body(max_SAE_ID_count=None)), "not of the standard's form"),
]


def scripted(certificates: Certificates, answer: Answer, ask: Ask) -> Scripted:
    """Ask a key manager that answers so."""
    wrong = Scripted(answer)

    async def story() -> None:
        opened = listener()
        port = opened.getsockname()[1]
        async with (
            serving(wrong, opened, certificates.server_context, Limits()),
            client(port, certificates.client(MASTER)) as one,
        ):
            await ask(one)

    asyncio.run(story())
    return wrong


@pytest.mark.parametrize(("ask", "answer", "text"), WRONG)
def test_an_answer_that_is_not_what_was_asked_for_is_none(
    certificates: Certificates, ask: Ask, answer: Answer, text: str
) -> None:
    with pytest.raises(MalformedMessage, match=text) as told:
        scripted(certificates, answer, ask)
    for key in (KEY, OTHER):
        assert base64.b64encode(key).decode()[:8] not in repr(told.value.__cause__ or told.value)


def test_what_the_standard_lets_a_key_manager_add_is_no_obstacle(certificates: Certificates) -> None:
    body = json.loads(container((ONE.upper(), KEY), (TWO, OTHER)))
    body |= {"key_container_extension": {"a": 1}, "xyz_vendor": [1]}
    body["keys"][0] |= {"key_ID_extension": {"b": 2}, "key_extension": {"c": 3}}
    got: list[object] = []

    async def ask(one: Etsi014Client) -> None:
        got.extend((ready.key_id, ready.key) for ready in await one.enc_keys(SLAVE, 2, 256))

    scripted(certificates, Answer(200, json.dumps(body).encode()), ask)
    assert got == [(ONE, Secret(KEY)), (TWO, Secret(OTHER))]


def test_requests_are_written_as_the_standard_writes_them(certificates: Certificates) -> None:
    async def ask(one: Etsi014Client) -> None:
        with pytest.raises(MalformedMessage):
            await one.enc_keys(SLAVE, 2, 256, [THIRD])
        with pytest.raises(MalformedMessage):
            await one.dec_keys(MASTER, [ONE], 256)

    first, second = scripted(certificates, Answer(200, b"{}"), ask).requests
    assert (first.method, first.target) == (b"POST", b"/api/v1/keys/urn%3Asae%3Abank%2F2/enc_keys")
    assert json.loads(first.body) == {"number": 2, "size": 256, "additional_slave_SAE_IDs": [THIRD]}
    assert (second.target, second.content_type) == (b"/api/v1/keys/sae-1/dec_keys", b"application/json")
    assert json.loads(second.body) == {"key_IDs": [{"key_ID": ONE}]}
