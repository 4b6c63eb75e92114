"""How fast ready keys cross the QKDN: a chain of key managers in one process, supplied hop by hop.

The key managers are the real ones: each a node with its identity, a store in SQLite that syncs every commit, and a key
store of its own; they are joined by the local transport and run the ladders of `procedures.pool_supply`. A key counts
when it lies, confirmed, in the key stores of both ends. Bits of the links are drawn at random and laid in before.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from qsotn.adapters.keystore import KeyLedger, open_key_store
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.transport.local import LocalTransport
from qsotn.crypto.identity import CertificateAuthority, Identity, TrustAnchors
from qsotn.crypto.vault import Vault
from qsotn.domain import PartyId, Secret
from qsotn.errors import QsotnError
from qsotn.keynetwork.delivery import Deposit, Pool
from qsotn.keynetwork.pool import UNIT_BYTES
from qsotn.parties import km_pool
from qsotn.parties.desk import Certificates
from qsotn.parties.km import BlockState, Km, KmConfiguration
from qsotn.parties.km_pool import BatchState
from qsotn.parties.km_shares import LOW_UNITS
from qsotn.procedures.pool_supply import begin_pool_supply
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.service.delivery.configuration import DeliverySection
from qsotn.service.delivery.filling import most_units
from qsotn.service.host import now_us

SERIES: Final = 1
BACKDATED, LIFETIME = dt.timedelta(minutes=5), dt.timedelta(days=1)
PATIENCE_S: Final = 120.0
_LEDGER: Final[dict[str, Any]] = {"source": "random, for a benchmark"}


class Relayed(msgspec.Struct, frozen=True):
    """Keys of 256 bits supplied over so many links. Processor time is that of all key managers together."""

    hops: int
    keys_per_s: float
    keys_per_cpu_s: float
    keys_per_s_in_large_batches: float
    keys_per_cpu_s_in_large_batches: float


@dataclass(frozen=True)
class Amount:
    """What one round supplies over each number of hops."""

    keys: int = 512
    """As many as a pool holds unless it is configured otherwise."""
    batch: int = most_units(DeliverySection("").ready_keys)
    """As the service asks for them."""
    large_batch: int = 512
    rounds: int = 3


@dataclass(frozen=True)
class _Manager:
    """One key manager."""

    node: Node
    store: SqliteStore
    keys: KeyLedger

    def take_in(self) -> int:
        """Lay what arrived into the key store, as `service.delivery.filling` does; return how many units."""
        deposits = self._at_desk(lambda km: list(km_pool.arrived(km.desk)))
        if not deposits:
            return 0
        applied = self.keys.apply(deposits)
        for error in applied.refused.values():
            raise error
        self._at_desk(lambda km: _forget(km, deposits))
        return sum(len(one.units) for one in deposits)

    def _at_desk(self, look: Callable[[Km], Any]) -> Any:
        with self.node.desk() as km:
            return look(km)

    def close(self) -> None:
        """Close both stores."""
        self.store.close()
        self.keys.close()


def _forget(km: Km, deposits: list[Deposit]) -> None:
    for one in deposits:
        km_pool.handed_over(km.desk, one.batch)


class Chain:
    """Key managers in a row, each joined to the next by one link."""

    def __init__(self, managers: list[_Manager]) -> None:
        self._managers = managers
        self._transport = LocalTransport()
        self._parties = [one.node.party for one in managers]
        self._blocks = 0
        for one in managers:
            self._transport.join(one.node.party, one.node.receive)

    def lay_in(self, units: list[int]) -> None:
        """Give both ends of each link a block with so many units for the end from which keys come."""
        self._blocks += 1
        for at, number in enumerate(units):
            if number:
                self._deposit(at, os.urandom(2 * number * UNIT_BYTES))

    def _deposit(self, at: int, block: bytes) -> None:
        link = _link(at)
        for manager in self._managers[at : at + 2]:
            manager.node.begin(partial(_lay_in, link=link, number=self._blocks, block=block))

    def supply(self, hops: int, batches: int, units: int) -> tuple[float, float]:
        """Supply keys over so many links, all batches at once; return wall and processor seconds."""
        origin, target = self._managers[0], self._managers[hops]
        pool, path = Pool(origin.node.party, target.node.party, SERIES), self._parties[: hops + 1]
        began, processor = time.perf_counter(), time.thread_time()
        for _ in range(batches):
            origin.node.begin(partial(_order, pool=pool, units=units, path=path))
        left = 2 * batches * units
        while left:
            if time.perf_counter() - began > PATIENCE_S:
                raise QsotnError(f"keys over {hops} hops did not arrive within {PATIENCE_S:.0f} s")
            sent = sum(one.node.flush(self._transport) for one in self._managers[: hops + 1])
            left -= sum(one.take_in() for one in dict.fromkeys((origin, target)))
            if left and not sent:
                self._check(origin)
        return time.perf_counter() - began, time.thread_time() - processor

    def _check(self, origin: _Manager) -> None:
        """Raise `QsotnError` for a supply that failed."""
        with origin.node.desk() as km:
            for batch in km_pool.batches(km.desk).values():
                if batch.state is BatchState.FAILED:
                    raise QsotnError(f"a supply failed: {batch.code} {batch.detail}")


def _order(km: Km, work: Work, *, pool: Pool, units: int, path: list[PartyId]) -> None:
    first = km_pool.next_number(km.desk, pool)
    begin_pool_supply(km, work, pool, f"{pool.tag:015x}-{first:012}", first, units, paths=[path])


def _lay_in(km: Km, _: Work, *, link: str, number: int, block: bytes) -> None:
    km.deposit(link, number, Secret(block), _LEDGER)
    km.set_state(km.block(link, number), BlockState.AVAILABLE)


# --- making them ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def chain(folder: Path, links: int) -> Iterator[Chain]:
    """Make a chain of so many links, in a folder that is made for it."""
    folder.mkdir(mode=0o700)
    parties = [PartyId(f"km/relay-{number:02}") for number in range(links + 1)]
    now = dt.datetime.now(dt.UTC)
    operator, manufacturer = (CertificateAuthority.create(name, os.urandom, now - BACKDATED) for name in ("o", "m"))
    anchors = TrustAnchors(operator.certificate, manufacturer.certificate)
    identities = [Identity.create(one, operator, now - BACKDATED, now + LIFETIME, os.urandom) for one in parties]
    with contextlib.ExitStack() as stack:
        managers = []
        for at, identity in enumerate(identities):
            manager = _opened(folder / f"{at:02}", identity, anchors)
            stack.callback(manager.close)
            _provision(manager.store, identities, _configuration(parties, at))
            managers.append(manager)
        yield Chain(managers)


def _opened(folder: Path, identity: Identity, anchors: TrustAnchors) -> _Manager:
    folder.mkdir(mode=0o700)
    vault = Vault(Secret(os.urandom(32)), os.urandom)
    store = SqliteStore(folder / "store.db")
    keys = open_key_store(f"sqlite:///{folder / 'keys.db'}", identity.party, folder / "epochs", vault, os.urandom)
    return _Manager(Node(identity, anchors, store, vault, os.urandom, now_us), store, keys)


def _configuration(parties: list[PartyId], at: int) -> KmConfiguration:
    links = {
        _link(near): parties[near if near < at else near + 1] for near in (at - 1, at) if 0 <= near < len(parties) - 1
    }
    routes = {far: parties[at + 1 if to > at else at - 1] for to, far in enumerate(parties) if to != at}
    return KmConfiguration(links, routes, {})


def _link(at: int) -> str:
    return f"link-{at:02}"


def _provision(store: SqliteStore, identities: list[Identity], configuration: KmConfiguration) -> None:
    with store.transaction() as transaction:
        for identity in identities:
            transaction.put("certificates", identity.party, msgspec.json.encode(Certificates(identity.chain)))
        transaction.put("configuration", "km", msgspec.json.encode(configuration))


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(
    folder: Path, hops: tuple[int, ...], amount: Amount, report: Callable[[float], None]
) -> tuple[Relayed, ...]:
    """Supply keys over each number of hops in turn, several times; return the medians."""
    batches = (amount.batch, amount.large_batch)
    taken: dict[tuple[int, int], list[tuple[float, float]]] = {(one, size): [] for one in hops for size in batches}
    with chain(folder, max(hops)) as made:
        made.lay_in([LOW_UNITS] * max(hops))  # which no supply may use up: a part is kept for leased lines
        for at in range(amount.rounds):
            made.lay_in([2 * amount.keys * sum(one > link for one in hops) for link in range(max(hops))])
            for done, (one, size) in enumerate(taken, 1):
                taken[one, size].append(made.supply(one, amount.keys // size, size))
                report((at + done / len(taken)) / amount.rounds)
    return tuple(_relayed(one, amount, taken[one, amount.batch], taken[one, amount.large_batch]) for one in hops)


def _relayed(hops: int, amount: Amount, small: list[tuple[float, float]], large: list[tuple[float, float]]) -> Relayed:
    rates = [round(amount.keys / median(times), 1) for times in (*zip(*small, strict=True), *zip(*large, strict=True))]
    return Relayed(hops, *rates)
