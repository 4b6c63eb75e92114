"""ETSI GS QKD 014 over ordinary mutual TLS: what SAEs get, and what they are told when they get nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs
from tests.service.delivery.etsi014_world import (
    FAR,
    KM,
    MASTER,
    SLAVE,
    STRANGER,
    THIRD,
    Certificates,
    MemoryDelivery,
    Reply,
    Wire,
    make_certificates,
    served,
    wire,
)

from qsotn.adapters.keysource.etsi014_format import path
from qsotn.errors import Refusal, StoreError
from qsotn.service.delivery.etsi014_counters import MethodCounters
from qsotn.service.worker import Overloaded

ENC, DEC = path(SLAVE, "enc_keys"), path(MASTER, "dec_keys")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def delivery() -> MemoryDelivery:
    return MemoryDelivery()


@pytest.fixture
def told(certificates: Certificates, delivery: MemoryDelivery) -> Callable[..., None]:
    """Tell a story with connections of SAEs."""

    def tell(story: Callable[..., Awaitable[None]], *saes: str, **options: Any) -> None:
        async def run() -> None:
            async with served(delivery, certificates.server_context, **options) as port:
                opened = [wire(port, certificates.client(sae)) for sae in saes]
                ends = [await one.__aenter__() for one in opened]
                await story(*ends)
                for one in opened:
                    await one.__aexit__(None, None, None)

        asyncio.run(run())

    return tell


def keys_in(reply: Reply) -> dict[str, bytes]:
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    keys = json.loads(reply.body)["keys"]
    return {one["key_ID"]: base64.b64decode(one["key"], validate=True) for one in keys}


def error_in(reply: Reply) -> str:
    body = json.loads(reply.body)
    assert isinstance(body["message"], str)
    assert body.keys() <= {"message", "details"}
    return str(body["message"])


def ids(*key_ids: str) -> bytes:
    return json.dumps({"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}).encode()


# --- what SAEs get ----------------------------------------------------------------------------------------------------


def test_the_status_has_every_member_of_the_standard(told: Callable[..., None]) -> None:
    async def story(master: Wire) -> None:
        assert json.loads((await master.ask("GET", path(SLAVE, "status"))).body) == {
            "source_KME_ID": KM,
            "target_KME_ID": KM,
            "master_SAE_ID": MASTER,
            "slave_SAE_ID": SLAVE,
            "key_size": 256,
            "stored_key_count": 1_000_000,
            "max_key_count": 10_000_000,
            "max_key_per_request": 128,
            "max_key_size": 4096,
            "min_key_size": 64,
            "max_SAE_ID_count": 4,
        }
        assert json.loads((await master.ask("GET", path(FAR, "status"))).body)["target_KME_ID"] == "km/qingdao"

    told(story, MASTER)


def test_a_count_above_the_maximum_is_never_told(told: Callable[..., None], delivery: MemoryDelivery) -> None:
    delivery.stored = 11_000_000

    async def story(master: Wire) -> None:
        status = json.loads((await master.ask("GET", path(SLAVE, "status"))).body)
        assert status["stored_key_count"] == status["max_key_count"] == 10_000_000

    told(story, MASTER)


ENC_REQUESTS: list[tuple[str, str, bytes, int, int]] = [
    ("POST", ENC, b"", 1, 256),
    ("POST", ENC, b"{}", 1, 256),
    ("POST", ENC, b'{"number": 3}', 3, 256),
    ("POST", ENC, b'{"size": 512}', 1, 512),
    ("POST", ENC, b'{"number": 128, "size": 64}', 128, 64),
    ("POST", ENC, b'{"number": null, "size": null, "extension_optional": null}', 1, 256),
    ("POST", ENC, b'{"extension_mandatory": [], "extension_optional": [{"abc_wish": {"a": [1]}}]}', 1, 256),
    ("GET", ENC, b"", 1, 256),
    ("GET", f"{ENC}?number=2", b"", 2, 256),
    ("GET", f"{ENC}?size=128", b"", 1, 128),
    ("GET", f"{ENC}?size=128&number=02", b"", 2, 128),
    ("GET", f"https://localhost{ENC}?number=2", b"", 2, 256),
    ("POST", f"/api/v1/keys/%75%72n:sae:bank%2f2/{'enc_keys'}", b"{}", 1, 256),
]


@pytest.mark.parametrize(("verb", "target", "body", "number", "size"), ENC_REQUESTS)
def test_a_master_gets_as_many_keys_of_the_size_it_asks_for(
    told: Callable[..., None], verb: str, target: str, body: bytes, number: int, size: int
) -> None:
    async def story(master: Wire) -> None:
        keys = keys_in(await master.ask(verb, target, body))
        assert len(keys) == number
        assert {len(key) * 8 for key in keys.values()} == {size}
        assert all(str(UUID(key_id)) == key_id for key_id in keys)

    told(story, MASTER)


def test_the_slave_gets_the_same_keys_once(told: Callable[..., None]) -> None:
    async def story(master: Wire, slave: Wire) -> None:
        keys = keys_in(await master.ask("POST", ENC, b'{"number": 3}'))
        first, *others = keys
        assert keys_in(await slave.ask("GET", f"{DEC}?key_ID={first.upper()}")) == {first: keys[first]}
        assert keys_in(await slave.ask("POST", DEC, ids(*others))) == {key_id: keys[key_id] for key_id in others}
        for key_id in keys:
            gone = await slave.ask("POST", DEC, ids(key_id))
            assert (gone.status, error_in(gone)) == (400, "one or more keys specified are not found on KME")

    told(story, MASTER, SLAVE)


def test_key_ids_may_have_extensions(told: Callable[..., None]) -> None:
    async def story(master: Wire, slave: Wire) -> None:
        ((key_id, key),) = keys_in(await master.ask("POST", ENC)).items()
        body = {"key_IDs": [{"key_ID": key_id, "key_ID_extension": {"a": 1}}], "key_IDs_extension": {"b": [2]}}
        assert keys_in(await slave.ask("POST", DEC, json.dumps(body).encode())) == {key_id: key}

    told(story, MASTER, SLAVE)


def test_every_slave_of_a_multicast_gets_the_same_key(told: Callable[..., None]) -> None:
    async def story(master: Wire, slave: Wire, third: Wire) -> None:
        body = json.dumps({"additional_slave_SAE_IDs": [THIRD]}).encode()
        keys = keys_in(await master.ask("POST", ENC, body))
        assert keys_in(await slave.ask("POST", DEC, ids(*keys))) == keys
        assert keys_in(await third.ask("POST", DEC, ids(*keys))) == keys
        assert (await third.ask("POST", DEC, ids(*keys))).status == 400

    told(story, MASTER, SLAVE, THIRD)


# --- 400 --------------------------------------------------------------------------------------------------------------

SOME, OTHER = "0b6c2f0e-5a52-4d2c-9a0d-5f4b1f6f2c11", "c2a1f7d0-7c44-4f63-8f0e-2d1f3a9b6e22"
BAD_REQUESTS: list[tuple[str, str, bytes, str]] = [
    ("POST", ENC, b'{"size": 255}', "size shall be a multiple of 8"),
    ("GET", f"{ENC}?size=255", b"", "size shall be a multiple of 8"),
    ("POST", ENC, b'{"number": 0}', ">= 1"),
    ("POST", ENC, b'{"number": -1}', ">= 1"),
    ("POST", ENC, b'{"number": 1.0}', "got `float`"),
    ("POST", ENC, b'{"number": 1e2}', "got `float`"),
    ("POST", ENC, b'{"number": true}', "got `bool`"),
    ("POST", ENC, b'{"number": "1"}', "got `str`"),
    ("POST", ENC, b'{"size": 0}', ">= 1"),
    ("POST", ENC, b'{"size": -256}', ">= 1"),
    ("POST", ENC, b'{"size": 8}', "min_key_size 64"),
    ("POST", ENC, b'{"size": 4104}', "max_key_size 4096"),
    ("POST", ENC, b'{"number": 129}', "max_key_per_request 128"),
    ("POST", ENC, b'{"number": 1000000}', "max_key_per_request 128"),
    ("POST", ENC, b'{"number": ' + b"9" * 400 + b"}", "<= 9007199254740991"),
    ("POST", ENC, b'{"number": ' + b"9" * 40_000 + b"}", "out of range"),
    ("POST", ENC, b'{"extension_optional": [{"a": ' + b"9" * 5_000 + b"}]}", "cannot be read"),
    ("POST", ENC, b'{"number": 1, "number": 2}', "two members of one name"),
    ("POST", ENC, b'{"number": null, "number": 2}', "two members of one name"),
    ("POST", ENC, b'{"number": 1, "n\\u0075mber": 2}', "two members of one name"),
    ("POST", ENC, b'{"extension_optional": [{"a": {"b": 1, "b": 2}}]}', "two members of one name"),
    ("POST", DEC, f'{{"key_IDs": [{{"key_ID": 1, "key_ID": "{SOME}"}}]}}'.encode(), "Expected `str`"),
    ("POST", DEC, f'{{"key_IDs": [{{"key_ID": "{SOME}", "key_ID": "{SOME}"}}]}}'.encode(), "two members of one name"),
    ("POST", DEC, ids(SOME)[:-1] + b", " + ids(OTHER)[1:], "two members of one name"),
    ("POST", ENC, b'{"nubmer": 5}', "unknown field `nubmer`"),
    ("POST", ENC, b'{"number": 1', "no JSON"),
    ("POST", ENC, b"number=1", "no JSON"),
    ("POST", ENC, b'{"number": 1} {}', "no JSON"),
    ("POST", ENC, b'{"extension_optional": [{"\xff": 1}]}', "no JSON"),
    ("POST", ENC, b'\xef\xbb\xbf{"number": 1}', "no JSON"),
    ("POST", ENC, b"[]", "Expected `object`"),
    ("POST", ENC, b"null", "Expected `object`"),
    ("POST", ENC, b'{"extension_optional": [{"a": ' + b"[" * 30_000, "nested too deeply"),
    ("POST", ENC, b'{"extension_mandatory": {}}', "Expected `array | null`"),
    (
        "POST",
        ENC,
        b'{"extension_mandatory": [{"abc_route_type": "direct"}]}',
        "not all extension_mandatory parameters are supported",
    ),
    ("POST", ENC, b'{"additional_slave_SAE_IDs": ["a", "b", "c", "d", "e"]}', "max_SAE_ID_count is 4"),
    ("POST", ENC, json.dumps({"additional_slave_SAE_IDs": [SLAVE]}).encode(), "not all different"),
    ("POST", ENC, json.dumps({"additional_slave_SAE_IDs": [MASTER]}).encode(), "the calling SAE itself"),
    ("POST", path(MASTER, "enc_keys"), b"", "the calling SAE itself"),
    ("POST", path("nobody", "enc_keys"), b"", "no SAE nobody"),
    ("GET", path("nobody", "status"), b"", "no SAE nobody"),
    ("POST", "/api/v1/keys//enc_keys", b"", "SAE ID of the path"),
    ("POST", "/api/v1/keys/%ff/enc_keys", b"", "SAE ID of the path"),
    ("POST", "/api/v1/keys/%00/enc_keys", b"", "SAE ID of the path"),
    ("GET", f"{ENC}?number=x", b"", "an integer of at least 1"),
    ("GET", f"{ENC}?number=-1", b"", "an integer of at least 1"),
    ("GET", f"{ENC}?number=0", b"", "an integer of at least 1"),
    ("GET", f"{ENC}?number=%D9%A1", b"", "an integer of at least 1"),
    ("GET", f"{ENC}?number={'9' * 200}", b"", "an integer of at least 1"),
    ("GET", f"{ENC}?number=", b"", "an integer of at least 1"),
    ("GET", f"{ENC}?number=1000000", b"", "max_key_per_request 128"),
    ("GET", f"{ENC}?number=1&number=2", b"", "one parameter twice"),
    ("GET", f"{ENC}?extension_mandatory=1", b"", "expected number=… and size=…"),
    ("GET", f"{ENC}?number=1&size=256&x=1", b"", "cannot be read"),
    ("GET", f"{ENC}?number", b"", "cannot be read"),
    ("GET", ENC, b'{"number": 1}', "a GET has no body"),
    ("POST", f"{ENC}?number=1", b"{}", "a POST has no query"),
    ("GET", f"{path(SLAVE, 'status')}?x", b"", "status takes no query"),
    ("POST", DEC, b"", "no JSON"),
    ("POST", DEC, b"{}", "missing required field `key_IDs`"),
    ("POST", DEC, b'{"key_IDs": []}', "length >= 1"),
    ("POST", DEC, b'{"key_IDs": [{}]}', "missing required field `key_ID`"),
    ("POST", DEC, b'{"key_IDs": ["x"]}', "Expected `object`"),
    ("POST", DEC, ids("one"), "no UUID"),
    ("POST", DEC, ids(f"{{{SOME}}}"), "no UUID"),
    ("POST", DEC, ids(SOME, SOME.upper()), "more than once"),
    ("POST", DEC, ids(SOME, OTHER), "one or more keys specified are not found on KME"),
    ("POST", path("nobody", "dec_keys"), ids(SOME), "no SAE nobody"),
    ("GET", DEC, b"", "key_ID is missing"),
    ("GET", f"{DEC}?key_ID={SOME}&key_ID={SOME}", b"", "one parameter twice"),
    ("GET", f"{DEC}?key_ID=x", b"", "no UUID"),
    ("GET", f"{DEC}?key_id={SOME}", b"", "expected key_ID=…"),
]


@pytest.mark.parametrize(("verb", "target", "body", "message"), BAD_REQUESTS)
def test_a_request_that_is_not_in_order_is_one_clear_400_and_no_work(
    told: Callable[..., None], delivery: MemoryDelivery, verb: str, target: str, body: bytes, message: str
) -> None:
    async def story(asking: Wire) -> None:
        reply = await asking.ask(verb, target, body)
        assert (reply.status, message in error_in(reply)) == (400, True), reply
        assert len(reply.body) < 1000
        assert "reserve" not in delivery.calls
        assert (await asking.ask("GET", path(SLAVE, "status"))).status == 200, "the connection goes on"

    told(story, MASTER)


def test_what_is_not_supported_is_named_in_the_details(told: Callable[..., None]) -> None:
    async def story(master: Wire) -> None:
        body = b'{"extension_mandatory": [{"abc_route_type": "direct", "abc_other": 1}, {"xyz_qos": {}}]}'
        details = json.loads((await master.ask("POST", ENC, body)).body)["details"]
        assert [next(iter(one)) for one in details] == ["extension_mandatory_unsupported"] * 3
        assert details[0] == {"extension_mandatory_unsupported": "abc_route_type is not supported"}

    told(story, MASTER)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_a_body_of_another_content_type_is_refused(told: Callable[..., None], kind: str) -> None:
    async def story(master: Wire) -> None:
        reply = await master.ask("POST", ENC, b'{"number": 1}', f"Content-Type: {kind}")
        assert (reply.status, kind in error_in(reply)) == (400, True)

    told(story, MASTER)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON;v=1"])
def test_json_is_json_however_it_is_spelt(told: Callable[..., None], kind: str) -> None:
    async def story(master: Wire) -> None:
        keys_in(await master.ask("POST", ENC, b'{"number": 1}', f"Content-Type: {kind}"))

    told(story, MASTER)


# --- 401 --------------------------------------------------------------------------------------------------------------


def test_an_sae_that_was_not_named_gets_nothing_and_takes_nothing(told: Callable[..., None]) -> None:
    async def story(master: Wire, slave: Wire, third: Wire) -> None:
        keys = keys_in(await master.ask("POST", ENC, b'{"number": 2}'))
        for other in (third, master):
            assert (await other.ask("POST", DEC, ids(*keys))).status == 401
        assert keys_in(await slave.ask("POST", DEC, ids(*keys))) == keys

    told(story, MASTER, SLAVE, THIRD)


def test_a_certificate_of_nobody_known_is_refused_at_every_method(
    told: Callable[..., None], delivery: MemoryDelivery
) -> None:
    async def story(*wires: Wire) -> None:
        for stranger, (verb, target) in zip(
            wires, [("GET", path(SLAVE, "status")), ("POST", ENC), ("POST", DEC)], strict=True
        ):
            reply = await stranger.ask(verb, target)
            assert (reply.status, reply.headers["connection"]) == (401, "close")
            assert STRANGER in error_in(reply)
            assert await stranger.ended()
        assert delivery.calls == []

    told(story, STRANGER, STRANGER, STRANGER)


def test_many_connections_of_nobody_known_are_one_line_a_second(told: Callable[..., None]) -> None:
    async def story(*wires: Wire) -> None:
        for stranger in wires:
            assert (await stranger.ask("GET", path(SLAVE, "status"))).status == 401

    with capture_logs() as lines:
        told(story, *[STRANGER] * 20)
    assert {line["event"] for line in lines} == {"a client is no SAE of this key manager"}
    assert 1 <= len(lines) <= 3


HEADERS = ["X-SAE-ID", "X-Client-CN", "X-SSL-Client-S-DN", "X-Forwarded-Client-Cert", "Authorization", "SSL_CLIENT_CN"]


@pytest.mark.parametrize("header", HEADERS)
def test_no_header_overrides_the_certificate(told: Callable[..., None], header: str) -> None:
    async def story(master: Wire, third: Wire) -> None:
        status = json.loads((await master.ask("GET", path(SLAVE, "status"), b"", f"{header}: {THIRD}")).body)
        assert status["master_SAE_ID"] == MASTER
        keys = keys_in(await master.ask("POST", ENC))
        assert (await third.ask("POST", DEC, ids(*keys), f"{header}: {SLAVE}")).status == 401

    told(story, MASTER, THIRD)


def test_a_certificate_that_ends_ends_the_connection_with_the_next_request(told: Callable[..., None]) -> None:
    now = [0.0]

    async def story(master: Wire) -> None:
        assert (await master.ask("GET", path(SLAVE, "status"))).status == 200
        now[0] = 4e9
        reply = await master.ask("GET", path(SLAVE, "status"))
        assert (reply.status, error_in(reply)) == (401, "the client certificate has expired")
        assert await master.ended()

    told(story, MASTER, clock=lambda: now[0])


# --- 503 --------------------------------------------------------------------------------------------------------------

FAILURES: list[tuple[Exception, str, str]] = [
    (
        Refusal("KEY_SHORTAGE", "too few keys are ready from km/a to km/b"),
        "5",
        "too few keys are ready from km/a to km/b",
    ),
    (Refusal("FAR_END_SILENT", "km/b does not answer"), "5", "km/b does not answer"),
    (Overloaded("900 operations wait"), "1", "too many requests wait at this key manager"),
    (StoreError("disk /var/lib/x is full"), "1", "the key manager cannot use its store now"),
    (ZeroDivisionError("a defect"), "1", "the key manager cannot answer this now"),
]


@pytest.mark.parametrize(("failure", "retry", "message"), FAILURES)
def test_what_is_no_fault_of_the_sae_is_a_503_with_a_reason_in_the_log(
    told: Callable[..., None], delivery: MemoryDelivery, failure: Exception, retry: str, message: str
) -> None:
    delivery.failure = failure

    async def story(master: Wire) -> None:
        reply = await master.ask("POST", ENC)
        assert (reply.status, reply.headers["retry-after"], error_in(reply)) == (503, retry, message)

    with capture_logs() as lines:
        told(story, MASTER)
    (line,) = lines
    assert (line["event"], line["method"]) == ("keys could not be supplied", "enc_keys")
    assert str(getattr(failure, "detail", failure)) in line["reason"]
    assert bool(line["exc_info"]) is isinstance(failure, ZeroDivisionError)


def test_a_thousand_failures_are_one_line_a_second(told: Callable[..., None], delivery: MemoryDelivery) -> None:
    delivery.failure = StoreError("no")

    async def story(master: Wire) -> None:
        for _ in range(200):
            assert (await master.ask("POST", ENC)).status == 503

    with capture_logs() as lines:
        told(story, MASTER)
    assert 1 <= len(lines) <= 3


# --- what is no method of the standard, counters ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "target", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/api/v1/keys/sae-1", 404, None),
        ("GET", "/api/v1/keys/sae-1/status/", 404, None),
        ("GET", "/api/v2/keys/sae-1/status", 404, None),
        ("GET", "/api/v1/keys/a/b/status", 404, None),
        ("GET", f"/api/v1/keys/{'a' * 2000}/status", 404, None),
        ("OPTIONS", "*", 404, None),
        ("POST", path(SLAVE, "status"), 405, "GET"),
        ("HEAD", path(SLAVE, "status"), 405, "GET"),
        ("OPTIONS", ENC, 405, "GET, POST"),
        ("DELETE", ENC, 405, "GET, POST"),
        ("PUT", DEC, 405, "GET, POST"),
    ],
)
def test_what_the_standard_does_not_have_is_an_ordinary_error(
    told: Callable[..., None], verb: str, target: str, status: int, allow: str | None
) -> None:
    async def story(master: Wire) -> None:
        reply = await master.ask(verb, target)
        assert (reply.status, reply.headers.get("allow")) == (status, allow)
        assert (await master.ask("GET", path(SLAVE, "status"))).status == 200

    told(story, MASTER)


def test_each_method_is_counted_by_itself(told: Callable[..., None], delivery: MemoryDelivery) -> None:
    counters = MethodCounters()

    async def story(master: Wire, slave: Wire) -> None:
        keys = keys_in(await master.ask("POST", ENC))
        keys_in(await master.ask("POST", ENC))  # more new keys: no repetition
        await slave.ask("POST", DEC, ids(*keys))
        await slave.ask("POST", DEC, ids(*keys))  # the same keys again
        delivery.failure = StoreError("no")
        await master.ask("GET", ENC)
        await master.ask("GET", ENC)  # again, after a failure of ours
        await master.ask("GET", "/nowhere")

    with capture_logs():
        told(story, MASTER, SLAVE, observed=counters.observed)
    counted = {name: (one.requests, one.failures, one.repeats) for name, one in counters.methods.items()}
    assert counted == {"enc_keys": (4, 2, 1), "dec_keys": (2, 1, 1), "-": (1, 1, 0)}
    for one in counters.methods.values():
        assert 0 < one.least_s <= one.mean_s <= one.longest_s < 5
        assert sum(one.statuses.values()) == one.requests
        assert one.requests - one.statuses.get(200, 0) == one.failures


def test_no_key_is_in_a_log_line(told: Callable[..., None], delivery: MemoryDelivery) -> None:
    seen: list[bytes] = []

    async def story(master: Wire, slave: Wire) -> None:
        keys = keys_in(await master.ask("POST", ENC, b'{"number": 4}'))
        seen.extend(keys.values())
        await slave.ask("POST", DEC, ids(*keys, str(uuid4())))
        delivery.failure = ZeroDivisionError("a defect")
        await slave.ask("POST", DEC, ids(*keys))

    with capture_logs() as lines:
        told(story, MASTER, SLAVE)
    text = repr(lines)
    assert lines
    assert not any(form in text for key in seen for form in (key.hex(), base64.b64encode(key).decode(), repr(key)))
