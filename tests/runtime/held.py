"""Datagrams held back on the wire, handed over by a test itself; and what a party has in its outbox."""

from __future__ import annotations

from tests.world import Sent, World

from qsotn.domain import PartyId
from qsotn.errors import LineError
from qsotn.messages import Message
from qsotn.runtime.outcomes import Intake


def gather(world: World, hop: PartyId, *messages: type[Message]) -> list[bytes]:
    """Hold back what brings these messages to a party until nobody has anything else to say; return it."""
    held: dict[bytes, None] = {}

    def hold(sent: Sent) -> None:
        if sent.hop == hop and isinstance(world.opened(sent.data).message, messages):
            held[sent.data] = None
            raise LineError("held back")

    world.wire.before = hold
    for _ in range(30):
        world.pump()
    world.wire.before = lambda _: None
    return list(held)


def take(world: World, party: PartyId, *datagrams: bytes) -> Intake:
    return world.nodes[party].receive_all([(data, None) for data in datagrams])


def outbox(world: World, party: PartyId) -> list[tuple[str, str]]:
    """What a party has to say: to whom, and which message."""
    rows = world.province.stores[party]._connection.execute("SELECT next_hop, datagram FROM outbox ORDER BY number")
    return [(hop, world.opened(data).envelope.message) for hop, data in rows]
