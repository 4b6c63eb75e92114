"""What a province has come to, apart from chance: two runs with other nonces, keys and names of procedures compare."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgspec
from tests.world import BEGINS_US, World

from qsotn import wire
from qsotn.app.province import PARTIES
from qsotn.domain import PartyId

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BASE64 = re.compile(r"[A-Za-z0-9+/]{20,}={0,2}")
UNCOMPARED = {("counters", "epoch")}
"""How often a terminal was switched on."""


def shape(world: World, party: PartyId) -> dict[str, Counter[Any]]:
    """Everything one party has durably, without the chance and the time in it; procedures are told by their ladder."""
    connection = world.province.stores[party]._connection
    return {
        "records": Counter(
            (collection, plain(key), plain(_decoded(value)))
            for collection, key, value in connection.execute("SELECT collection, key, value FROM records")
            if (collection, key) not in UNCOMPARED
        ),
        "rows": Counter(
            (row.ladder, row.seat, plain(row.subject), row.state, row.failure, row.generation, _keys(row))
            for row in world.rows(party)
        ),
        "journal": Counter(
            (one["ladder"], one["number"], one["part"], one["message"], one["sender"], one["receiver"])
            for (taken,) in connection.execute("SELECT taken FROM journal")
            for one in [msgspec.json.decode(taken)]
        ),
        "outbox": Counter(
            (hop, datagram.interface, datagram.sender, datagram.receiver)
            for hop, data in connection.execute("SELECT next_hop, datagram FROM outbox")
            for datagram in [wire.unpack(data)]
        ),
    }


def shapes(world: World) -> dict[PartyId, dict[str, Counter[Any]]]:
    return {party: shape(world, party) for party in PARTIES}


def _keys(row: Any) -> tuple[str, ...]:
    return (*sorted(row.heard), "|", *sorted(row.said))


def _decoded(value: bytes) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def plain(value: Any) -> Any:
    """A value without what chance and the clock put into it."""
    match value:
        case dict():
            return tuple(sorted((str(plain(key)), repr(plain(item))) for key, item in value.items()))
        case list():
            return tuple(map(plain, value))
        case bytes():
            return "bytes"
        case int() if value > BEGINS_US // 2:
            return "time"
        case str():
            return BASE64.sub("bytes", UUID.sub("name", value))
    return value
