"""How a batch of units came to its two ends: a chain of statements, one signed by every key manager on the way.

A supply begins with the origin's statement. It holds the *order* (which units, from where to where, in which mode, over
which path) and a commitment to the bits. Every further key manager repeats the order, quotes the digest of the
statement before its own, and says from which units of which link it took what it was given and under which units of
the next link it passed it on. A statement is a COSE_Sign1 message (RFC 9052) with ML-DSA for the context `PROVENANCE`.

What always holds of a chain that `verify_chain` returned: whoever is in it signed that it relayed this very batch, in
this order, each over a link to the next; what one says it sent is what the next says it received; and each that was
not lying compared the bits it got with the origin's commitment before it signed.

The commitment is HMAC-SHA384 under a key derived from the bits (`crypto/session.py:possession_proof`): it hides them
computationally, not information-theoretically, as the proof of a block does.

Of several shares (`keynetwork.relay.join`) each has a chain of its own; a *provenance* is the chains of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain as chained
from typing import Final, cast

import msgspec

from qsotn.crypto import cbor, envelope, labels
from qsotn.crypto.identity import Identity, Verified
from qsotn.crypto.session import possession_proof
from qsotn.domain import PartyId, Secret
from qsotn.errors import BadProof, MalformedMessage
from qsotn.keynetwork.delivery import Pool
from qsotn.keynetwork.relay import MAXIMUM_UNITS, Mode, UnitRange

KeyOf = Callable[[PartyId], Verified]
"""Finds the certified keys of a party, or raises `BadSignature`."""

MAXIMUM_HOPS: Final = 64
_VERSION: Final = 1


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the origin asks of everybody on the way of one share.

    `path` are all key managers from the origin to the last, or empty if each finds its next hop by its own routes.
    `first` is the number in the pool of the batch's first unit. `expires_at` in microseconds since the epoch.
    """

    batch: str
    share: int
    shares: int
    origin: PartyId
    target: PartyId
    series: int
    first: int
    units: int
    mode: Mode
    path: tuple[PartyId, ...]
    expires_at: int

    @property
    def pool(self) -> Pool:
        """The pool that the units are for."""
        return Pool(self.origin, self.target, self.series)

    @property
    def key(self) -> str:
        """The name of this share."""
        return share_key(self.batch, self.share)


class Leg(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One crossing of a link: the units of it that were used, and the digest of the ciphertext."""

    link: str
    pieces: tuple[UnitRange, ...]
    digest: bytes


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one key manager signs. `previous` is the digest of the statement before, empty at the origin.

    The origin received nothing, and whoever is last passed nothing on. `next` is whom it was passed to.
    """

    order: Order
    position: int
    party: PartyId
    next: PartyId
    received: Leg | None
    passed: Leg | None
    possession: bytes
    previous: bytes
    at: int


@dataclass(frozen=True)
class Provenance:
    """The verified chains of one batch, by share."""

    chains: tuple[tuple[Statement, ...], ...]

    @property
    def order(self) -> Order:
        """What the origin asked, of the first share."""
        return self.chains[0][0].order


def share_key(batch: str, share: int) -> str:
    """Name one share of a batch."""
    return f"{batch}/{share:02}"


def leg(link: str, pieces: Sequence[UnitRange], ciphertext: bytes) -> Leg:
    """Describe one crossing of a link. On the first link, whose units *are* the batch, there is no ciphertext."""
    return Leg(link, tuple(pieces), envelope.digest(ciphertext))


def commitment(order: Order, units: Secret) -> bytes:
    """Commit to the bits of a share."""
    return possession_proof(units, _encode(order))


def hop_context(order: Order, sender: PartyId) -> bytes:
    """Return what AES authenticates on one hop: which share it carries, and who sent it."""
    return cbor.encode([order.batch, order.share, sender])


def end_proof(batch: str, prover: PartyId, units: Secret) -> bytes:
    """Prove to the other end that one holds the units of a whole batch; computational."""
    return possession_proof(units, end_context(batch, prover))


def end_context(batch: str, prover: PartyId) -> bytes:
    """Return what an end's proof is about."""
    return cbor.encode(["end of a supply", batch, prover])


# --- statements -----------------------------------------------------------------------------------------------------


def sign(identity: Identity, statement: Statement) -> bytes:
    """Sign one statement."""
    return envelope.sign(identity, labels.PROVENANCE, _encode(statement))


def digest(signed: bytes) -> bytes:
    """Return the name of one signed statement, as the next one quotes it."""
    return envelope.digest(signed)


def open_statement(signed: bytes, key_of: KeyOf) -> Statement:
    """Verify one statement by itself. Raises `BadSignature`, `MalformedMessage`, or `BadProof` for another's name."""
    opened = envelope.open_signed(signed, labels.PROVENANCE, lambda kid: key_of(_party(kid)).verification_key)
    statement = _decode(opened.payload)
    if statement.party != _party(opened.kid):
        raise BadProof(f"{_party(opened.kid)} signed a statement of {statement.party}")
    return statement


def verify_chain(signed: Sequence[bytes], key_of: KeyOf, *, complete: bool) -> tuple[Statement, ...]:
    """Verify the statements of one share, from the origin's on. A `complete` chain reaches the key manager at its end.

    Raises `PeerError` with the reason for the first statement that does not hold.
    """
    if not 1 <= len(signed) <= MAXIMUM_HOPS:
        raise MalformedMessage(f"a chain has 1 to {MAXIMUM_HOPS} statements, not {len(signed)}")
    found: list[Statement] = []
    for index, one in enumerate(signed):
        statement = open_statement(one, key_of)
        _check_shape(statement, index)
        if found:
            _check_link(found[0], found[-1], statement, signed[index - 1])
        found.append(statement)
    _check_parties(found, complete)
    return tuple(found)


def is_linked(signed: Sequence[bytes]) -> bool:
    """Say whether each statement quotes the bytes of the one before, whatever else they are worth.

    Where that holds, whoever signed the last one signed for all of them.
    """
    for position in range(len(signed) - 1, -1, -1):
        try:
            quoted = claimed_statement(signed[position]).previous
        except MalformedMessage:
            return position < len(signed) - 1  # its bytes are quoted, and are no statement
        if quoted != (digest(signed[position - 1]) if position else b""):
            return False
    return bool(signed)


def _check_shape(statement: Statement, index: int) -> None:
    order, who = statement.order, f"the statement of {statement.party}"
    begins = index == 0
    if not (1 <= order.units <= MAXIMUM_UNITS and 0 <= order.share < order.shares):
        raise BadProof(f"{who} is about share {order.share} of {order.shares} with {order.units} units")
    if statement.position != index or begins != (statement.received is None) or begins != (not statement.previous):
        raise BadProof(f"{who} is not one of position {index}")
    if begins and statement.party != order.origin:
        raise BadProof(f"{who} begins the chain of a supply that {order.origin} is the origin of")
    if (statement.passed is None) != (not statement.next):
        raise BadProof(f"{who} passes on without a next hop, or names one without passing on")
    if statement.passed is not None:
        _check_pieces(statement.passed, order.units if begins else order.mode.pad_units(order.units), who)


def _check_pieces(passed: Leg, wanted: int, who: str) -> None:
    named = [piece.units for piece in passed.pieces]
    if min(named, default=0) < 1 or sum(named) != wanted:
        raise BadProof(f"{who} passes on under {sum(named)} units of {passed.link}, where it takes {wanted}")


def _check_link(first: Statement, last: Statement, statement: Statement, last_signed: bytes) -> None:
    who = f"the statement of {statement.party}"
    if statement.order != first.order:
        raise BadProof(f"{who} is about another order than the origin's")
    if statement.previous != digest(last_signed):
        raise BadProof(f"{who} follows another statement than that of {last.party}")
    if last.next != statement.party:
        raise BadProof(f"{who} follows that of {last.party}, which passed on to {last.next or 'nobody'}")
    if statement.received != last.passed:
        raise BadProof(f"{who} says it received something else than {last.party} says it sent")
    if statement.possession != first.possession:
        raise BadProof(f"{who} commits to other bits than the origin")


def _check_parties(found: Sequence[Statement], complete: bool) -> None:
    order, parties = found[0].order, tuple(one.party for one in found)
    if len(set(parties)) != len(parties) or found[-1].next in parties:
        raise BadProof(f"{order.key} passed a key manager twice: {', '.join(parties)}")
    way = tuple(party for party in (*parties, found[-1].next) if party)
    if order.path and order.path[: len(way)] != way:
        raise BadProof(f"{order.key} was to go over {', '.join(order.path)}, and went over {', '.join(way)}")
    local = order.origin == order.target
    arrived = len(parties) == 2 if local else parties[-1] == order.target
    if complete and not (arrived and not found[-1].next):
        raise BadProof(f"the chain of {order.key} ends at {parties[-1]}, before its last key manager")


# --- the provenance of a batch --------------------------------------------------------------------------------------


def encode(chains: Sequence[Sequence[bytes]]) -> bytes:
    """Put the signed chains of a batch together, by share: what is kept with its units."""
    return cbor.encode([_VERSION, [list(one) for one in chains]])


def verify(encoded: bytes, key_of: KeyOf) -> Provenance:
    """Verify every statement of a batch's provenance. Raises `PeerError` with the first thing that does not hold."""
    chains = tuple(verify_chain(one, key_of, complete=True) for one in signed_chains(encoded))
    _check_shares(chains)
    return Provenance(chains)


def _check_shares(chains: tuple[tuple[Statement, ...], ...]) -> None:
    orders = [one[0].order for one in chains]
    first = orders[0]
    for index, order in enumerate(orders):
        expected = msgspec.structs.replace(first, share=index, shares=len(orders), path=order.path)
        if order != expected:
            raise BadProof(f"share {index} of {first.batch} belongs to another batch than the first one")
    between = list(chained.from_iterable(_relays(one) for one in chains))
    if len(set(between)) != len(between):
        raise BadProof(f"two shares of {first.batch} passed the same relay")


def _relays(statements: Sequence[Statement]) -> list[PartyId]:
    return [one.party for one in statements if one.received is not None and one.passed is not None]


def describe(encoded: bytes, key_of: KeyOf | None = None) -> str:
    """Say in plain words how a batch came to its ends: who relayed what, over which link, in which mode.

    With `key_of` the signatures are verified first, without it the text says that they were not. Raises `PeerError`.
    """
    if key_of is not None:
        return "\n".join(_described(verify(encoded, key_of), "every signature verified"))
    chains = tuple(tuple(claimed_statement(one) for one in signed) for signed in signed_chains(encoded))
    return "\n".join(_described(Provenance(chains), "signatures NOT verified"))


def _described(found: Provenance, standing: str) -> list[str]:
    order = found.order
    last = order.first + order.units - 1
    what = f"batch {order.batch}: units {order.first} to {last} of the pool from {order.origin} to {order.target}"
    lines = [f"{what}, series {order.series}; {standing}"]
    for share, statements in enumerate(found.chains):
        way = "–".join(one.party for one in statements)
        several = f"share {share + 1} of {order.shares}: " if order.shares > 1 else ""
        lines.append(f"{several}{way}, {order.mode}, secrecy of each relayed hop {order.mode.secrecy}")
        lines += [f"  {_deed(one)}" for one in statements]
    return lines


def _deed(statement: Statement) -> str:
    received, passed = statement.received, statement.passed
    if passed is None:
        return f"{statement.party} received {_crossing(received)} and is the last"
    if received is None:
        return f"{statement.party} drew {_crossing(passed)}, which {statement.next} holds too"
    onward = f"passed it on to {statement.next} under {_crossing(passed)}"
    return f"{statement.party} received {_crossing(received)} and {onward}"


def _crossing(one: Leg | None) -> str:
    if one is None:
        return "nothing"
    ranges = (f"{piece.unit}–{piece.unit + piece.units - 1} of block {piece.block}" for piece in one.pieces)
    return f"units {', '.join(ranges)} of {one.link}"


# --- bytes ----------------------------------------------------------------------------------------------------------


def signed_chains(encoded: bytes) -> list[list[bytes]]:
    """Return the signed statements of a provenance, by share; nothing is verified. Raises `MalformedMessage`."""
    match cbor.decode(encoded):
        case [int() as version, [_, *_] as chains] if version == _VERSION and all(map(_is_chain, chains)):
            return cast("list[list[bytes]]", chains)
    raise MalformedMessage(f"a provenance is [{_VERSION}, [[statement, …], …]]")


def _is_chain(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, bytes) for one in value)


def claimed_statement(signed: bytes) -> Statement:
    """Return what a statement claims. NOT verified: good for showing it, never for a decision."""
    return _decode(envelope.claimed_payload(signed))


def claimed_order(signed: bytes) -> Order:
    """Return the order that a statement claims. NOT verified: good for finding a record, never for a decision."""
    return claimed_statement(signed).order


def _encode(value: msgspec.Struct) -> bytes:
    return cbor.encode(msgspec.to_builtins(value, builtin_types=(bytes,)))


def _decode(payload: bytes) -> Statement:
    try:
        return msgspec.convert(cbor.decode(payload), Statement, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"the statement is not of its declared type: {error}") from None


def _party(kid: bytes) -> PartyId:
    try:
        return PartyId(kid.decode("ascii"))
    except UnicodeDecodeError:
        raise MalformedMessage("the key identifier of a statement is not a party") from None
