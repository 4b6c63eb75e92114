"""The municipal quantum security service platform: binds CPEs, prepares their key files, delivers session keys wrapped.

The only party besides the CPE itself that holds a device's key file. An entry of a key file is *burned* (overwritten
in the store) in the same transaction that makes the message it protects, so no entry ever protects two.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from qsotn.crypto import cbor
from qsotn.crypto.session import wrap_session_keys
from qsotn.domain import End, KeyId, LineId, PartyId, ProcedureId, Secret
from qsotn.errors import KeyReuse, KeyShortage, OutOfOrder, Refusal, WrongParty
from qsotn.messages import KeyServiceRequest, SuppliedKey
from qsotn.parties.agreement import delivery_context
from qsotn.parties.desk import Collection, Desk

ENTRY_BITS = 256
LARGEST_KEY_FILE = 128
"""Entries: what one `enc_keys` call of ETSI GS QKD 014 may bring here."""
KEYS_PER_GENERATION = 2


class QsspConfiguration(msgspec.Struct, frozen=True):
    """Whom this QSSP works with."""

    km: PartyId
    qkmp: PartyId
    pmp: PartyId


class BindingState(StrEnum):
    """A device's binding: made in step 5, released by the voucher in step 7, active after step 10."""

    RESERVED = "RESERVED"
    BOUND = "BOUND"
    RELEASED = "RELEASED"
    ACTIVE = "ACTIVE"
    DESTROYED = "DESTROYED"
    REVOKED = "REVOKED"


class Binding(msgspec.Struct, frozen=True):
    """One device of this city."""

    cpe: PartyId
    serial_number: str
    pomp: PartyId
    suite: int
    entries: int
    challenge: bytes
    state: BindingState
    binding_id: str
    binding_nonce: bytes
    key_file_id: str
    procedure: ProcedureId
    manifest: bytes = b""
    last_counter: int = 0
    last_key_counter: int = 0


class KeyFile(msgspec.Struct, frozen=True):
    """A quantum key file. An entry is a wrapped QKD key, or nothing once it is burned; `key_ids` name its sources."""

    key_file_id: str
    cpe: PartyId
    key_ids: tuple[KeyId, ...]
    sources: tuple[str, ...]
    entries: tuple[bytes, ...]
    next_entry: int = 0
    transcript: bytes = b""
    confirm_cpe: bytes = b""
    burned: dict[str, str] = {}


class LineService(msgspec.Struct, frozen=True):
    """A line one end of which is in this city."""

    line: LineId
    cpe: PartyId
    end: End
    peer_cpe: PartyId
    peer_qssp: PartyId
    rekey_interval_s: int
    procedure: ProcedureId
    confirmed: bool = False
    generation: int = 0
    keys_drawn: int = 0
    keys_delivered: int = 0
    entries_burned: int = 0


class Generation(msgspec.Struct, frozen=True):
    """The two session keys of one generation, from their draw until the CPE has armed them; then only their IDs."""

    line: LineId
    generation: int
    key_id_a_to_b: KeyId
    key_id_b_to_a: KeyId
    wrapped: tuple[bytes, ...] = ()
    sources: tuple[str, ...] = ()
    drawn_at: int = 0
    key_file_id: str = ""
    entry: int = -1
    wrapped_at: int = 0
    armed_at: int = 0


class Qssp:
    """The QSSP at its desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def configuration(self) -> QsspConfiguration:
        """Whom this QSSP works with."""
        return self.desk.collection("configuration", QsspConfiguration).require("qssp")

    @property
    def bindings(self) -> Collection[Binding]:
        """Devices by CPE."""
        return self.desk.collection("bindings", Binding)

    @property
    def key_files(self) -> Collection[KeyFile]:
        """Key files by identifier."""
        return self.desk.collection("key-files", KeyFile)

    @property
    def services(self) -> Collection[LineService]:
        """Lines by `line/end`: two ends of one line may live in one city."""
        return self.desk.collection("line-services", LineService)

    @property
    def generations(self) -> Collection[Generation]:
        """Session keys by `line/end/generation`."""
        return self.desk.collection("generations", Generation)

    # --- binding and key file (Figure 3) ----------------------------------------------------------------------------

    def check_entries(self, entries: int) -> None:
        """Check the size of a key file. Raises `Refusal` KEY_SHORTAGE."""
        if not 1 <= entries <= LARGEST_KEY_FILE:
            raise Refusal("KEY_SHORTAGE", f"a key file has 1 to {LARGEST_KEY_FILE} entries, not {entries}")

    def reserve_key_file(self, binding: Binding, keys: Sequence[SuppliedKey]) -> bytes:
        """Keep the drawn keys as the entries of a file that is not released yet; return the manifest's commitment."""
        if len(keys) != binding.entries or any(len(key.key) * 8 != ENTRY_BITS for key in keys):
            raise Refusal("KEY_SHORTAGE", f"asked for {binding.entries} keys of {ENTRY_BITS} bits, got {len(keys)}")
        file_id = binding.key_file_id
        entries = tuple(self._wrap(key.key, f"key-file/{file_id}/{n}") for n, key in enumerate(keys))
        key_ids = tuple(key.key_id for key in keys)
        sources = tuple(key.source for key in keys)
        self.key_files.put(file_id, KeyFile(file_id, binding.cpe, key_ids, sources, entries))
        return cbor.encode([file_id, list(key_ids)])

    def destroy_key_file(self, cpe: PartyId, procedure: ProcedureId) -> None:
        """Roll back what one procedure bound: its key file is destroyed, none of its keys returns to the pool."""
        binding = self.bindings.get(cpe)
        if binding is None or binding.procedure != procedure or binding.state is BindingState.REVOKED:
            return
        self.key_files.delete(binding.key_file_id)
        self.bindings.put(cpe, msgspec.structs.replace(binding, state=BindingState.DESTROYED))

    def revoke(self, cpe: PartyId) -> str:
        """Destroy a device's key file, and every key that waits for it; return the file's identifier."""
        binding = self.bindings.get(cpe)
        if binding is None:
            return ""
        self.key_files.delete(binding.key_file_id)
        self.bindings.put(cpe, msgspec.structs.replace(binding, state=BindingState.REVOKED))
        for key, service in self.services.items():
            if service.cpe == cpe:
                self.services.put(key, msgspec.structs.replace(service, confirmed=False))
                self.forget_keys(service.line)
        return binding.key_file_id

    def standing_binding(self, cpe: str) -> Binding:
        """Return a device's binding. Raises `Refusal` DEVICE_REVOKED if it was revoked: nothing goes on from there."""
        binding = self.bindings.require(cpe)
        if binding.state is BindingState.REVOKED:
            raise Refusal("DEVICE_REVOKED", f"{cpe} serial {binding.serial_number} is out of service for good")
        return binding

    def released_binding(self, cpe: PartyId, binding_id: str, nonce: bytes) -> Binding:
        """Return a binding whose voucher has come.

        Raises `OutOfOrder` before it, `Refusal` NOT_BOUND for another, DEVICE_REVOKED after it was revoked.
        """
        binding = self.bindings.get(cpe)
        if binding is None or (binding.binding_id, binding.binding_nonce) != (binding_id, nonce):
            raise Refusal("NOT_BOUND", f"{cpe} is not bound to {self.desk.party} under {binding_id!r}")
        binding = self.standing_binding(cpe)
        if binding.state in (BindingState.RESERVED, BindingState.BOUND):
            raise OutOfOrder(f"the voucher of {cpe} has not come yet")
        return binding

    def check_operator(self, cpe: PartyId, pomp: PartyId) -> None:
        """Check that nobody but the POMP that had a device bound disposes of it. Raises `WrongParty`."""
        binding = self.bindings.get(cpe)
        if binding is not None and binding.pomp != pomp:
            raise WrongParty(f"{cpe} was bound for {binding.pomp}; {pomp} does not dispose of it")

    def file_entries(self, file: KeyFile) -> list[Secret]:
        """Unwrap a whole key file, for the one time it is sent."""
        return [
            self.desk.vault.unwrap(entry, f"key-file/{file.key_file_id}/{n}".encode())
            for n, entry in enumerate(file.entries)
        ]

    def check_entry_left(self, cpe: PartyId) -> None:
        """Check that a device's key file can protect one more delivery, before keys are drawn for it.

        Raises `KeyShortage`.
        """
        file = self.key_files.get(self.bindings.require(cpe).key_file_id)
        if file is None or file.next_entry >= len(file.entries):
            raise KeyShortage(f"the key file of {cpe} is used up: no key drawn now could be delivered")

    def burn_entry(self, cpe: PartyId, purpose: str) -> tuple[str, int, Secret]:
        """Take the next entry of a device's key file and burn it. Raises `KeyShortage` when none is left."""
        binding = self.bindings.require(cpe)
        file = self.key_files.get(binding.key_file_id)
        if file is None or binding.state is not BindingState.ACTIVE:
            raise KeyShortage(f"{cpe} has no active key file: its binding is {binding.state}")
        index = file.next_entry
        if index >= len(file.entries):
            raise KeyShortage(f"key file {file.key_file_id} of {cpe} is used up ({len(file.entries)} entries)")
        if not file.entries[index]:
            raise KeyReuse(f"entry {index} of key file {file.key_file_id} was burned before")
        entry = self.desk.vault.unwrap(file.entries[index], f"key-file/{file.key_file_id}/{index}".encode())
        left = (*file.entries[:index], b"", *file.entries[index + 1 :])
        burned = {**file.burned, str(index): purpose}
        self.key_files.put(
            file.key_file_id, msgspec.structs.replace(file, entries=left, next_entry=index + 1, burned=burned)
        )
        return file.key_file_id, index, entry

    # --- leased lines (Figure 4) ------------------------------------------------------------------------------------

    def admit(self, request: KeyServiceRequest, end: End, procedure: ProcedureId) -> int:
        """Admit one end of a line; return how many generations the device's key file can still protect.

        Raises `Refusal` NOT_HOME, NOT_READY, LINE_EXISTS or KEY_RATE_INSUFFICIENT.
        """
        if self.services.get(f"{request.line}/{end}") is not None:
            raise Refusal("LINE_EXISTS", f"{self.desk.party} already serves end {end} of {request.line}")
        binding = self.bindings.get(request.cpe)
        if binding is None:
            raise Refusal("NOT_HOME", f"{request.cpe} is not bound to {self.desk.party}")
        if binding.state is not BindingState.ACTIVE:
            raise Refusal("NOT_READY", f"the key file of {request.cpe} is {binding.state}")
        file = self.key_files.require(binding.key_file_id)
        left = len(file.entries) - file.next_entry
        if left < 1 or request.keys_per_interval != KEYS_PER_GENERATION:
            raise Refusal("KEY_RATE_INSUFFICIENT", f"{request.cpe} has {left} entries left for {request.line}")
        peer_cpe = request.cpe_b if end is End.A else request.cpe_a
        peer_qssp = request.qssp_b if end is End.A else request.qssp_a
        service = LineService(request.line, request.cpe, end, peer_cpe, peer_qssp, request.rekey_interval_s, procedure)
        self.services.put(f"{request.line}/{end}", service)
        return left

    def confirmed_service(self, line: LineId, end: End) -> LineService:
        """Return a line that all have confirmed. Raises `Refusal` NOT_CONFIRMED."""
        service = self.services.get(f"{line}/{end}")
        if service is None or not service.confirmed:
            raise Refusal("NOT_CONFIRMED", f"{line} is not confirmed at {self.desk.party}")
        return service

    def next_generation(self, service: LineService, generation: int) -> None:
        """Note the generation being drawn. Raises `Refusal` REPLAYED unless it is newer than every one before."""
        if generation <= service.generation:
            raise Refusal("REPLAYED", f"generation {generation} of {service.line} is not after {service.generation}")
        noted = msgspec.structs.replace(service, generation=generation)
        self.services.put(f"{service.line}/{service.end}", noted)

    def check_counter(self, cpe: PartyId, counter: int) -> None:
        """Advance a device's monotonic counter of key requests. Raises `Refusal` REPLAYED if it did not grow."""
        binding = self.bindings.require(cpe)
        if counter <= binding.last_key_counter:
            raise Refusal("REPLAYED", f"{cpe} used key request counter {counter} before")
        self.bindings.put(cpe, msgspec.structs.replace(binding, last_key_counter=counter))

    def keep_generation(self, line: LineId, end: End, generation: int, keys: Sequence[SuppliedKey]) -> Generation:
        """Keep a drawn pair of session keys, wrapped, until they are delivered."""
        if len(keys) != KEYS_PER_GENERATION or any(len(key.key) * 8 != ENTRY_BITS for key in keys):
            raise Refusal("DESYNC", f"{line} needs {KEYS_PER_GENERATION} keys of {ENTRY_BITS} bits, got {len(keys)}")
        wrapped = tuple(self._wrap(key.key, f"session/{line}/{end}/{generation}/{key.key_id}") for key in keys)
        ids = [key.key_id for key in keys]
        announced = self.generations.get(f"{line}/{end}/{generation:08}")
        if announced is not None and [announced.key_id_a_to_b, announced.key_id_b_to_a] != ids:
            raise Refusal("DESYNC", f"the keys drawn for {line}/{generation} are not those that were announced")
        sources = tuple(key.source for key in keys)
        kept = Generation(line, generation, ids[0], ids[1], wrapped, sources, self.desk.now)
        self.generations.put(f"{line}/{end}/{generation:08}", kept)
        self._count(line, end, keys_drawn=KEYS_PER_GENERATION)
        return kept

    def session_keys(self, kept: Generation, end: End) -> list[Secret]:
        """Unwrap a generation's two keys, A→B first. Raises `Refusal` DESYNC if they were forgotten."""
        if not kept.wrapped:
            raise Refusal("DESYNC", f"the keys of {kept.line}/{kept.generation} are gone from {self.desk.party}")
        ids = (kept.key_id_a_to_b, kept.key_id_b_to_a)
        return [
            self.desk.vault.unwrap(blob, f"session/{kept.line}/{end}/{kept.generation}/{key_id}".encode())
            for blob, key_id in zip(kept.wrapped, ids, strict=True)
        ]

    def wrap_for_device(self, kept: Generation, service: LineService) -> tuple[Generation, bytes]:
        """Wrap a generation under the next entry of the device's key file, which is burned by it (step 11)."""
        purpose = f"{kept.line}/{kept.generation}"
        file_id, index, entry = self.burn_entry(service.cpe, purpose)
        ids = (kept.key_id_a_to_b, kept.key_id_b_to_a)
        context = delivery_context(service.cpe, kept.line, kept.generation, ids, file_id, index)
        wrapped = wrap_session_keys(entry, context, self.session_keys(kept, service.end))
        entry.erase()
        kept = msgspec.structs.replace(kept, key_file_id=file_id, entry=index, wrapped_at=self.desk.now)
        self.generations.put(f"{kept.line}/{service.end}/{kept.generation:08}", kept)
        self._count(kept.line, service.end, entries_burned=1)
        return kept, wrapped

    def armed(self, line: LineId, end: End, generation: int) -> None:
        """The CPE holds the keys: forget them here, keep their IDs."""
        key = f"{line}/{end}/{generation:08}"
        kept = self.generations.require(key)
        self.generations.put(key, msgspec.structs.replace(kept, wrapped=(), armed_at=self.desk.now))
        self._count(line, end, keys_delivered=KEYS_PER_GENERATION)

    def announce(self, line: LineId, end: End, generation: int, key_ids: tuple[KeyId, KeyId]) -> None:
        """Note which keys the other city announced, before they are drawn here."""
        self.generations.put(f"{line}/{end}/{generation:08}", Generation(line, generation, *key_ids))

    def forget_generation(self, line: LineId, end: End, generation: int) -> None:
        """Forget the undelivered session keys of one generation."""
        kept = self.generations.get(f"{line}/{end}/{generation:08}")
        if kept is not None:
            self.generations.put(f"{line}/{end}/{generation:08}", msgspec.structs.replace(kept, wrapped=()))

    def forget_keys(self, line: LineId) -> None:
        """Forget every undelivered session key of a line."""
        for key, kept in self.generations.items(f"{line}/"):
            if kept.wrapped:
                self.generations.put(key, msgspec.structs.replace(kept, wrapped=()))

    def _count(self, line: LineId, end: End, **grown: int) -> None:
        service = self.services.require(f"{line}/{end}")
        sums = {name: getattr(service, name) + more for name, more in grown.items()}
        self.services.put(f"{line}/{end}", msgspec.structs.replace(service, **sums))

    def _wrap(self, secret: Secret, context: str) -> bytes:
        return self.desk.vault.wrap(secret, context.encode())
