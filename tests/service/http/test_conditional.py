"""ETags: a representation is sent once, and an order meets the resource it was meant for (RFC 9110, section 13)."""

from __future__ import annotations

import pytest
from tests.service.http.driver import Client, application_of
from tests.world import World

from qsotn.app.province import POMP

LINE = "/operations/v1/lines/line-1"


@pytest.fixture
def client(own_province: World) -> Client:
    return Client(application_of(own_province, POMP))


def test_an_etag_is_strong_and_stays_while_the_resource_does(client: Client) -> None:
    first, second = client("GET", LINE), client("GET", LINE)
    assert first.headers["etag"] == second.headers["etag"]
    assert first.headers["etag"].startswith('"')


def test_an_etag_changes_with_the_resource(client: Client) -> None:
    before = client("GET", LINE).headers["etag"]
    assert client.order("DELETE", LINE, "k").status == 202
    assert client("GET", LINE).headers["etag"] != before


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("{}", 304),
        ("W/{}", 304),
        ('"other", {}', 304),
        ('"other",W/{}', 304),
        ("*", 304),
        ('"other"', 200),
        ('""', 200),
    ],
)
def test_a_client_gets_what_it_does_not_have(province: World, form: str, status: int) -> None:
    client = Client(application_of(province, POMP))
    etag = client("GET", LINE).headers["etag"]
    reply = client("GET", LINE, headers={"if-none-match": form.format(etag)})
    assert (reply.status, reply.headers["etag"]) == (status, etag)
    assert (reply.body == b"") == (status == 304)


@pytest.mark.parametrize(
    ("form", "status"),
    [("{}", 202), ('"other", {}', 202), ("*", 202), ("W/{}", 412), ('"other"', 412), ('W/"other"', 412)],
)
@pytest.mark.parametrize(("method", "path"), [("DELETE", LINE), ("POST", f"{LINE}/rekeys")])
def test_an_order_is_given_only_to_the_resource_it_was_meant_for(
    client: Client, method: str, path: str, form: str, status: int
) -> None:
    before = client("GET", LINE)
    reply = client.order(method, path, "k", headers={"if-match": form.format(before.headers["etag"])})
    assert reply.status == status
    if status == 412:
        assert (reply.problem, reply.headers["etag"]) == ("precondition-failed", before.headers["etag"])
        assert client("GET", LINE).body == before.body


def test_a_device_is_revoked_only_as_it_was_seen(client: Client) -> None:
    device = "/operations/v1/cpes/jinan-1"
    etag = client("GET", device).headers["etag"]
    assert client.order("DELETE", f"{device}?reason=lost", "1", headers={"if-match": '"other"'}).status == 412
    assert client.order("DELETE", f"{device}?reason=lost", "2", headers={"if-match": etag}).status == 202
    assert client.order("DELETE", f"{device}?reason=lost", "3", headers={"if-match": etag}).status == 412


@pytest.mark.parametrize("given", ["", "etag", '"a', '"a" "b"', '"a",', 'w/"a"', '*, "a"', '"a b"'])
def test_what_is_no_entity_tag_is_refused(province: World, given: str) -> None:
    client = Client(application_of(province, POMP))
    for reply in (
        client("GET", LINE, headers={"if-none-match": given}),
        client.order("DELETE", LINE, "k", headers={"if-match": given}),
    ):
        assert (reply.status, reply.problem) == (400, "malformed-request")


def test_a_neighbour_reads_a_procedure_once(province: World) -> None:
    neighbour = Client(application_of(province, POMP), province.nodes[POMP].party)
    (procedure, *_) = [row.procedure for row in province.rows(POMP)]
    path = f"/operations/v1/procedures/{procedure}"
    assert neighbour("GET", path).problem == "forbidden"
    operator = Client(application_of(province, POMP))
    etag = operator("GET", path).headers["etag"]
    assert operator("GET", path, headers={"if-none-match": etag}).status == 304
