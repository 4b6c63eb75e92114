"""Bits that did not come from our twin, as blocks of a link: brought to both key managers over Kq like any other.

The interface is that of the QKD modules (`service.http.quantum_modules`): both ends burn an authentication key, and
each takes its own copy. Whoever made these bits authenticated his own exchange, so the key that is burned serves
nothing, and 64 bytes of the block are withheld to take its place: the link can be fed by other modules later.

A key manager allocates nothing of a block before the two have compared it. If only one of them gets it, that one writes
it off, with an account, once the next block comes or its time is over (`procedures.block_account`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from qsotn.domain import Entropy, Secret
from qsotn.errors import LineError, MalformedMessage
from qsotn.quantum.ledger import BlockLedger
from qsotn.service.http.quantum_modules import Block
from qsotn.service.link_keys import AUTHENTICATION_BYTES, POOL_DEPTH, LinkStatus, next_exchange, wants_first_keys

UNIT_BYTES: Final = 32
LEAST_BYTES: Final = AUTHENTICATION_BYTES + UNIT_BYTES
MOST_BYTES: Final = AUTHENTICATION_BYTES + 40 * 1024


class End(Protocol):
    """One end of a link, as `service.twin.ModuleEnd` reaches it. Every method raises `LineError`."""

    async def status(self) -> LinkStatus:
        """Return how it stands."""

    async def install(self, keys: tuple[bytes, ...]) -> None:
        """Bring the first authentication keys."""

    async def begin(self, number: int) -> Secret:
        """Have it burn its key of an exchange."""

    async def deposit(self, block: Block) -> None:
        """Bring its copy of a block."""


class HalfBrought(LineError):
    """A block reached one end, or perhaps did: its bits must not be used again."""


async def available_bits(ends: Sequence[End]) -> int:
    """Return what the emptier end may still allocate. Raises `LineError`."""
    return min([(await end.status()).available_bits for end in ends])


def _nothing() -> None:
    """Note nothing."""


async def bring(
    link: str,
    ends: Sequence[End],
    copies: Sequence[Secret],
    entropy: Entropy,
    depositing: Callable[[], None] = _nothing,
) -> int:
    """Bring each end its copy of new bits, in whole units; return the number of the exchange.

    `depositing` is called before anything is deposited; from then on these bits must serve nothing else.
    Raises `MalformedMessage`, `LineError` or `KeyShortage` with nothing deposited, `HalfBrought` otherwise.
    """
    _check(copies)
    number = next_exchange(await _ready(ends, entropy))
    for end in ends:
        await end.begin(number)
    depositing()
    for end, copy in zip(ends, copies, strict=True):
        try:
            await end.deposit(_block(link, number, copy))
        except LineError as error:
            raise HalfBrought(f"block {number} of {link} did not reach both ends: {error}") from error
    return number


def _check(copies: Sequence[Secret]) -> None:
    sizes = {len(copy) for copy in copies}
    if len(sizes) != 1 or not LEAST_BYTES <= min(sizes) <= MOST_BYTES:
        shown = " and ".join(map(str, sorted(sizes)))
        raise MalformedMessage(f"{shown} bytes: expected {LEAST_BYTES} to {MOST_BYTES}, the same at both ends")


async def _ready(ends: Sequence[End], entropy: Entropy) -> list[LinkStatus]:
    states = [await end.status() for end in ends]
    if not wants_first_keys(states):
        return states
    keys = tuple(entropy(AUTHENTICATION_BYTES) for _ in range(POOL_DEPTH))
    for end in ends:
        await end.install(keys)
    return [await end.status() for end in ends]


def _block(link: str, number: int, copy: Secret) -> Block:
    material = copy.reveal()
    withheld, rest = material[:AUTHENTICATION_BYTES], material[AUTHENTICATION_BYTES:]
    key = rest[: len(rest) // UNIT_BYTES * UNIT_BYTES]
    return Block(number, key, withheld, _ledger(link, number, len(material), len(key)))


def _ledger(link: str, number: int, size: int, net: int) -> BlockLedger:
    """Return an account without light: no pulses are known, so nothing else of the link's physics is either."""
    return BlockLedger(
        link=link,
        block=number,
        pulses=0,
        detections=0,
        key_basis_bits=0,
        test_basis_bits=0,
        error_rate=0.0,
        vacuum_events=0.0,
        single_photon_events=0.0,
        phase_error_rate=0.0,
        leaked_bits_a_to_b=0,
        leaked_bits_b_to_a=0,
        verification_bits=0,
        authentication_bits=AUTHENTICATION_BYTES * 8,
        epsilon_secrecy=0.0,
        epsilon_correctness=0.0,
        epsilon_authentication=0.0,
        secret_bits=size * 8,
        net_bits=net * 8,
        link_seconds=0.0,
    )
