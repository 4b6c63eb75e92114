"""What a key manager offers to its SAEs, as the interfaces towards them (ETSI GS QKD 014, 004, 020) see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qsotn.domain import KeyId, PartyId
from qsotn.keynetwork.delivery import ReadyKey


@dataclass(frozen=True, slots=True)
class Offer:
    """What one master SAE may ask for on behalf of one slave SAE, and how much is there. Sizes in bits."""

    source: PartyId
    target: PartyId
    key_size: int
    stored_keys: int
    """Keys of `key_size` that are ready now; at most `most_stored_keys`."""
    most_stored_keys: int
    most_keys_a_request: int
    largest_key: int
    smallest_key: int
    most_additional_slaves: int


class KeyDelivery(Protocol):
    """Keys for the SAEs of one key manager. Whoever calls it has verified who the SAE is."""

    async def offer(self, master: str, slave: str) -> Offer:
        """Return what is on offer.

        Raises `WrongParty` for a master of another key manager, `Refusal` UNKNOWN_SAE for an unknown slave.
        """

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        """Give new keys to a master SAE; they wait durably for every slave before it is answered.

        Raises `WrongParty`; `Refusal` UNKNOWN_SAE, BAD_REQUEST, KEY_SHORTAGE, FAR_END_SILENT; `Overloaded`,
        `StoreError`.
        """

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        """Give waiting keys to a slave SAE, all or none, in the order asked.

        Raises `WrongParty`, `Refusal` UNKNOWN_SAE, KEYS_NOT_FOUND, NOT_NAMED; `Overloaded`, `StoreError`.
        """
