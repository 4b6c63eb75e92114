"""One key's way, photon to frame, put together from the stores of the parties that handled it.

Every hop is a fact some party recorded when it acted; nothing is inferred. Works for session keys and for key-file
entries, which are keys of the same network.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from qsotn.app.province import CPE_A, CPE_B, KM_A, KM_B, KM_RELAY, QKMP, QSSP_A, QSSP_B, Province
from qsotn.domain import KeyId, PartyId
from qsotn.errors import UsageError
from qsotn.keynetwork.pool import UNIT_BITS
from qsotn.parties.km import Allocation, KeyRecord, Km
from qsotn.parties.qssp import Generation


class Hop(msgspec.Struct, frozen=True):
    """One fact about the key: where, what, and when (microseconds since the epoch; 0 where no time was recorded)."""

    party: str
    layer: str
    what: str
    at: int = 0


class Trace(msgspec.Struct, frozen=True):
    """A key's hops in the order of its life."""

    key_id: str
    hops: tuple[Hop, ...]


def trace_key(province: Province, key_id: KeyId) -> Trace:
    """Return one key's hops. Raises `UsageError` for a key that no key manager here supplied."""
    network = sorted(_network(province, key_id), key=lambda hop: hop.at)
    delivery = sorted(_delivery(province, key_id), key=lambda hop: hop.at)
    hops = [*network, *delivery, *_device(province, key_id)]
    if not hops:
        raise UsageError(f"no store here knows a key {key_id!r}; `qsotn demo` prints the keys' IDs")
    return Trace(key_id, tuple(hops))


def _network(province: Province, key_id: KeyId) -> Iterator[Hop]:
    for party in (KM_A, KM_B, KM_RELAY):
        with province.nodes[party].desk() as km:
            record = km.keys.get(key_id)
            if record is not None and record.role == "origin":
                yield from _origin(km, record)
    for party in (KM_RELAY, KM_A, KM_B):
        with province.nodes[party].desk() as km:
            record = km.keys.get(key_id)
            if record is not None and record.role != "origin":
                yield _further(party, record)


def _origin(km: Km, record: KeyRecord) -> Iterator[Hop]:
    party, taken = km.desk.party, record.taken
    ledger = km.block(taken.link, taken.block).ledger
    yield Hop(
        f"link {taken.link}",
        "quantum",
        f"block {taken.block}: {ledger['pulses']:,} pulses, {ledger['detections']:,} detections, QBER "
        f"{ledger['error_rate']:.2%}, {ledger['net_bits']:,} net secret bits (twin)",
    )
    yield Hop(party, "key network", f"allocated for {record.master}, named {record.key_id}: {_bits(taken)}", record.at)
    yield Hop(party, "AK", f"enc_keys answered to {record.master}", record.delivered_at)


def _further(party: PartyId, record: KeyRecord) -> Hop:
    match record.role:
        case "relay" if record.pad is not None:
            what = f"relayed under the one-time pad {_bits(record.pad)}"
        case "destination":
            what = f"stored for {record.slave}, handed over once by dec_keys"
        case _:
            what = f"own copy of {_bits(record.taken)} discarded: the key stays in one city"
    return Hop(party, "key network", what, record.at)


def _bits(taken: Allocation) -> str:
    first, last = taken.unit * UNIT_BITS, (taken.unit + taken.units) * UNIT_BITS - 1
    return f"bits {first} to {last} of block {taken.block} of {taken.link}"


def _delivery(province: Province, key_id: KeyId) -> Iterator[Hop]:
    for party in (QSSP_A, QSSP_B):
        with province.nodes[party].desk() as qssp:
            for kept in qssp.generations.values():
                if key_id in (kept.key_id_a_to_b, kept.key_id_b_to_a):
                    yield from _generation(party, kept)
            for file in qssp.key_files.values():
                if key_id in file.key_ids:
                    entry = file.key_ids.index(key_id)
                    spent = file.burned.get(str(entry))
                    life = f"burned for {spent}" if spent else "not yet used"
                    yield Hop(party, "key file", f"entry {entry} of key file {file.key_file_id} of {file.cpe}: {life}")
    yield from _supervision(province, key_id)


def _supervision(province: Province, key_id: KeyId) -> Iterator[Hop]:
    with province.nodes[QKMP].desk() as qkmp:
        for shared in qkmp.synchronisations.values():
            if key_id in shared.key_ids:
                what = f"{shared.master} and {shared.responder} share it for {shared.line}, generation"
                yield Hop(QKMP, "supervision", f"{what} {shared.generation}", shared.at)


def _generation(party: PartyId, kept: Generation) -> Iterator[Hop]:
    name = f"{kept.line}, generation {kept.generation}"
    yield Hop(party, "AK", f"drawn as session key of {name}", kept.drawn_at)
    if kept.entry >= 0:
        what = f"wrapped for the CPE under entry {kept.entry} of key file {kept.key_file_id}, burned by it"
        yield Hop(party, "Iaq", what, kept.wrapped_at)


def _device(province: Province, key_id: KeyId) -> Iterator[Hop]:
    for party in (CPE_A, CPE_B):
        with province.nodes[party].desk() as cpe:
            for kept in cpe.generations.values():
                if key_id in kept.key_ids:
                    frames = kept.frames_a_to_b if key_id == kept.key_id_a_to_b else kept.frames_b_to_a
                    verb = "encrypted" if (key_id == kept.key_id_a_to_b) is (party == CPE_A) else "decrypted"
                    yield Hop(party, "module", f"unwrapped, entry {kept.entry} burned, armed", kept.armed_at)
                    count = f"{frames}" if kept.complete else f"at least {frames}"
                    yield Hop(party, "OPUk", f"{verb} {count} OTU frames, then {kept.state.lower()}")
