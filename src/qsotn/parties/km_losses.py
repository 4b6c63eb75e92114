"""Bits of a key manager's links that nobody will use, with the reason: an account for each block, and sums by link.

A block is of use only where both ends agree on it. One that they do not share, or that one of them never got, is
written off: what is left of it is destroyed, and the account says how many units that were. Who writes a block off by
himself, and not because the far end refused it, withdraws it there too, and says so until he is answered.
"""

from __future__ import annotations

import msgspec

from qsotn.parties.desk import Collection, Desk
from qsotn.parties.km_blocks import BlockState, KeyBlock, KmBlocks


class LostBlock(msgspec.Struct, frozen=True):
    """The account of one block that was written off: the units that were destroyed here, why, and when."""

    link: str
    number: int
    units: int
    reason: str
    at: int


class LinkLosses(msgspec.Struct, frozen=True):
    """What a link lost at this end since it was installed; `agreed_units` are of blocks that had been agreed on."""

    blocks: int = 0
    units: int = 0
    agreed_units: int = 0
    newest_at: int = 0


class Withdrawal(msgspec.Struct, frozen=True):
    """A block that the far end has not yet been told, or has not yet answered, that it is of no use."""

    link: str
    number: int
    units: int
    reason: str
    told_at: int = 0


def lost_blocks(desk: Desk) -> Collection[LostBlock]:
    """The accounts of blocks that were written off, by `link/number`."""
    return desk.collection("lost-blocks", LostBlock)


def losses(desk: Desk) -> Collection[LinkLosses]:
    """The sums, by link."""
    return desk.collection("link-losses", LinkLosses)


def withdrawals(desk: Desk) -> Collection[Withdrawal]:
    """Blocks to be withdrawn at the far end, by `link/number`."""
    return desk.collection("block-withdrawals", Withdrawal)


def write_off(km: KmBlocks, block: KeyBlock, reason: str, *, withdraw: bool = False) -> LostBlock | None:
    """Destroy what is left of a block, with an account; `withdraw` it at the far end too. None if that was done before.

    Units that were allocated of it before are not counted: the supplies that they served have accounts of their own.
    """
    if block.state is BlockState.DISCARDED:
        return None
    left, now = km.set_state(block, BlockState.DISCARDED), km.desk.now
    account = LostBlock(block.link, block.number, left, reason, now)
    lost_blocks(km.desk).put(block.key, account)
    agreed = block.units if block.state is BlockState.AVAILABLE else 0
    sums = losses(km.desk).get(block.link) or LinkLosses()
    losses(km.desk).put(block.link, LinkLosses(sums.blocks + 1, sums.units + left, sums.agreed_units + agreed, now))
    if withdraw:
        withdrawals(km.desk).put(block.key, Withdrawal(block.link, block.number, block.units, reason))
    return account
