"""`qsotn conformance etsi014`: a key manager in order passes every point, and each way to be wrong fails its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web
from cryptography import x509
from structlog.testing import capture_logs
from tests.service.delivery.etsi014_world import (
    HOMES,
    MASTER,
    SLAVE,
    THIRD,
    Certificates,
    MemoryDelivery,
    known,
    listener,
    make_certificates,
    served_aside,
)
from tests.service.interoperation.installed import ALICE, ANNA, JINAN, QINGDAO, configured, hosted, install, supply
from typer.testing import CliRunner, Result

from qsotn import verbs_conformance
from qsotn.app.conformance import etsi014
from qsotn.app.conformance.etsi014_run import Target
from qsotn.app.conformance.report import Report, Verdict
from qsotn.domain import KeyId, Secret
from qsotn.errors import UsageError
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery.etsi014 import KeyInterface, SaeSession
from qsotn.service.delivery.etsi014_identity import Identity
from qsotn.service.delivery.http_protocol import Answer, Limits, Request, Session
from qsotn.service.delivery.http_server import serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# --- key managers that are wrong --------------------------------------------------------------------------------------

Tamper = Callable[[KeyInterface, SaeSession, Request, Answer], Awaitable[Answer]]


@dataclass
class Tampered:
    """One connection whose answers somebody changes."""

    interface: KeyInterface
    session: SaeSession
    tamper: Tamper

    async def answer(self, request: Request) -> Answer:
        return await self.tamper(self.interface, self.session, request, await self.session.answer(request))


class WrongInterface(KeyInterface):
    """The interface, with something wrong in it."""

    def __init__(self, delivery: MemoryDelivery, tamper: Tamper) -> None:
        super().__init__(delivery, known, lambda *_: None, lambda: 0.0)
        self._tamper = tamper

    def greet(self, transport: asyncio.BaseTransport) -> Session:  # type: ignore[override]  # wider, on purpose
        return Tampered(self, super().greet(transport), self._tamper)


async def honest(_: KeyInterface, __: SaeSession, ___: Request, answer: Answer) -> Answer:
    return answer


def changing(change: Callable[[Request, Answer, Any], object]) -> Tamper:
    """Tamper with the JSON of an answer; `change` returns None to leave it as it is."""

    async def tamper(_: KeyInterface, __: SaeSession, request: Request, answer: Answer) -> Answer:
        changed = change(request, answer, json.loads(answer.body) if answer.body else {})
        if isinstance(changed, Answer):
            return changed
        return answer if changed is None else Answer(answer.status, json.dumps(changed).encode(), answer.fields)

    return tamper


def status_with(**members: object) -> Tamper:
    return changing(lambda request, _, body: {**body, **members} if request.target.endswith(b"/status") else None)


def answering(status: int, body: bytes, when: Callable[[Request, Answer], bool]) -> Tamper:
    return changing(lambda request, answer, _: Answer(status, body) if when(request, answer) else None)


def every_key(change: Callable[[dict[str, str]], dict[str, str]], when: bytes = b"") -> Tamper:
    def changed(request: Request, _: Answer, body: Any) -> object:
        if "keys" not in body or when not in request.target:
            return None
        return {"keys": [change(one) for one in body["keys"]]}

    return changing(changed)


def accepting(marker: bytes) -> Tamper:
    """Give a key for a request that ought to be refused."""
    key = {"key_ID": "11111111-1111-4111-8111-111111111111", "key": base64.b64encode(b"k" * 32).decode()}
    body = json.dumps({"keys": [key]}).encode()
    return answering(200, body, lambda request, _: marker in request.target + request.body)


class KeepsDelivered(MemoryDelivery):
    """Delivers a key as often as it is asked for."""

    def _given(self, key_id: KeyId, slave: str) -> ReadyKey:
        assert slave in self.waiting[key_id].slaves
        return ReadyKey(key_id, self.waiting[key_id].key)


class TakesFirst(MemoryDelivery):
    """Gives what it has of a request, and loses it when something else is missing."""

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        given: list[ReadyKey] = []
        for key_id in key_ids:
            given += await super().collect(slave, master, [key_id])
        return given


class AsksNobody(MemoryDelivery):
    """Gives a key to whoever knows its ID."""

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        for key_id in key_ids:
            if key_id in self.waiting:
                self.waiting[key_id].slaves.add(slave)
        return await super().collect(slave, master, key_ids)


class MixesMasters(MemoryDelivery):
    """Does not look at the master of the path."""

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        owner = next((self.waiting[key_id].master for key_id in key_ids if key_id in self.waiting), master)
        return await super().collect(slave, owner, key_ids)


class Bytewise(MemoryDelivery):
    """Takes bits for bytes."""

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        return await super().reserve(master, slaves, number, size * 8)


class SameKey(MemoryDelivery):
    """Gives one key under many IDs."""

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        keys = await super().reserve(master, slaves, number, size)
        for ready in keys:
            self.waiting[ready.key_id].key = Secret(b"\x07" * (size // 8))
        return [ReadyKey(ready.key_id, self.waiting[ready.key_id].key) for ready in keys]


class OtherKeys(MemoryDelivery):
    """Gives the slave another key under the same ID."""

    def _given(self, key_id: KeyId, slave: str) -> ReadyKey:
        return ReadyKey(super()._given(key_id, slave).key_id, Secret(os.urandom(32)))


class OneOfTheSlaves(MemoryDelivery):
    """Forgets the additional slaves."""

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        return await super().reserve(master, slaves[:1], number, size)


class Welcomes(MemoryDelivery):
    """Knows every SAE."""

    def _home(self, sae: str) -> Any:
        return HOMES.get(sae, "km/anywhere")


NO = b'{"message": "no"}'
NOT_FOUND_404 = answering(404, NO, lambda _, answer: b"not found on KME" in answer.body)
NO_WISHES = answering(400, NO, lambda request, _: b"qsotn_wish" in request.body)
NO_DEFAULTS = answering(400, NO, lambda request, _: request.body == b"{}")
NEVER_A_KEY = answering(503, NO, lambda request, _: b"enc_keys" in request.target)
OWN_WORDS = changing(lambda _, answer, __: {"message": "Invalid size"} if b"multiple of 8" in answer.body else None)
NO_MESSAGE = changing(lambda _, answer, __: {"error": 1} if answer.status == 400 else None)
BYTES = status_with(key_size=32, min_key_size=8)
NO_UUID = every_key(lambda one: {**one, "key_ID": "k" + one["key_ID"]}, b"enc_keys")
EMPTY = every_key(lambda one: {**one, "key": ""})
GIVEN = "one-key-of-the-default get- another-size as-many an-unknown-optional"
REFUSED = "a- no-keys-at-all true- more- an-unknown-mandatory garbage"
COLLECTED = "the-slave get- a- keys-are an-sae-that no-header-opens every-slave"

PLANTED: list[tuple[str, MemoryDelivery | None, Tamper, str]] = [
    ("a stored count above the maximum", None, status_with(stored_key_count=10_000_001), "no-more-keys-are-stored"),
    ("sizes out of order", None, status_with(min_key_size=512), "the-key-sizes-are-in-order"),
    ("a key size in bytes", None, BYTES, "one-key-of-the-default get-gives-one-key get-takes-a-number another-size"),
    ("a status about another SAE", None, status_with(slave_SAE_ID="x"), "the-status-names-both"),
    ("a status of another SAE's", None, status_with(master_SAE_ID=THIRD), "the-status-names-both"),
    ("a member of another type", None, status_with(key_size="256"), "the-status-is-complete"),
    ("keys delivered twice", KeepsDelivered(), honest, "a-delivered-key-is-gone"),
    ("keys lost by a refused request", TakesFirst(), honest, "keys-are-given-all-or-none"),
    ("keys for whoever knows an ID", AsksNobody(), honest, "an-sae-that-was-not-named no-header-opens"),
    ("masters mixed", MixesMasters(), honest, "a-key-belongs-to-the-master"),
    ("bits taken for bytes", Bytewise(), honest, "one-key-of-the-default get- another-size-is-in-bits"),
    ("one key under many IDs", SameKey(), honest, "every-key-is-new"),
    ("another key for the slave", OtherKeys(), honest, COLLECTED),
    ("a multicast to one", OneOfTheSlaves(), honest, "every-slave-of-a-multicast"),
    ("everybody known", Welcomes(), honest, "an-unknown-slave no-key-is-given-for-an-unknown"),
    (
        "404 for unknown keys",
        None,
        NOT_FOUND_404,
        "an-unknown-key keys-are-given a-delivered-key a-key-belongs",
    ),
    ("words of one's own", None, OWN_WORDS, "a-size-is-a-multiple-of-8"),
    ("garbage accepted", None, accepting(b'{"number": 1'), "garbage-is-refused"),
    ("a negative number accepted", None, accepting(b'"number":-1'), "a-negative-number"),
    ("a string for a number", None, accepting(b'"number":"1"'), "a-string-is-no-number"),
    ("a million keys promised", None, accepting(b'"number":1000000'), "a-million-keys"),
    ("a size of zero accepted", None, accepting(b'"size":0}'), "a-size-of-zero"),
    ("a demand ignored", None, accepting(b"qsotn_demand"), "an-unknown-mandatory"),
    ("a wish refused", None, NO_WISHES, "an-unknown-optional"),
    ("no key for an empty request", None, NO_DEFAULTS, "one-key-of-the-default"),
    ("never a key", None, NEVER_A_KEY, f"one-key-of-the-default no-key-is-given {REFUSED}"),
    ("errors without a message", None, NO_MESSAGE, f"no-key an-unknown-key keys-are {REFUSED}"),
    ("IDs that are no UUID", None, NO_UUID, f"{GIVEN} {COLLECTED}"),
    ("empty keys", None, EMPTY, GIVEN),
]


def target(certificates: Certificates, port: int, master: str = "") -> Target:
    url, ca = f"https://localhost:{port}", certificates.authority.ca
    saes = ((master, MASTER), (SLAVE, SLAVE), (THIRD, THIRD))
    parties = [etsi014.party(name, url, *certificates.saes[sae], ca) for name, sae in saes]
    return etsi014.target(parties[0], parties[1], parties[2], ca, certificates.saes[SLAVE][0])


async def examined(certificates: Certificates, delivery: MemoryDelivery, tamper: Tamper) -> Report:
    opened = listener()
    goal = target(certificates, opened.getsockname()[1], MASTER)
    async with serving(WrongInterface(delivery, tamper), opened, certificates.server_context, Limits()):
        return await etsi014.examine(goal)


def failed(report: Report) -> set[str]:
    return {point.name for point in report.points if point.verdict is Verdict.FAIL}


@dataclass
class Remembers(MemoryDelivery):
    """Notes every key it ever gave."""

    given: list[bytes] = field(default_factory=list)

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        keys = await super().reserve(master, slaves, number, size)
        self.given += [ready.key.reveal() for ready in keys]
        return keys


def test_our_own_key_manager_passes_every_point_and_no_key_is_in_the_report(certificates: Certificates) -> None:
    delivery = Remembers()
    with capture_logs():
        report = asyncio.run(examined(certificates, delivery, honest))
    assert failed(report) == set()
    assert [point.name for point in report.points if point.verdict is Verdict.SKIP] == ["exhaustion-is-a-503"]
    assert report.conforms
    assert all(point.clause and point.asked and point.required and point.came for point in report.points)
    text = repr(report)
    assert 100 < len(delivery.given) < 200
    assert not any(form in text for key in delivery.given for form in (key.hex(), base64.b64encode(key).decode()))


@pytest.mark.parametrize(
    ("delivery", "tamper", "expected"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED]
)
def test_what_is_wrong_fails_its_point_and_no_other(
    certificates: Certificates, delivery: MemoryDelivery | None, tamper: Tamper, expected: str
) -> None:
    with capture_logs():
        report = asyncio.run(examined(certificates, delivery or MemoryDelivery(), tamper))
    found, prefixes = failed(report), expected.split()
    assert not report.conforms
    assert [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in found)] == [], found
    assert [name for name in found if not name.startswith(tuple(prefixes))] == []


def test_a_header_that_overrides_the_certificate_is_found_out(certificates: Certificates) -> None:
    interface = KeyInterface(MemoryDelivery(), known, lambda *_: None, lambda: 0.0)

    async def credulous(request: web.Request) -> web.Response:
        assert request.transport is not None
        connection: ssl.SSLObject = request.transport.get_extra_info("ssl_object")
        certificate = x509.load_der_x509_certificate(connection.getpeercert(True) or b"")
        sae = request.headers.get("X-SSL-Client-CN") or known(certificate)
        kind = request.headers.get("Content-Type", "").encode()
        asked = Request(request.method.encode(), request.raw_path.encode(), kind, await request.read(), True)
        answer = await SaeSession(interface, Identity(sae, 4e9), "").answer(asked)
        return web.Response(status=answer.status, body=answer.body, content_type="application/json")

    async def story() -> Report:
        application = web.Application()
        application.router.add_route("*", "/{anything:.*}", credulous)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        opened = listener()
        await web.SockSite(runner, opened, ssl_context=certificates.server_context).start()
        try:
            return await etsi014.examine(target(certificates, opened.getsockname()[1]))
        finally:
            await runner.cleanup()

    assert failed(asyncio.run(story())) == {
        "no-header-overrides-the-certificate",
        "no-header-opens-another-saes-keys",
    }


def test_without_an_answer_every_point_that_needs_one_fails_or_is_left_out(certificates: Certificates) -> None:
    opened = listener()
    opened.close()
    report = asyncio.run(etsi014.examine(target(certificates, 1)))
    assert not report.conforms
    came = {point.name: point.came for point in report.points}
    assert came["the-status-is-complete"].startswith("no answer: ")
    assert came["the-key-sizes-are-in-order"] == "there was no status to go by"


# --- the command ------------------------------------------------------------------------------------------------------


def command(certificates: Certificates, port: int, *options: str) -> Result:
    application = typer.Typer()
    verbs_conformance.add_to(application)
    files: list[str] = []
    for name, sae in (("master", MASTER), ("slave", SLAVE), ("additional", THIRD)):
        certificate, key = certificates.saes[sae]
        files += [f"--{name}-cert", str(certificate), f"--{name}-key", str(key)]
    named = ["--slave", SLAVE, "--additional", THIRD, "--ca", str(certificates.authority.ca)]
    url = f"https://localhost:{port}"
    return CliRunner().invoke(application, ["conformance", "etsi014", url, *named, *files, *options])


def test_the_command_prints_a_line_a_point_and_ends_with_0_if_none_failed(certificates: Certificates) -> None:
    with capture_logs(), served_aside(MemoryDelivery(), certificates.server_context) as port:
        shown = command(certificates, port)
    assert shown.exit_code == 0, shown.output
    assert "pass  5.4       the slave gets the same keys" in shown.stdout
    assert shown.stdout.endswith("42 points: 41 pass, 0 fail, 1 skip.\n")


def test_a_failed_point_says_what_was_asked_what_is_required_and_what_came(certificates: Certificates) -> None:
    with capture_logs(), served_aside(KeepsDelivered(), certificates.server_context) as port:
        shown, as_json = command(certificates, port), command(certificates, port, "--json")
    assert (shown.exit_code, as_json.exit_code) == (1, 1)
    assert "fail  5.4       a delivered key is gone\n      asked     POST" in shown.stdout
    assert "was delivered twice" in shown.stdout
    report = json.loads(as_json.stdout)
    (point,) = [point for point in report["points"] if point["verdict"] == "fail"]
    assert set(point) == {"name", "clause", "asked", "required", "came", "verdict"}
    assert (report["standard"], point["clause"]) == ("ETSI GS QKD 014 V1.1.1", "5.4")


def test_files_and_urls_that_cannot_be_used_are_told(certificates: Certificates, tmp_path: Path) -> None:
    certificate, key = certificates.saes[MASTER]
    ca, url = certificates.authority.ca, "https://localhost:1"
    with pytest.raises(UsageError, match=r"expected https://HOST"):
        etsi014.party(MASTER, "http://localhost:1", certificate, key, ca)
    with pytest.raises(UsageError, match="cannot be used"):
        etsi014.party(MASTER, url, certificate, None, ca)
    with pytest.raises(UsageError, match="no certificate of a CA"):
        etsi014.party(MASTER, url, certificate, key, tmp_path / "nothing")
    assert isinstance(command(certificates, 1, "--slave-url", "ftp://x").exception, UsageError)


def test_a_key_that_stands_beside_a_certificate_is_not_shown_in_headers(
    certificates: Certificates, tmp_path: Path
) -> None:
    certificate, key = certificates.saes[SLAVE]
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    url, ca = "https://localhost:1", certificates.authority.ca
    slave = etsi014.party(SLAVE, url, both, None, ca)
    shown = etsi014.target(slave, slave, None, ca, both).slave_certificate
    assert shown == certificate.read_text().strip()


# --- over post-quantum TLS --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("own"))


def own_command(own: Path, url: str, *options: str) -> Result:
    application = typer.Typer()
    verbs_conformance.add_to(application)
    return CliRunner().invoke(application, ["conformance", "etsi014", url, "--post-quantum", str(own), *options])


def test_our_own_default_mode_passes_every_point_over_post_quantum_tls(own: Path) -> None:
    async def story() -> Result:
        near, far = configured(own, JINAN), configured(own, QINGDAO)
        assert near.delivery is not None
        async with hosted(near) as jinan, hosted(far) as qingdao:
            for origin, target_ in ((jinan, qingdao), (qingdao, jinan)) * 3:
                await supply(origin, target_)
            url = f"https://{near.delivery.address}"
            return await asyncio.to_thread(own_command, own, url, "--master", ALICE, "--slave", ANNA, "--json")

    with capture_logs():
        shown = asyncio.run(story())
    report = json.loads(shown.stdout)
    assert [point for point in report["points"] if point["verdict"] == "fail"] == []
    passed = {point["name"] for point in report["points"] if point["verdict"] == "pass"}
    assert {"a-client-without-a-certificate-is-refused", "the-slave-gets-the-same-keys"} < passed
    assert "no-header-opens-another-saes-keys" in passed
    assert shown.exit_code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--slave", ANNA], "needs --master, and no certificates"),
        (["--master", ALICE, "--slave", ANNA, "--ca", "ca.pem"], "needs --master, and no certificates"),
        (["--master", "nobody", "--slave", ANNA], "no certificate of an SAE 'nobody'; its SAEs are alice, anna"),
        (["--master", ALICE, "--slave", ANNA], "no key manager of .* is there; they are at https://127.0.0.1:"),
    ],
)
def test_what_does_not_belong_to_the_province_is_told(own: Path, options: list[str], told: str) -> None:
    shown = own_command(own, "https://127.0.0.1:1", *options)
    assert isinstance(shown.exception, UsageError)
    assert re.search(told, str(shown.exception))


def test_without_a_province_certificates_are_needed(own: Path) -> None:
    application = typer.Typer()
    verbs_conformance.add_to(application)
    shown = CliRunner().invoke(application, ["conformance", "etsi014", "https://127.0.0.1:1", "--slave", ANNA])
    assert isinstance(shown.exception, UsageError)
    assert "--master-cert and --slave-cert are needed" in str(shown.exception)
