"""What one party's store says, as plain records: the facts that `history` judges.

A snapshot is taken in one transaction. Several together mean something only when the parties have come to rest: what is
on its way between two stores is in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from qsotn.domain import LineId, PartyId, Role, role_of
from qsotn.parties import cpe, km, km_pool, pmp, pomp, qkmp, qssp
from qsotn.parties.desk import Collection, T
from qsotn.ports import Store, Transaction
from qsotn.procedures.key_supply import Hop, Supply
from qsotn.procedures.turn import Row, read_row


@dataclass(frozen=True, repr=False)
class Snapshot:
    """What every party has: its rows. Collections below are by the keys of the store."""

    party: PartyId
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, repr=False)
class PompSnapshot(Snapshot):
    """A POMP's records."""

    devices: Mapping[str, pomp.Device] = field(default_factory=dict)
    lines: Mapping[str, pomp.Line] = field(default_factory=dict)
    usage: Mapping[str, pomp.UsageRecord] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class PmpSnapshot(Snapshot):
    """A PMP's records."""

    registrations: Mapping[str, pmp.Registration] = field(default_factory=dict)
    reservations: Mapping[str, pmp.Reservation] = field(default_factory=dict)
    ports: Mapping[str, LineId] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class QsspSnapshot(Snapshot):
    """A QSSP's records."""

    bindings: Mapping[str, qssp.Binding] = field(default_factory=dict)
    key_files: Mapping[str, qssp.KeyFile] = field(default_factory=dict)
    services: Mapping[str, qssp.LineService] = field(default_factory=dict)
    generations: Mapping[str, qssp.Generation] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class KmSnapshot(Snapshot):
    """A key manager's records. `neighbours` are the far ends of its links, `units` the places of units still stored."""

    neighbours: Mapping[str, PartyId] = field(default_factory=dict)
    blocks: Mapping[str, km.KeyBlock] = field(default_factory=dict)
    units: frozenset[str] = frozenset()
    keys: Mapping[str, km.KeyRecord] = field(default_factory=dict)
    stored: Mapping[str, km.StoredKey] = field(default_factory=dict)
    pooled: Mapping[str, str] = field(default_factory=dict)
    """By its place, which share of a batch for a pool took a unit, or was refused under it."""
    supplies: Mapping[str, Supply] = field(default_factory=dict)
    hops: Mapping[str, Hop] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class QkmpSnapshot(Snapshot):
    """A QKMP's records."""

    synchronisations: Mapping[str, qkmp.Synchronisation] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class CpeSnapshot(Snapshot):
    """A device's records."""

    binding: Mapping[str, cpe.Binding] = field(default_factory=dict)
    key_files: Mapping[str, cpe.KeyFile] = field(default_factory=dict)
    lines: Mapping[str, cpe.CpeLine] = field(default_factory=dict)
    generations: Mapping[str, cpe.SessionKeys] = field(default_factory=dict)


def gather(store: Store, party: PartyId) -> Snapshot:
    """Read a party's store."""
    with store.transaction() as transaction:
        rows = tuple(read_row(content) for content in transaction.rows())
        return _READERS[role_of(party)](party, rows, _Records(transaction))


@dataclass(frozen=True)
class _Records:
    """A store's collections, typed, as they stand in one transaction."""

    transaction: Transaction

    def of(self, name: str, kind: type[T]) -> dict[str, T]:
        return dict(Collection(self.transaction, name, kind).items())

    def keys(self, name: str) -> Iterator[str]:
        return (key for key, _ in self.transaction.scan(name))


def _read_pomp(party: PartyId, rows: tuple[Row, ...], records: _Records) -> PompSnapshot:
    return PompSnapshot(
        party,
        rows,
        devices=records.of("devices", pomp.Device),
        lines=records.of("lines", pomp.Line),
        usage=records.of("usage", pomp.UsageRecord),
    )


def _read_pmp(party: PartyId, rows: tuple[Row, ...], records: _Records) -> PmpSnapshot:
    return PmpSnapshot(
        party,
        rows,
        registrations=records.of("registrations", pmp.Registration),
        reservations=records.of("reservations", pmp.Reservation),
        ports=records.of("ports", LineId),
    )


def _read_qssp(party: PartyId, rows: tuple[Row, ...], records: _Records) -> QsspSnapshot:
    return QsspSnapshot(
        party,
        rows,
        bindings=records.of("bindings", qssp.Binding),
        key_files=records.of("key-files", qssp.KeyFile),
        services=records.of("line-services", qssp.LineService),
        generations=records.of("generations", qssp.Generation),
    )


def _read_km(party: PartyId, rows: tuple[Row, ...], records: _Records) -> KmSnapshot:
    supplied = records.of("supplied-keys", km.SupplyRecord)
    return KmSnapshot(
        party,
        rows,
        neighbours=records.of("configuration", km.KmConfiguration)["km"].links,
        blocks=records.of("key-blocks", km.KeyBlock),
        units=frozenset(records.keys("key-units")),
        keys={one.key_id: one for supply in supplied.values() for one in supply.of_each()},
        stored=records.of("stored-keys", km.StoredKey),
        pooled=dict(_pooled(records)),
        supplies=records.of("supplies", Supply),
        hops=records.of("hops", Hop),
    )


def _pooled(records: _Records) -> Iterator[tuple[str, str]]:
    passed = {key: (*one.taken, *one.pad) for key, one in records.of("passages", km_pool.Passage).items()}
    burnt = {key: one.units for key, one in records.of("burnt-units", km_pool.BurntUnits).items()}
    for key, allocations in (passed | burnt).items():
        for taken in allocations:
            for unit in range(taken.unit, taken.unit + taken.units):
                yield f"{taken.link}/{taken.block:08}/{unit:06}", key


def _read_qkmp(party: PartyId, rows: tuple[Row, ...], records: _Records) -> QkmpSnapshot:
    return QkmpSnapshot(party, rows, synchronisations=records.of("synchronisations", qkmp.Synchronisation))


def _read_cpe(party: PartyId, rows: tuple[Row, ...], records: _Records) -> CpeSnapshot:
    return CpeSnapshot(
        party,
        rows,
        binding=records.of("binding", cpe.Binding),
        key_files=records.of("key-files", cpe.KeyFile),
        lines=records.of("lines", cpe.CpeLine),
        generations=records.of("session-keys", cpe.SessionKeys),
    )


_READERS: dict[Role, Callable[[PartyId, tuple[Row, ...], _Records], Snapshot]] = {
    Role.POMP: _read_pomp,
    Role.PMP: _read_pmp,
    Role.QSSP: _read_qssp,
    Role.KM: _read_km,
    Role.QKMP: _read_qkmp,
    Role.CPE: _read_cpe,
}
