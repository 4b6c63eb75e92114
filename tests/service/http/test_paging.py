"""Lists by page: nothing is skipped or shown twice, whatever is added meanwhile, and a cursor is what it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from tests.service.http.driver import Client, application_of
from tests.world import World

from qsotn.app.province import KM_A, POMP, QKMP, QSSP_A, QSSP_B
from qsotn.domain import PartyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.procedures.turn import Row, Work
from qsotn.service.http.paging import Window, cursor_after, key_before, page
from qsotn.service.http.problems import HttpProblem
from qsotn.service.http.procedures import SCANNED

ACCOUNTS = "/operations/v1/accounts"


class Records:
    """Records by key, read as a collection is."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = set(keys)

    def items(self, *, after: str, limit: int) -> Iterator[tuple[str, str]]:
        return ((key, key) for key in sorted(key for key in self.keys if key > after)[:limit])


def pages(records: Records, limit: int) -> Iterator[tuple[str, ...]]:
    cursor: str | None = ""
    while cursor is not None:
        found = page("records", Window(cursor, limit), records.items, lambda record: record)
        yield found.items
        cursor = found.next_cursor


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("limit", [1, 2, 3, 200])
def test_pages_together_are_the_list(count: int, limit: int) -> None:
    keys = [f"key-{number}" for number in range(count)]
    found = list(pages(Records(keys), limit))
    assert [item for items in found for item in items] == keys
    assert len(found) == max(1, -(-count // limit))


def test_what_is_added_and_removed_meanwhile_moves_nothing_else() -> None:
    chance = random.Random(1)
    for _ in range(50):
        before = [f"{number:03}" for number in chance.sample(range(500), 40)]
        records, seen = Records(before), list[str]()
        gone = set[str]()
        for items in pages(records, 7):
            seen += items
            records.keys |= {f"{number:03}" for number in chance.sample(range(500), 5)}
            victim = chance.choice(sorted(records.keys))
            records.keys.discard(victim)
            gone.add(victim)
        assert seen == sorted(set(seen))
        assert set(before) - gone <= set(seen)


@pytest.mark.parametrize("key", ["a", "line-1/a", "8c9e6679-7425-40de-944b-e07fc1f90ae7/~", "济南", "x" * 200])
def test_a_cursor_says_where_its_page_begins(key: str) -> None:
    assert key_before("lines", cursor_after("lines", key)) == key


@pytest.mark.parametrize(
    "cursor",
    [
        cursor_after("cpes", "line-1"),
        cursor_after("lines", "line-1")[:-1],
        cursor_after("lines", "line-1") + "A",
        cursor_after("lines", "line-1").swapcase(),
        cursor_after("lines", "line-1")[:-1] + "=",
        "AAAAAAAA",
        "A",
        "_",
    ],
)
def test_a_cursor_that_this_list_did_not_give_out_is_refused(cursor: str) -> None:
    with pytest.raises(HttpProblem, match="not one that this list gave out"):
        key_before("lines", cursor)


def test_no_bit_of_a_cursor_can_be_turned() -> None:
    cursor = cursor_after("lines", "line-1")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place in range(len(cursor)):
        for letter in set(letters) - {cursor[place]}:
            with pytest.raises(HttpProblem):
                key_before("lines", cursor[:place] + letter + cursor[place + 1 :])


def test_an_operator_leafs_through_a_list_that_grows(newcomer: Client) -> None:
    for number in range(5):
        newcomer.order("POST", ACCOUNTS, f"open-{number}", json={"name": f"bank-{number}"})
    first = newcomer("GET", f"{ACCOUNTS}?limit=2").json()
    newcomer.order("POST", ACCOUNTS, "behind", json={"name": "bank-0-too"})
    newcomer.order("POST", ACCOUNTS, "before", json={"name": "bank-1-too"})
    second = newcomer("GET", f"{ACCOUNTS}?limit=200&cursor={first['next_cursor']}").json()
    assert [one["name"] for one in first["items"]] == ["bank-0", "bank-1"]
    assert [one["name"] for one in second["items"]] == ["bank-1-too", "bank-2", "bank-3", "bank-4"]
    assert second["next_cursor"] is None


def leafed(client: Client, path: str, limit: int) -> list[list[Any]]:
    """Every page's items."""
    found, cursor = list[list[Any]](), ""
    while True:
        reply = client("GET", f"{path}?limit={limit}&cursor={cursor}").json()
        found.append(reply["items"])
        if reply["next_cursor"] is None:
            return found
        cursor = reply["next_cursor"]


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_procedures_are_listed_whole(province: World, limit: int) -> None:
    client = Client(application_of(province, QSSP_A))
    found = leafed(client, "/operations/v1/procedures", limit)
    wanted = sorted({row.procedure for row in province.rows(QSSP_A)})
    assert [item["procedure"] for items in found for item in items] == wanted
    assert all(len(items) <= limit for items in found)


def both_seats(qssp: Any, work: Work) -> None:
    """Forty procedures in which a QSSP sits at both ends, as when a line begins and ends in its city."""
    for number in range(40):
        procedure = ProcedureId(f"8c9e6679-7425-40de-944b-0000000000{number:02}")
        for seat in (Seat.QSSP_A, Seat.QSSP_B):
            work.add(Row(procedure, "leased-line", seat, "line-2", {seat: QSSP_A}, qssp.desk.now, qssp.desk.now))


def test_a_procedure_is_shown_with_all_its_parts_wherever_a_page_ends(own_province: World) -> None:
    own_province.begin(QSSP_A, both_seats)
    found = leafed(Client(application_of(own_province, QSSP_A)), "/operations/v1/procedures", 50)
    assert [len(item["parts"]) for items in found for item in items if item["subject"] == "line-2"] == [2] * 40


@pytest.mark.parametrize(
    ("visitor", "interface", "count"), [(POMP, "ioq", 2), (QKMP, "iqq", 1), (QSSP_B, "iqq", 1), (KM_A, "ak", 2)]
)
def test_a_neighbour_sees_its_own_procedures_in_pages_of_bounded_work(
    own_province: World, monkeypatch: pytest.MonkeyPatch, visitor: PartyId, interface: str, count: int
) -> None:
    monkeypatch.setattr("qsotn.service.http.messages.SCANNED", 3)
    assert SCANNED > 100
    own_province.begin(QSSP_A, both_seats)
    client = Client(application_of(own_province, QSSP_A), visitor)
    found = leafed(client, f"/{interface}/v1/procedures", 50)
    wanted = sorted(row.procedure for row in own_province.rows(QSSP_A) if visitor in row.seats.values())
    assert [item["procedure"] for items in found for item in items] == wanted
    assert (len(wanted), len(found) > 20) == (count, True)
