"""No block of a link is forgotten: what waits for the far end is offered again, and at last written off at both ends.

A block that both ends hold becomes available as soon as each can reach the other: whichever end waits offers it. One
that only one end got is refused as soon as the modules have begun a later exchange at the other. Whatever is left, as
when the ends cannot reach each other, is written off after `EXPIRES_US`; then the far end, which may have agreed
meanwhile, is told to write it off too, until it answers. So of no block is one end ready and the other not for good.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from qsotn.errors import WrongParty
from qsotn.interfaces import KX, Seat
from qsotn.messages import BlockWithdrawal, BlockWithdrawn
from qsotn.parties.desk import Collection, Desk
from qsotn.parties.km import Km
from qsotn.parties.km_blocks import KeyBlock, block_key
from qsotn.parties.km_losses import LostBlock, Withdrawal, withdrawals, write_off
from qsotn.procedures import key_supply
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

BLOCK_WITHDRAWAL = Ladder("block-withdrawal", "ours: a block that is of no use")
OFFERED_AGAIN_US: Final = 30 * 1_000_000
"""How long a block waits before an end offers it, again or for the first time."""
EXPIRES_US: Final = 3600 * 1_000_000
"""How long a block waits for the far end's agreement at most."""
_LONGEST_REASON: Final = 200


class Offer(msgspec.Struct, frozen=True):
    """Since when a block waits here, and when it was offered last."""

    since: int
    offered_at: int


def offers(desk: Desk) -> Collection[Offer]:
    """Blocks that waited for longer than they should, by `link/number`."""
    return desk.collection("block-offers", Offer)


def look_after_blocks(km: Km, work: Work) -> list[LostBlock]:
    """Offer again what waits for the far end, and write off what waited too long; return the accounts of that."""
    pending = [block for link in km.configuration.links for block in km.pending(link)]
    _forget_offers(km.desk, {block.key for block in pending})
    found = [account for block in pending if (account := _look_after(km, work, block)) is not None]
    for one in list(withdrawals(km.desk).values()):
        if one.told_at + key_supply.AGREEMENT_LIFETIME_US <= km.desk.now:
            _withdraw(km, work, one)
    return found


def _forget_offers(desk: Desk, pending: AbstractSet[str]) -> None:
    for key in [key for key, _ in offers(desk).items() if key not in pending]:
        offers(desk).delete(key)


def _look_after(km: Km, work: Work, block: KeyBlock) -> LostBlock | None:
    now = km.desk.now
    offer = offers(km.desk).get(block.key) or Offer(block.at or now, block.at)
    if offer.since + EXPIRES_US <= now:
        reason = f"{km.configuration.links[block.link]} did not agree on it within {EXPIRES_US // 1_000_000} s"
        return write_off(km, block, reason, withdraw=True)
    if offer.offered_at + OFFERED_AGAIN_US <= now and not work.about(f"{block.link}/{block.number}"):
        key_supply.announce(km, work, block.link, block.number)
        offers(km.desk).put(block.key, Offer(offer.since, now))
    return None


# --- a block is withdrawn -------------------------------------------------------------------------------------------


def _withdraw(km: Km, work: Work, one: Withdrawal) -> None:
    now = km.desk.now
    withdrawals(km.desk).put(block_key(one.link, one.number), msgspec.structs.replace(one, told_at=now))
    seats = {Seat.KM_NEAR: km.desk.party, Seat.KM_FAR: km.configuration.links[one.link]}
    subject, until = f"{one.link}/{one.number}", now + key_supply.AGREEMENT_LIFETIME_US
    row = work.add(Row(new_procedure(km.desk), BLOCK_WITHDRAWAL.name, Seat.KM_NEAR, subject, seats, until, now))
    message = BlockWithdrawal(one.link, one.number, one.reason[:_LONGEST_REASON])
    Turn(work, row, None, km.desk.party, Seat.KM_NEAR).send(Seat.KM_FAR, message)


@BLOCK_WITHDRAWAL.step("1", Seat.KM_NEAR, Seat.KM_FAR, KX, BlockWithdrawal)
def write_off_withdrawn(km: Km, turn: Turn[BlockWithdrawal]) -> None:
    """The far end writes off what it has of the block, also if it had agreed on it."""
    told = turn.message
    if km.configuration.links.get(told.link) != turn.sender:
        raise WrongParty(f"{turn.sender} is not the far end of {told.link}")
    turn.row.subject = f"{told.link}/{told.block}"
    block = km.blocks.get(block_key(told.link, told.block))
    if block is not None:
        write_off(km, block, f"{turn.sender} wrote it off: {told.reason}"[:_LONGEST_REASON])
    turn.send(Seat.KM_NEAR, BlockWithdrawn(told.link, told.block))


@BLOCK_WITHDRAWAL.step("2", Seat.KM_FAR, Seat.KM_NEAR, KX, BlockWithdrawn, answers="1")
def note_withdrawn(km: Km, turn: Turn[BlockWithdrawn]) -> None:
    """Both ends have written it off; the account stays."""
    link, _, number = turn.row.subject.rpartition("/")
    withdrawals(km.desk).delete(block_key(link, int(number)))


BLOCK_WITHDRAWAL.sealed()
