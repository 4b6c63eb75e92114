"""A key manager: holds its links' blocks, allocates from them, relays for others, and supplies SAEs over AK.

Semantics of ETSI GS QKD 014: same key, same ID, once. Bits leave the pool when they are allocated and never return;
each unit of 256 bits lies wrapped in the store under its own record, which is deleted when the unit is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import KeyShortage, MalformedMessage, Refusal, ReplayedMessage, WrongParty
from qsotn.keynetwork import pool
from qsotn.keynetwork.relay import cut
from qsotn.messages import DecKeysRequest, EncKeysRequest, KeyRelay, SuppliedKey
from qsotn.parties.desk import Collection
from qsotn.parties.km_blocks import Allocation as Allocation
from qsotn.parties.km_blocks import BlockState as BlockState
from qsotn.parties.km_blocks import KeyBlock as KeyBlock
from qsotn.parties.km_blocks import KmBlocks
from qsotn.parties.km_blocks import KmConfiguration as KmConfiguration
from qsotn.parties.km_records import KeyRecord as KeyRecord
from qsotn.parties.km_records import KeyRecords, is_run, new_key_run
from qsotn.parties.km_records import SupplyRecord as SupplyRecord
from qsotn.parties.link_light import is_barred

MAXIMUM_KEYS = 128
SMALLEST_KEY, LARGEST_KEY = 64, 1024
"""Bits: max_key_per_request, min_key_size and max_key_size of ETSI GS QKD 014 clause 6.1."""


class StoredKey(msgspec.Struct, frozen=True):
    """A key that waits for its slave SAE's `dec_keys`."""

    key_id: KeyId
    wrapped: bytes
    master: PartyId
    slave: PartyId
    path: tuple[PartyId, ...]


class Km(KmBlocks):
    """A key manager at its desk."""

    @property
    def keys(self) -> KeyRecords:
        """Every key that passed here, by ID."""
        return KeyRecords(self.desk.collection("supplied-keys", SupplyRecord))

    @property
    def stored(self) -> Collection[StoredKey]:
        """Keys waiting for their slave SAE, by ID."""
        return self.desk.collection("stored-keys", StoredKey)

    # --- bits for keys ----------------------------------------------------------------------------------------------

    def allocate(self, link: str, number: int, size: int) -> tuple[Allocation, list[Secret]]:
        """Take keys from this end's half of the first block that has them. Raises `KeyShortage`."""
        taken, units = self.allocate_units(link, pool.units_for(number, size))
        return taken, cut(units, number, size)

    def check_relay(self, asked: KeyRelay) -> None:
        """Check a hop's form before anything is taken for it.

        Raises `MalformedMessage` for what no `enc_keys` request could have begun, `ReplayedMessage` for a known key ID.
        """
        number = len(asked.key_ids)
        if not 1 <= number <= MAXIMUM_KEYS or not is_run(asked.key_ids):
            raise MalformedMessage(f"a hop carries 1 to {MAXIMUM_KEYS} keys under successive IDs, not these {number}")
        if asked.size % 8 or not SMALLEST_KEY <= asked.size <= LARGEST_KEY:
            raise MalformedMessage(f"a key has {SMALLEST_KEY} to {LARGEST_KEY} bits in whole bytes, not {asked.size}")
        if len(asked.ciphertext) not in (0, number * asked.size // 8):
            raise MalformedMessage(f"{len(asked.ciphertext)} bytes do not hold {number} keys of {asked.size} bits")
        if self.keys.supplies.get(asked.key_ids[0]) is not None:
            raise ReplayedMessage(f"key {asked.key_ids[0]} passed {self.desk.party} before")

    def take_named(self, asked: KeyRelay, sender: PartyId) -> tuple[Allocation, list[Secret]]:
        """Take the keys that the far end of a link named from its half. Raises as `take_units` does."""
        named = _named(asked)
        return named, cut(self.take_units(named, sender), len(asked.key_ids), asked.size)

    def forget_named(self, asked: KeyRelay) -> None:
        """Destroy the units a refused supply named."""
        self.burn_units(_named(asked))

    # --- supply -----------------------------------------------------------------------------------------------------

    def check_enc_request(self, asked: EncKeysRequest, master: PartyId) -> PartyId:
        """Check an `enc_keys` request; return the key manager its slave SAE is attached to.

        Raises `WrongParty` for an SAE of another key manager, `Refusal` with the standard's own words.
        """
        attached = self.configuration.attachments
        if attached.get(master) != self.desk.party:
            raise WrongParty(f"{master} is not attached to {self.desk.party}")
        if asked.slave_sae not in attached:
            raise Refusal("UNKNOWN_SAE", f"no SAE {asked.slave_sae} is known to {self.desk.party}")
        if asked.size % 8:
            raise Refusal("BAD_REQUEST", "size shall be a multiple of 8")
        if not SMALLEST_KEY <= asked.size <= LARGEST_KEY or not 1 <= asked.number <= MAXIMUM_KEYS:
            limits = f"1 to {MAXIMUM_KEYS} keys of {SMALLEST_KEY} to {LARGEST_KEY} bits"
            raise Refusal("BAD_REQUEST", f"asked for {asked.number} keys of {asked.size} bits; supplied are {limits}")
        return attached[asked.slave_sae]

    def new_key_ids(self, number: int) -> tuple[KeyId, ...]:
        """Draw identifiers for new keys."""
        return new_key_run(number, self.desk.entropy)

    def link_with_bits(self, number: int, size: int) -> str:
        """Return the link with most bits that is not barred, for what stays in this city. Raises `KeyShortage`."""
        best = max(self._used(self.configuration.links), key=self.available_bits, default=None)
        if best is None or self.available_bits(best) < number * size:
            raise KeyShortage(f"no link of {self.desk.party} has {number} keys of {size} bits")
        return best

    def link_towards(self, target: PartyId) -> tuple[str, PartyId]:
        """Return the link and next hop towards another key manager. Raises `Refusal` NO_ROUTE."""
        hop = self.configuration.routes.get(target)
        if hop is None:
            raise Refusal("NO_ROUTE", f"{self.desk.party} knows no way to {target}")
        return self.link_to(hop), hop

    def link_to(self, neighbour: PartyId) -> str:
        """Return the link to a neighbour, of several not barred that with most bits. Raises `Refusal` NO_ROUTE."""
        links = [link for link, far in self.configuration.links.items() if far == neighbour]
        if not links:
            raise Refusal("NO_ROUTE", f"no link joins {self.desk.party} and {neighbour}")
        return links[0] if len(links) == 1 else max(self._used(links) or links, key=self.available_bits)

    def _used(self, links: Iterable[str]) -> list[str]:
        return [link for link in links if not is_barred(self.desk, link)]

    def store_keys(
        self, ids: Sequence[KeyId], keys: Sequence[Secret], master: PartyId, slave: PartyId, path: tuple[PartyId, ...]
    ) -> None:
        """Keep supplied keys for the slave SAE."""
        for key_id, key in zip(ids, keys, strict=True):
            wrapped = self.desk.vault.wrap(key, f"stored/{key_id}".encode())
            self.stored.put(key_id, StoredKey(key_id, wrapped, master, slave, path))

    def hand_over(self, asked: DecKeysRequest, slave: PartyId) -> tuple[SuppliedKey, ...]:
        """Give the named keys to the slave SAE, all or none, and forget them.

        Raises `WrongParty` for an SAE of another key manager, `Refusal` KEYS_NOT_FOUND.
        """
        if self.configuration.attachments.get(slave) != self.desk.party:
            raise WrongParty(f"{slave} is not attached to {self.desk.party}")
        found = [self.stored.get(key_id) for key_id in dict.fromkeys(asked.key_ids)]
        keys = [key for key in found if key is not None and (key.master, key.slave) == (asked.master_sae, slave)]
        if not keys or len(keys) != len(asked.key_ids):
            raise Refusal("KEYS_NOT_FOUND", "one or more keys specified are not found on KME")
        supplied = []
        for key in keys:
            material = self.desk.vault.unwrap(key.wrapped, f"stored/{key.key_id}".encode())
            supplied.append(SuppliedKey(key.key_id, material, source_of(key.path)))
            self.stored.delete(key.key_id)
        self.keys.delivered([key.key_id for key in keys], self.desk.now)
        return tuple(supplied)


def source_of(path: Sequence[PartyId]) -> str:
    """Say where a key came from: the key managers whose links carried it, in order."""
    return f"qkd:{'–'.join(path)}"


def _named(asked: KeyRelay) -> Allocation:
    return Allocation(asked.link, asked.block, asked.unit, pool.units_for(len(asked.key_ids), asked.size))
