"""Every ladder there is, by name."""

from __future__ import annotations

from qsotn.procedures.block_account import BLOCK_WITHDRAWAL
from qsotn.procedures.deletion import DELETION
from qsotn.procedures.initialization import INITIALIZATION
from qsotn.procedures.inquest import INQUEST
from qsotn.procedures.key_supply import KEY_BLOCK, KEY_SUPPLY
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.leased_line import LEASED_LINE, REKEY
from qsotn.procedures.pool_confirmation import POOL_CONFIRMATION
from qsotn.procedures.pool_supply import POOL_SUPPLY
from qsotn.procedures.rekey_order import REKEY_ORDER
from qsotn.procedures.revocation import REVOCATION

LADDERS: dict[str, Ladder] = {
    ladder.name: ladder
    for ladder in (
        INITIALIZATION,
        LEASED_LINE,
        REKEY,
        DELETION,
        REKEY_ORDER,
        REVOCATION,
        KEY_SUPPLY,
        KEY_BLOCK,
        BLOCK_WITHDRAWAL,
        POOL_SUPPLY,
        POOL_CONFIRMATION,
        INQUEST,
    )
}
