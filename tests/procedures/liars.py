"""Certified parties that lie: what they sign instead of, and before, an honest message."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.procedures.key_network import Network
from tests.world import Sent, World

from qsotn import wire
from qsotn.crypto.identity import Identity
from qsotn.domain import PartyId, Secret
from qsotn.errors import PeerError
from qsotn.interfaces import BY_NAME, Seat
from qsotn.keynetwork.relay import Mode, hide
from qsotn.messages import Message, ProcedureRefusal
from qsotn.procedures import pool_supply
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.turn import Outgoing, Row, Work, read_row
from qsotn.runtime.failing import _neighbours


class Lie(NamedTuple):
    """Bytes for the receiver of the honest message, and the error they must raise there."""

    data: bytes
    error: type[PeerError]


def retold(world: World, sent: Sent, *, author: Identity | None = None, body: Any = None, **changes: Any) -> bytes:
    """An honest datagram as its sender, or another author, would have signed it with other contents."""
    content = world.opened(sent.data).envelope
    identity = author or world.nodes[content.sender].identity
    bent = msgspec.structs.replace(content, body={**content.body, **(body or {})}, **changes)
    if author is not None:
        bent = msgspec.structs.replace(bent, sender=author.party)
    interface = BY_NAME[bent.interface]
    receiver = world.verified(bent.receiver) if interface.sealed else None
    return wire.encode(wire.pack(interface, bent, wire.sign(identity, bent), receiver))


def find(world: World, message: type[Message]) -> Sent:
    """The first datagram with a message of this type, of all that were sent in this world."""
    for sent in world.wire.sent:
        if isinstance(world.opened(sent.data).message, message):
            return sent
    raise AssertionError(f"no {message.__name__} was sent")


def signed_in(world: World, message: type[Message]) -> bytes:
    """What the author of the first message of this type signed."""
    return world.opened(find(world, message).data).signed


def lie_before(world: World, message: type[Message], lies: Callable[[Sent], Iterable[Lie]]) -> list[Lie]:
    """Try lies on the receiver just before it gets the first honest message of a type; return, in time, what was tried.

    Each must raise its error and leave all that the receiver has as it was.
    """
    tried: list[Lie] = []

    def watch(sent: Sent) -> None:
        if tried or not isinstance(world.opened(sent.data).message, message):
            return
        for lie in lies(sent):
            tried.append(lie)
            before = world.dump(sent.hop)
            with pytest.raises(PeerError) as caught:
                world.nodes[sent.hop].receive(lie.data)
            assert type(caught.value) is lie.error, f"{caught.value!r}, expected {lie.error.__name__}"
            assert world.dump(sent.hop) == before

    world.wire.before = watch
    return tried


NO = ProcedureRefusal("SPITE", "the platform changed its mind")


def refuse_everything(world: World | Network, party: PartyId) -> None:
    """A party that turned has a refusal to send to everybody, in every procedure it ever took part in."""

    def send(_: Any, work: Work) -> None:
        for row in [read_row(content) for content in work.desk.transaction.rows()]:
            for seat in _met(row):
                work.outgoing.append(Outgoing(work.rows.setdefault(row.key, row), seat, NO))

    world.begin(party, send)


def _met(row: Row) -> list[Seat]:
    ladder = LADDERS[row.ladder]
    return [seat for seat in _neighbours(row) if ladder.interface_between(row.seat, seat) is not None]


def flipped(data: bytes) -> bytes:
    """The same bytes but for one bit."""
    return data[:-1] + bytes([data[-1] ^ 1])


def passes_other_bits(patch: pytest.MonkeyPatch, liar: PartyId) -> None:
    """A relay encrypts, and signs for, something else than it was given."""

    def lying(mode: Mode, pad: Secret, units: Secret, context: bytes) -> bytes:
        if liar.encode() in context:
            units = Secret(flipped(units.reveal()))
        return hide(mode, pad, units, context)

    patch.setattr(pool_supply, "hide", lying)
