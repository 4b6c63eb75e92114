"""Requests are read strictly and within bounds, and the role decides before the body is read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.service.http.driver import OPERATOR, Client, DirectWorker, Incoming, application_of, ask, scope_of
from tests.world import World

from qsotn.app.province import PMP, POMP
from qsotn.domain import PartyId
from qsotn.service.http.request import LARGEST_HEADER, LARGEST_JSON, LARGEST_TARGET, MOST_HEADERS

ACCOUNTS = "/operations/v1/accounts"
KEYED = {"idempotency-key": "one"}
JSON = {**KEYED, "content-type": "application/json"}


@pytest.fixture(scope="session")
def client(province: World) -> Client:
    """The operator at a POMP; nothing here gets as far as a change."""
    return Client(application_of(province, POMP))


# --- target ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("limit=1&limit=1", "twice"),
        ("limit=0", ">= 1"),
        ("limit=201", "<= 200"),
        ("limit=", "Expected `int`"),
        ("limit=1.0", "Expected `int`"),
        ("limit=%2B1", "Expected `int`"),
        ("limit=01", "Expected `int`"),
        ("limit=1e1", "Expected `int`"),
        ("limit=true", "Expected `int`"),
        ("limit=99999999999999999999", "Expected `int`"),
        ("limit", "cannot be read"),
        ("page=2", "unknown field `page`"),
        ("limit=1&", "cannot be read"),
        ("&".join(f"x{number}=1" for number in range(17)), "cannot be read"),
        ("cursor=%zz", "percent"),
        ("cursor=%ff", "cannot be read"),
        ("cursor=é", "cannot be read"),
        ("cursor=a%0A", "regex"),
        ("cursor=abc", "not one that this list gave out"),
    ],
)
def test_a_query_that_is_not_as_declared_is_refused(client: Client, query: str, complaint: str) -> None:
    reply = client("GET", f"{ACCOUNTS}?{query}")
    assert (reply.status, reply.problem) == (400, "malformed-request")
    assert complaint in reply.json()["detail"]


def test_an_operation_without_parameters_takes_none(client: Client) -> None:
    assert client("GET", "/livez?verbose=1").status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/operations/v1/lines/a b",
        "/operations/v1/lines/line-1\n",
        "/operations/v1/lines/" + "x" * 65,
        "/operations/v1/cpes/" + "x" * 57,
        "/operations/v1/cpes/../lines",
        "/operations/v1/cpes/",
        "/operations/v1/procedures/8C9E6679-7425-40DE-944B-E07FC1F90AE7",
        "/operations/v1/procedures/courier",
        "/operations/v1/lines/",
        "/operations/v1/",
        "/",
        "",
        "//livez",
        "/livez/",
    ],
)
def test_a_path_that_names_nothing_is_not_found(client: Client, path: str) -> None:
    reply = client("GET", path)
    assert (reply.status, reply.problem) == (404, "not-found")


def test_a_long_target_is_refused_before_it_is_looked_at(client: Client) -> None:
    reply = client("GET", f"{ACCOUNTS}?cursor={'a' * LARGEST_TARGET}")
    assert (reply.status, reply.problem) == (414, "uri-too-long")


# --- header ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [("x", "y" * LARGEST_HEADER)],
        [(f"x-{number}", "y") for number in range(MOST_HEADERS + 1)],
    ],
)
def test_a_large_header_is_refused(client: Client, headers: list[tuple[str, str]]) -> None:
    reply = client("GET", "/livez", headers=headers)
    assert (reply.status, reply.problem) == (431, "request-header-fields-too-large")


@pytest.mark.parametrize("name", ["idempotency-key", "content-type", "content-length"])
def test_a_header_that_counts_comes_once(client: Client, name: str) -> None:
    headers = [*JSON.items(), ("content-length", "16"), (name, "16")]
    reply = client("POST", ACCOUNTS, headers=headers, body=b'{"name": "bank"}')
    assert (reply.status, reply.problem) == (400, "malformed-request")
    assert name in reply.json()["detail"]


# --- body -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "body", "status", "name"),
    [
        (JSON, b"", 400, "malformed-request"),
        (JSON, b"{", 400, "malformed-request"),
        (JSON, b'{"name": "\xff"}', 400, "malformed-request"),
        (JSON, b'{"name": "\\ud800"}', 400, "malformed-request"),
        (JSON, b'{"name": "bank"} {}', 400, "malformed-request"),
        (JSON, b'{"name": NaN}', 400, "malformed-request"),
        (JSON, b"[" * 50_000, 400, "malformed-request"),
        (JSON, b'{"x": ' + b"[" * 50_000, 400, "malformed-request"),
        (JSON, b"null", 422, "invalid-request"),
        (JSON, b"{}", 422, "invalid-request"),
        (JSON, b'{"name": 1}', 422, "invalid-request"),
        (JSON, b'{"name": ""}', 422, "invalid-request"),
        (JSON, b'{"name": "bank\\n"}', 422, "invalid-request"),
        (JSON, b'{"name": "b\xc3\xa4nk"}', 422, "invalid-request"),
        (JSON, b'{"name": "bank", "admin": true}', 422, "invalid-request"),
        (KEYED, b'{"name": "bank"}', 415, "unsupported-media-type"),
        ({**KEYED, "content-type": "text/plain"}, b'{"name": "bank"}', 415, "unsupported-media-type"),
        ({**JSON, "content-type": "application/json; charset=utf-16"}, b"{}", 415, "unsupported-media-type"),
        ({**JSON, "content-encoding": "gzip"}, b"{}", 415, "unsupported-media-type"),
        ({**JSON, "content-length": str(LARGEST_JSON + 1)}, b"{}", 413, "content-too-large"),
        ({**JSON, "content-length": "9" * 5000}, b"{}", 413, "content-too-large"),
        ({**JSON, "content-length": "²"}, b"{}", 413, "content-too-large"),
    ],
)
def test_a_body_that_is_not_as_declared_is_refused(
    client: Client, headers: dict[str, str], body: bytes, status: int, name: str
) -> None:
    reply = client("POST", ACCOUNTS, headers=headers, body=body)
    assert (reply.status, reply.problem) == (status, name)


def test_a_charset_of_utf_8_is_taken(client: Client) -> None:
    reply = client("POST", ACCOUNTS, headers={**JSON, "content-type": 'Application/JSON; charset="UTF-8"'}, body=b"{}")
    assert reply.problem == "invalid-request"


def posted(client: Client, incoming: Incoming, party: PartyId = OPERATOR) -> Any:
    return asyncio.run(ask(client.application, scope_of("POST", ACCOUNTS, JSON, party), incoming))


def test_an_endless_body_is_given_up_as_soon_as_it_is_too_large(client: Client) -> None:
    incoming = Incoming([b"x" * 1024] * 1000)
    reply = posted(client, incoming)
    assert (reply.status, reply.problem, reply.headers["connection"]) == (413, "content-too-large", "close")
    assert incoming.taken == LARGEST_JSON // 1024 + 1


def test_the_largest_body_is_taken_however_it_is_cut(client: Client) -> None:
    body = b'{"name": 1' + b" " * (LARGEST_JSON - 11) + b"}"
    assert posted(client, Incoming([body[:1], body[1:], b""])).problem == "invalid-request"
    assert posted(client, Incoming([body[:1], body[1:], b" "])).problem == "content-too-large"


def test_nothing_of_a_body_is_read_for_a_role_that_may_not(client: Client) -> None:
    incoming = Incoming([b'{"name": "bank"}'])
    reply = posted(client, incoming, PMP)
    assert (reply.status, reply.problem, incoming.taken) == (403, "forbidden", 0)


def test_who_leaves_before_saying_everything_is_not_answered(client: Client) -> None:
    assert posted(client, Incoming([b'{"name"'], leaves=True)).status == 0


# --- methods and the whole ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", ACCOUNTS, "GET, HEAD, OPTIONS, POST"),
        ("TRACE", "/livez", "GET, HEAD, OPTIONS"),
        ("GET", "/ioa/v1/messages", "OPTIONS, POST"),
        ("HEAD", "/ioa/v1/messages", "OPTIONS, POST"),
        ("PROPFIND", "/operations/v1/lines/line-1", "DELETE, GET, HEAD, OPTIONS"),
    ],
)
def test_another_method_is_told_which_there_are(client: Client, method: str, path: str, allow: str) -> None:
    reply = client(method, path)
    assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert method == "HEAD" or reply.problem == "method-not-allowed"


def test_options_tells_the_methods(client: Client) -> None:
    reply = client("OPTIONS", ACCOUNTS)
    assert (reply.status, reply.headers["allow"], reply.body) == (204, "GET, HEAD, OPTIONS, POST", b"")


@pytest.mark.parametrize("path", ["/livez", "/operations/v1/lines/line-1", "/operations/v1/lines/none"])
def test_head_is_get_without_the_body(client: Client, path: str) -> None:
    get, head = client("GET", path), client("HEAD", path)
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
    assert int(head.headers["content-length"]) == len(get.body)


@pytest.mark.parametrize("path", ["/livez", "/nowhere", "/operations/v1/lines/line-1"])
def test_nothing_may_be_kept_by_a_cache(client: Client, path: str) -> None:
    assert client("GET", path).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/livez", "/openapi.json", "/operations/v1/lines", "/nowhere"])
def test_a_connection_without_a_certificate_gets_nothing(client: Client, path: str) -> None:
    reply = Client(client.application, None)("GET", path)
    assert (reply.status, reply.problem) in ((403, "no-peer-certificate"), (404, "not-found"))
    assert (reply.status == 404) == (path == "/nowhere")


class BrokenWorker(DirectWorker):
    """A desk with a defect."""

    async def call(self, function: Any) -> Any:
        raise ZeroDivisionError(f"a secret of {function}")


def test_a_defect_is_a_problem_with_an_id_that_the_log_has(province: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.service.http.driver.DirectWorker", BrokenWorker)
    broken = Client(application_of(province, POMP))
    with capture_logs() as log:
        reply = broken("GET", "/operations/v1/service")
    assert (reply.status, reply.problem) == (500, "internal-error")
    assert reply.json()["instance"] == f"urn:uuid:{log[0]['id']}"
    assert b"secret" not in reply.body


def test_half_an_answer_is_not_followed_by_another(province: World) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            raise ConnectionResetError("gone")

    application = application_of(province, POMP)
    with pytest.raises(ConnectionResetError):
        asyncio.run(application(scope_of("GET", "/livez"), Incoming([]), send))
    assert sent == ["http.response.start", "http.response.body"]
