"""The OTN customer-premises device: holds keys, burns them before use, encrypts OPUk payload, and fails closed.

Its secure module here is the embedded one: every secret lies in the store wrapped by the device's vault. An entry of
the key file is overwritten in the same transaction that unwraps what it protected; a generation of session keys is
marked INSTALLED before the data plane may use it, and one that was installed in an earlier life of the device is
never installed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from qsotn.crypto.session import unwrap_session_keys
from qsotn.domain import Direction, End, KeyId, LineId, PartyId, ProcedureId, QualityOfService, Secret
from qsotn.errors import BadProof, KeyReuse, Refusal, WrongParty
from qsotn.messages import DeletionResponse, KeyFrames, SessionKeyDelivery
from qsotn.parties.agreement import delivery_context
from qsotn.parties.desk import Collection, Desk

FIRMWARE = "qsotn-cpe 0.1"


class DeviceConfiguration(msgspec.Struct, frozen=True):
    """What the device was built and installed with."""

    serial_number: str
    suites: tuple[int, ...]
    odu_types: tuple[str, ...]


class BindingState(StrEnum):
    """How far the device's own initialisation has come."""

    STATED = "STATED"
    VOUCHED = "VOUCHED"
    READY = "READY"
    FAILED = "FAILED"


class Binding(msgspec.Struct, frozen=True):
    """The device's relation to its operator and home QSSP. `kem_seed` is wrapped, and gone after step 9."""

    pomp: PartyId
    pmp: PartyId
    qssp: PartyId
    suite: int
    challenge: bytes
    procedure: ProcedureId
    state: BindingState
    binding_id: str = ""
    binding_nonce: bytes = b""
    kem_seed: bytes = b""
    key_file_id: str = ""


class KeyFile(msgspec.Struct, frozen=True):
    """The injected key file. An entry is wrapped, or nothing once it is burned."""

    key_file_id: str
    entries: tuple[bytes, ...]
    burned_below: int = 0
    ppk: bytes = b""


class LineState(StrEnum):
    """A line at this end."""

    PREPARED = "PREPARED"
    GRANTED = "GRANTED"
    ENCRYPTED = "ENCRYPTED"
    STOPPED = "STOPPED"


class CpeLine(msgspec.Struct, frozen=True):
    """A line at this end.

    `generation` is the newest one asked for or received, `active` the one that encrypts now; 0 is none.
    """

    line: LineId
    end: End
    peer: PartyId
    account: str
    quality: QualityOfService
    port: str
    procedure: ProcedureId
    state: LineState
    generation: int = 0
    active: int = 0

    def next_generation(self) -> int:
        """The number to ask for: newer than every one before, and not in the slot (number modulo 2) that is in use."""
        number = self.generation + 1
        return number + 1 if self.active and number % 2 == self.active % 2 else number


class GenerationState(StrEnum):
    """A pair of session keys at this device: from the store into the data plane, and out of it, once."""

    ARMED = "ARMED"
    INSTALLED = "INSTALLED"
    ERASED = "ERASED"


class SessionKeys(msgspec.Struct, frozen=True):
    """One generation. `wrapped` is gone once it is erased; counts are what this end encrypted and decrypted."""

    line: LineId
    generation: int
    key_id_a_to_b: KeyId
    key_id_b_to_a: KeyId
    key_file_id: str
    entry: int
    state: GenerationState
    armed_at: int
    wrapped: tuple[bytes, ...] = ()
    frames_a_to_b: int = 0
    frames_b_to_a: int = 0
    complete: bool = True
    """False if the device stopped after its last count: the frames are a lower bound then."""

    @property
    def key_ids(self) -> tuple[KeyId, KeyId]:
        """Both key IDs, A→B first."""
        return self.key_id_a_to_b, self.key_id_b_to_a


class Traffic(msgspec.Struct, frozen=True):
    """What a line carried at this end, summed over the lives of the device."""

    client_bytes_in: int = 0
    client_bytes_out: int = 0
    multiframes_sent: int = 0


class Cpe:
    """The CPE at its desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def configuration(self) -> DeviceConfiguration:
        """What the device was built with."""
        return self.desk.collection("configuration", DeviceConfiguration).require("cpe")

    @property
    def binding(self) -> Collection[Binding]:
        """The one binding, under the key `own`."""
        return self.desk.collection("binding", Binding)

    @property
    def key_files(self) -> Collection[KeyFile]:
        """Key files by identifier."""
        return self.desk.collection("key-files", KeyFile)

    @property
    def lines(self) -> Collection[CpeLine]:
        """Lines by identifier."""
        return self.desk.collection("lines", CpeLine)

    @property
    def generations(self) -> Collection[SessionKeys]:
        """Session keys by `line/generation`."""
        return self.desk.collection("session-keys", SessionKeys)

    @property
    def traffic(self) -> Collection[Traffic]:
        """What each line carried."""
        return self.desk.collection("traffic", Traffic)

    @property
    def rekey_orders(self) -> Collection[str]:
        """Which order of the operator a rekey fulfils: procedure by procedure."""
        return self.desk.collection("rekey-orders", str)

    def own_binding(self) -> Binding:
        """Return the binding. Raises `StoreError` if the device was never asked to initialise."""
        return self.binding.require("own")

    def check_manager(self, pmp: PartyId) -> None:
        """Check that an order came through the PMP this device was initialised by. Raises `WrongParty`."""
        if pmp != self.own_binding().pmp:
            raise WrongParty(f"{self.desk.party} is managed by {self.own_binding().pmp}, not by {pmp}")

    def next_count(self, name: str) -> int:
        """Advance one of the device's monotonic counters."""
        counters = self.desk.collection("counters", int)
        value = (counters.get(name) or 0) + 1
        counters.put(name, value)
        return value

    # --- key file ---------------------------------------------------------------------------------------------------

    def install_key_file(self, key_file_id: str, entries: Sequence[Secret], ppk: Secret) -> None:
        """Keep an opened key file, entry by entry; the request's KEM key is forgotten."""
        wrapped = tuple(self._wrap(entry, f"key-file/{key_file_id}/{n}") for n, entry in enumerate(entries))
        file = KeyFile(key_file_id, wrapped, 0, self._wrap(ppk, f"ppk/{key_file_id}"))
        self.key_files.put(key_file_id, file)
        binding = msgspec.structs.replace(
            self.own_binding(), state=BindingState.READY, kem_seed=b"", key_file_id=key_file_id
        )
        self.binding.put("own", binding)

    def destroy_key_file(self, procedure: ProcedureId) -> None:
        """Roll one initialisation back: nothing of its file or its request remains."""
        binding = self.binding.get("own")
        if binding is not None and binding.procedure == procedure:
            self.key_files.delete(binding.key_file_id)
            self.binding.put("own", msgspec.structs.replace(binding, state=BindingState.FAILED, kem_seed=b""))

    def burn_entry(self, key_file_id: str, index: int) -> Secret:
        """Take one entry of the key file and burn it, and every earlier one. Raises `KeyReuse` for a burned one."""
        file = self.key_files.get(key_file_id)
        if file is None or not 0 <= index < len(file.entries):
            raise Refusal("UNKNOWN_ENTRY", f"{self.desk.party} has no entry {index} in key file {key_file_id!r}")
        if index < file.burned_below:
            raise KeyReuse(f"entry {index} of key file {key_file_id} was burned before")
        entry = self.desk.vault.unwrap(file.entries[index], f"key-file/{key_file_id}/{index}".encode())
        left = (b"",) * (index + 1) + file.entries[index + 1 :]
        self.key_files.put(key_file_id, msgspec.structs.replace(file, entries=left, burned_below=index + 1))
        return entry

    # --- lines ------------------------------------------------------------------------------------------------------

    def check_offer(self, quality: QualityOfService) -> None:
        """Check that the port is free and the ODU type is one this device has. Raises `Refusal`."""
        if quality.odu not in self.configuration.odu_types:
            raise Refusal("QOS_INFEASIBLE", f"{self.desk.party} has no {quality.odu} port")
        for other in self.lines.values():
            if other.state is not LineState.STOPPED:
                raise Refusal("PORT_BUSY", f"{self.desk.party} already serves {other.line}")

    def arm(self, delivery: SessionKeyDelivery) -> list[Secret]:
        """Unwrap a delivered generation with the entry it names, which is burned (step 11); return the two keys.

        Raises `Refusal` BAD_TAG if they do not open, `KeyReuse` if the entry or the generation was used before.
        """
        key = f"{delivery.line}/{delivery.generation:08}"
        if self.generations.get(key) is not None:
            raise KeyReuse(f"generation {delivery.generation} of {delivery.line} was delivered before")
        entry = self.burn_entry(delivery.key_file_id, delivery.entry)
        ids = (delivery.key_id_a_to_b, delivery.key_id_b_to_a)
        context = delivery_context(
            self.desk.party, delivery.line, delivery.generation, ids, delivery.key_file_id, delivery.entry
        )
        try:
            keys = unwrap_session_keys(entry, context, delivery.wrapped, len(ids))
        except BadProof as error:
            raise Refusal("BAD_TAG", str(error)) from error
        entry.erase()
        self._keep(delivery, keys)
        return keys

    def _keep(self, delivery: SessionKeyDelivery, keys: Sequence[Secret]) -> None:
        ids = (delivery.key_id_a_to_b, delivery.key_id_b_to_a)
        wrapped = tuple(
            self._wrap(secret, f"session/{delivery.line}/{delivery.generation}/{key_id}")
            for secret, key_id in zip(keys, ids, strict=True)
        )
        kept = SessionKeys(
            delivery.line,
            delivery.generation,
            *ids,
            delivery.key_file_id,
            delivery.entry,
            GenerationState.ARMED,
            self.desk.now,
            wrapped,
        )
        self.generations.put(f"{delivery.line}/{delivery.generation:08}", kept)

    def armed_generations(self, line: LineId) -> list[SessionKeys]:
        """Return what was delivered and not yet installed in the data plane."""
        return [kept for kept in self.generations.values(f"{line}/") if kept.state is GenerationState.ARMED]

    def install(self, kept: SessionKeys) -> dict[Direction, tuple[KeyId, Secret]]:
        """Mark a generation INSTALLED and hand out its keys, once. They may be used only after this is committed."""
        if kept.state is not GenerationState.ARMED:
            raise KeyReuse(f"generation {kept.generation} of {kept.line} is {kept.state}; it is installed once")
        secrets = [
            self.desk.vault.unwrap(blob, f"session/{kept.line}/{kept.generation}/{key_id}".encode())
            for blob, key_id in zip(kept.wrapped, kept.key_ids, strict=True)
        ]
        # From here the keys live in the data plane alone: a device that dies with them never arms them again.
        self._put(msgspec.structs.replace(kept, state=GenerationState.INSTALLED, wrapped=()))
        directions = (Direction.A_TO_B, Direction.B_TO_A)
        return {d: (i, s) for d, i, s in zip(directions, kept.key_ids, secrets, strict=True)}

    def erase_generation(self, line: LineId, generation: int) -> None:
        """Record that the data plane forgot a generation."""
        kept = self.generations.get(f"{line}/{generation:08}")
        if kept is not None:
            self._put(msgspec.structs.replace(kept, state=GenerationState.ERASED, wrapped=()))

    def mark_uncounted(self, line: LineId, generation: int) -> None:
        """Note that a generation was in use when the device stopped: what it protected since is unknown."""
        kept = self.generations.require(f"{line}/{generation:08}")
        self._put(msgspec.structs.replace(kept, complete=False))

    def forget_active(self, line: LineId) -> None:
        """No generation is in use: the data plane has just begun."""
        self.lines.put(line, msgspec.structs.replace(self.lines.require(line), active=0))

    def count_frames(self, line: LineId, generation: int, a_to_b: int, b_to_a: int) -> None:
        """Set how many OTU frames a generation has protected at this end."""
        kept = self.generations.require(f"{line}/{generation:08}")
        self._put(msgspec.structs.replace(kept, frames_a_to_b=a_to_b, frames_b_to_a=b_to_a))

    def stop(self, line: LineId) -> DeletionResponse:
        """Stop a line and zeroise its keys; return what it used."""
        kept = list(self.generations.values(f"{line}/"))
        for generation in kept:
            self.erase_generation(line, generation.generation)
        held = self.lines.get(line)
        if held is not None:
            self.lines.put(line, msgspec.structs.replace(held, state=LineState.STOPPED))
        carried = self.traffic.get(line) or Traffic()
        frames = tuple(
            KeyFrames(key_id, direction, count, one.complete)
            for one in kept
            for key_id, direction, count in (
                (one.key_id_a_to_b, Direction.A_TO_B, one.frames_a_to_b),
                (one.key_id_b_to_a, Direction.B_TO_A, one.frames_b_to_a),
            )
        )
        return DeletionResponse(
            line, carried.client_bytes_in, carried.client_bytes_out, carried.multiframes_sent, frames
        )

    def _put(self, kept: SessionKeys) -> None:
        self.generations.put(f"{kept.line}/{kept.generation:08}", kept)

    def _wrap(self, secret: Secret, context: str) -> bytes:
        return self.desk.vault.wrap(secret, context.encode())
