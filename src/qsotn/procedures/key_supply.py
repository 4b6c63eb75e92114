"""Inside the QKDN, behind AK: how a distilled block becomes available, and how keys reach the other city.

The paper draws the QKDN as a cloud; these two ladders are ours. A supply is one `KEY_SUPPLY` per hop: a key manager
that relays opens the next hop and gives its receipt only when the next has given its own, so the QSSP hears of its
keys only when the far key manager holds them durably.

The origin chooses the whole way (`parties.line_ways`), and tries another one when a hop refuses for want of bits or for
a link's errors: whoever asked hears of a refusal only when there is no further way, or after `MOST_TRIES`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from qsotn.domain import KeyId, PartyId, ProcedureId, Secret
from qsotn.errors import BadProof, KeyShortage, Refusal, WrongParty
from qsotn.interfaces import KX, Seat
from qsotn.keynetwork.choosing import Path
from qsotn.keynetwork.failures import after_misnaming
from qsotn.keynetwork.relay import hindered_link, hindrance, misnamed, one_time_pad
from qsotn.messages import (
    BlockAgreement,
    BlockAnnouncement,
    DecKeysRequest,
    DecKeysResponse,
    EncKeysRequest,
    EncKeysResponse,
    KeyRelay,
    ProcedureRefusal,
    RelayReceipt,
    SuppliedKey,
)
from qsotn.parties import line_ways
from qsotn.parties.desk import Collection, Desk
from qsotn.parties.km import Allocation, BlockState, Km, SupplyRecord, source_of
from qsotn.parties.km_blocks import block_key, joined, split
from qsotn.parties.km_losses import write_off
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, State, Turn, Work

KEY_BLOCK = Ladder("key-block", "ours: a distilled block")
KEY_SUPPLY = Ladder("key-supply", "ours: one hop of a supply")
AGREEMENT_LIFETIME_US = 3600 * 1_000_000
"""How long one offer of a block is repeated; if the far end was away, it is offered anew (`block_account`)."""
MOST_TRIES: Final = 4
"""Ways that one request is tried over, each with bits of its own: a failed try burns those that it took."""
ANOTHER_WAY: Final = frozenset({"KEY_SHORTAGE", "LINK_BARRED", "NO_ROUTE"})
"""What a hop refuses with for its own next link, so that another way may serve."""


class Wanted(msgspec.Struct, frozen=True):
    """What an SAE asked for, at the supply's origin, and the links that earlier attempts were refused for."""

    asked: EncKeysRequest
    master: PartyId
    refused: tuple[str, ...] = ()


class Supply(msgspec.Struct, frozen=True):
    """What waits for a hop's receipt: the request it serves, whom to answer, and at the origin the keys, wrapped."""

    parent: ProcedureId
    parent_seat: Seat
    reply_to: Seat
    key_ids: tuple[str, ...]
    wrapped: bytes = b""
    wanted: Wanted | None = None
    link: str = ""
    way: Path = ()
    """The link that they went on over, and the way that the origin chose, if it did."""


def supplies(desk: Desk) -> Collection[Supply]:
    """Supplies under way, by the hop's procedure."""
    return desk.collection("supplies", Supply)


class Hop(msgspec.Struct, frozen=True):
    """What the far end of a hop did for a supply: the keys it holds or passed on, and the next hop, if there is one."""

    key_ids: tuple[str, ...]
    onward: str = ""


def hops(desk: Desk) -> Collection[Hop]:
    """Hops whose far end this is, by procedure."""
    return desk.collection("hops", Hop)


# --- a block becomes available --------------------------------------------------------------------------------------


def announce(km: Km, work: Work, link: str, number: int) -> None:
    """Tell the far end of a block that was deposited here: one end's own act."""
    block = km.block(link, number)
    seats = {Seat.KM_NEAR: km.desk.party, Seat.KM_FAR: km.configuration.links[link]}
    procedure, now = new_procedure(km.desk), km.desk.now
    row = work.add(
        Row(procedure, KEY_BLOCK.name, Seat.KM_NEAR, f"{link}/{number}", seats, now + AGREEMENT_LIFETIME_US, now)
    )
    announcement = BlockAnnouncement(link, number, block.units, km.prove_block(block))
    Turn(work, row, None, km.desk.party, Seat.KM_NEAR).send(Seat.KM_FAR, announcement)


@KEY_BLOCK.step("1", Seat.KM_NEAR, Seat.KM_FAR, KX, BlockAnnouncement)
def agree_on_block(km: Km, turn: Turn[BlockAnnouncement]) -> None:
    """The far end compares, makes the block available on its side, and says so; a block agreed before it says so of."""
    told = turn.message
    if km.configuration.links.get(told.link) != turn.sender:
        raise WrongParty(f"{turn.sender} is not the far end of {told.link}")
    turn.row.subject = f"{told.link}/{told.block}"
    if km.is_passed_over(told.link, told.block):
        raise Refusal("BLOCK_MISSING", f"block {told.block} of {told.link} never came to {km.desk.party}")
    _make_available(km, told.link, told.block, turn.sender, told.possession)
    block = km.block(told.link, told.block)
    turn.send(Seat.KM_NEAR, BlockAgreement(told.link, told.block, km.prove_block(block)))


@KEY_BLOCK.step("2", Seat.KM_FAR, Seat.KM_NEAR, KX, BlockAgreement, answers="1")
def accept_agreement(km: Km, turn: Turn[BlockAgreement]) -> None:
    """The announcing end compares too; from here both allocate, each in its own half."""
    _make_available(km, turn.message.link, turn.message.block, turn.sender, turn.message.possession)


def _make_available(km: Km, link: str, number: int, prover: PartyId, proof: bytes) -> None:
    block = km.block(link, number)
    if block.state is BlockState.DISCARDED:
        raise Refusal("BLOCK_MISMATCH", f"block {number} of {link} was written off at {km.desk.party}")
    try:
        km.verify_block(block, prover, proof)
    except BadProof as error:
        raise Refusal("BLOCK_MISMATCH", f"{prover} holds another block {number} of {link}") from error
    if block.state is BlockState.PENDING:  # each end may have offered it to the other
        km.set_state(block, BlockState.AVAILABLE)


@KEY_BLOCK.compensate(Seat.KM_NEAR.role)
def discard_block(km: Km, turn: Turn[ProcedureRefusal]) -> None:
    """A block the ends do not share is worth nothing: it is written off. One not answered in time is offered again."""
    if turn.message.code == "TIMEOUT":
        return
    if isinstance(turn.refused, BlockAnnouncement):
        link, number = turn.refused.link, turn.refused.block
    else:
        link, _, digits = turn.subject.partition("/")
        number = int(digits)
    block = km.blocks.get(block_key(link, number))
    if block is not None:
        # The far end offers again what it was refused; what it has agreed on, it has to be told of until it answers.
        answered = isinstance(turn.refused, BlockAgreement)
        write_off(km, block, f"{turn.message.code}: {turn.message.detail}", withdraw=answered)


# --- keys reach the other city --------------------------------------------------------------------------------------


def start(km: Km, turn: Turn[EncKeysRequest], reply_to: Seat) -> None:
    """Begin a supply for an `enc_keys` request; the QSSP in `reply_to` is answered when the far end holds the keys."""
    _begin(km, turn, Wanted(turn.message, turn.sender), reply_to)


def _begin(km: Km, parent: Turn[Any], wanted: Wanted, reply_to: Seat) -> None:
    """Begin one attempt; nothing is changed by one that raises."""
    asked, master = wanted.asked, wanted.master
    target, own = km.check_enc_request(asked, master), km.desk.party
    begun = line_ways.begin(km, target, asked.number, asked.size, wanted.refused)
    ids, path = km.new_key_ids(asked.number), (own, begun.hop)
    if target == own and asked.slave_sae != master:
        km.store_keys(ids, begun.keys, master, asked.slave_sae, path)
    procedure = new_procedure(km.desk)
    wrapped = km.desk.vault.wrap(joined(begun.keys), f"supply/{ids[0]}".encode())
    supply = Supply(parent.procedure, parent.row.seat, reply_to, ids, wrapped, wanted, begun.link, begun.way)
    supplies(km.desk).put(procedure, supply)
    record = SupplyRecord(ids[0], len(ids), "origin", begun.taken, None, path, master, asked.slave_sae, parent.now)
    km.keys.supplies.put(ids[0], record)
    relay = KeyRelay(
        link=begun.link,
        block=begun.taken.block,
        unit=begun.taken.unit,
        size=asked.size,
        key_ids=ids,
        ciphertext=b"",
        master=master,
        slave=asked.slave_sae,
        target=target,
        path=(own,),
        way=begun.way,
    )
    _open_hop(parent, procedure, begun.hop, relay)


def _open_hop(turn: Turn[Any], procedure: ProcedureId, hop: PartyId, relay: KeyRelay) -> None:
    opened = turn.open(KEY_SUPPLY.name, procedure, Seat.KM_NEAR, relay.target, {Seat.KM_FAR: hop})
    opened.send(Seat.KM_FAR, relay)


@KEY_SUPPLY.step("1", Seat.KM_NEAR, Seat.KM_FAR, KX, KeyRelay)
def relay_keys(km: Km, turn: Turn[KeyRelay]) -> None:
    """Take the named bits; discard them, store the keys they carry, or pass these on under the next link's pad."""
    asked, own = turn.message, km.desk.party
    turn.row.subject = asked.target
    km.check_relay(asked)
    line_ways.check_way(own, asked, turn.sender)
    taken, bits = km.take_named(asked, turn.sender)
    path = (*asked.path, own)
    if asked.target == turn.sender:
        _record(km, turn, "discarded", taken, None, path)
        turn.send(Seat.KM_NEAR, RelayReceipt(asked.key_ids, (own,)))
        return
    keys = bits if not asked.ciphertext else _decrypt(asked.ciphertext, bits)
    if asked.target == own:
        km.store_keys(asked.key_ids, keys, asked.master, asked.slave, path)
        hops(km.desk).put(turn.procedure, Hop(asked.key_ids))
        _record(km, turn, "destination", taken, None, path)
        turn.send(Seat.KM_NEAR, RelayReceipt(asked.key_ids, (own,)))
    else:
        _pass_on(km, turn, taken, keys, path)


def _decrypt(ciphertext: bytes, pads: list[Secret]) -> list[Secret]:
    return split(Secret(one_time_pad(ciphertext, joined(pads).reveal())), len(pads))


def _pass_on(km: Km, turn: Turn[KeyRelay], taken: Allocation, keys: list[Secret], path: tuple[PartyId, ...]) -> None:
    asked = turn.message
    link, hop = line_ways.next_hop(km, asked)
    pad, pads = line_ways.draw_pad(km, link, len(keys), asked.size)
    ciphertext = one_time_pad(joined(keys).reveal(), joined(pads).reveal())
    _record(km, turn, "relay", taken, pad, path)
    procedure = new_procedure(km.desk)
    supply = Supply(turn.procedure, Seat.KM_FAR, Seat.KM_NEAR, asked.key_ids, link=link, way=asked.way)
    supplies(km.desk).put(procedure, supply)
    hops(km.desk).put(turn.procedure, Hop(asked.key_ids, procedure))
    onward = msgspec.structs.replace(asked, link=link, block=pad.block, unit=pad.unit, ciphertext=ciphertext, path=path)
    _open_hop(turn, procedure, hop, onward)


def _record(
    km: Km, turn: Turn[KeyRelay], role: str, taken: Allocation, pad: Allocation | None, path: tuple[PartyId, ...]
) -> None:
    asked = turn.message
    first, number = asked.key_ids[0], len(asked.key_ids)
    record = SupplyRecord(first, number, role, taken, pad, path, asked.master, asked.slave, turn.now)
    km.keys.supplies.put(first, record)


@KEY_SUPPLY.step("2", Seat.KM_FAR, Seat.KM_NEAR, KX, RelayReceipt, answers="1")
def pass_receipt(km: Km, turn: Turn[RelayReceipt]) -> None:
    """The far side holds the keys: answer whoever asked, the previous key manager or the QSSP."""
    supply = supplies(km.desk).require(turn.procedure)
    path = (km.desk.party, *turn.message.path)
    parent = turn.resume(supply.parent, supply.parent_seat)
    if supply.parent_seat is Seat.KM_FAR:
        parent.send(supply.reply_to, RelayReceipt(turn.message.key_ids, path))
    else:
        line_ways.note_crossed(km, path)
        parent.send(supply.reply_to, EncKeysResponse(_supplied(km, supply, path)))
    supplies(km.desk).delete(turn.procedure)


def _supplied(km: Km, supply: Supply, path: tuple[PartyId, ...]) -> tuple[SuppliedKey, ...]:
    first, number = supply.key_ids[0], len(supply.key_ids)
    record = km.keys.supplies.require(first)
    delivered = (km.desk.now,) * number
    km.keys.supplies.put(first, msgspec.structs.replace(record, path=path, delivered_at=delivered))
    keys = split(km.desk.vault.unwrap(supply.wrapped, f"supply/{first}".encode()), number)
    return tuple(SuppliedKey(KeyId(one), key, source_of(path)) for one, key in zip(supply.key_ids, keys, strict=True))


def answer_dec_keys(km: Km, turn: Turn[DecKeysRequest], reply_to: Seat) -> None:
    """Answer `dec_keys` at once: the keys are here, or they are not."""
    turn.send(reply_to, DecKeysResponse(km.hand_over(turn.message, turn.sender)))


@KEY_SUPPLY.compensate(Seat.KM_NEAR.role)
def destroy_supply(km: Km, turn: Turn[ProcedureRefusal]) -> None:
    """A supply that failed destroys its keys, here and further on; its request fails unless another way serves it."""
    if isinstance(turn.refused, KeyRelay):
        km.forget_named(turn.refused)
    supply, hop = supplies(km.desk).get(turn.procedure), hops(km.desk).get(turn.procedure)
    for record in (supply, hop):
        for key_id in () if record is None else record.key_ids:
            km.stored.delete(key_id)
    if supply is not None:
        supplies(km.desk).delete(turn.procedure)
        told = _checked(km, turn, supply)
        if not _try_another_way(km, turn, supply, told):
            turn.fail(supply.parent, supply.parent_seat, told)
    if hop is not None and hop.onward:
        turn.fail(ProcedureId(hop.onward), Seat.KM_NEAR, turn.message)


def _checked(km: Km, turn: Turn[ProcedureRefusal], supply: Supply) -> ProcedureRefusal:
    """Hold a refusal that names a link not ahead of the keys against the link that it came back over."""
    told, hop, own = turn.message, turn.row.seats[Seat.KM_FAR], km.desk.party
    over = turn.resume(supply.parent, supply.parent_seat).row.state is State.FAILED  # then it came from before
    if over or not supply.link or not hindered_link(told.detail):
        return told
    way = supply.way or ((own, hop) if turn.subject in (own, hop) else ())
    if line_ways.is_ahead(km, told.detail, supply.link, way, first=supply.wanted is not None):
        return told
    wrong = misnamed(told.detail, hop)
    turn.row.failure = f"{told.code}: {wrong}"  # is logged as a warning
    return ProcedureRefusal(after_misnaming(told.code), hindrance(supply.link, own, wrong))


def _try_another_way(km: Km, turn: Turn[ProcedureRefusal], supply: Supply, told: ProcedureRefusal) -> bool:
    """At the origin: leave the link out that was refused for, and begin again without it if that can be."""
    wanted = supply.wanted
    if wanted is None or told.code not in ANOTHER_WAY:
        return False
    link = hindered_link(told.detail)
    if not supply.way and not line_ways.is_at(km, link, turn.row.seats[Seat.KM_FAR]):
        return False  # nobody knows whether it is on the way that the tables gave
    if not line_ways.note_refusal(km, told.code, link):
        return False
    parent = turn.resume(supply.parent, supply.parent_seat)
    refused = (*wanted.refused, link)
    over = parent.row.state is State.FAILED or parent.row.deadline <= km.desk.now
    if over or len(refused) >= MOST_TRIES:
        return False
    try:
        _begin(km, parent, msgspec.structs.replace(wanted, refused=refused), supply.reply_to)
    except (Refusal, KeyShortage):
        return False  # there is no other way: whoever asked is told what the last one was refused for
    return True


KEY_BLOCK.sealed()
KEY_SUPPLY.revocable = {Seat.KM_NEAR: (), Seat.KM_FAR: (Seat.KM_NEAR,)}
KEY_SUPPLY.sealed()
