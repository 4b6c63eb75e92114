"""A province of key managers, its twin and SAEs, as processes; and what their key stores say, running or stopped."""

from __future__ import annotations

import sqlite3
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.faults.delivered_keys import PoolEnd
from tests.live.province import Province, Shape
from tests.live.stores import DATABASE, Stores

from qsotn.adapters.keystore.statements import NUMBER_BITS, State
from qsotn.adapters.storage.postgres import schema_of
from qsotn.app.programs import TWIN_NAME, programs
from qsotn.app.record import SAES, party_place, sae_party
from qsotn.app.service_files import tls_section
from qsotn.domain import PartyId
from qsotn.keynetwork import provenance
from qsotn.keynetwork.delivery import Pool
from qsotn.service.config import CONFIGURATION, ServiceConfiguration, load_configuration
from qsotn.service.delivery.server import KEYS_FILE, open_keys
from qsotn.service.identity_files import Credentialed

QUICK: Final = "tests.live.key_delivery_quick"
REST_S: Final = 60.0
ATTEMPTS: Final = 5
BATCHES: Final = (
    "SELECT p.origin, p.target, p.series, b.batch, b.first, b.last, b.provenance"
    " FROM {schema}key_batches b JOIN {schema}key_pools p ON p.number = b.pool"
)
ENDED: Final = "SELECT origin, target, series FROM {schema}key_pools WHERE ended"
HELD: Final = f"SELECT count(*) FROM {{schema}}key_units WHERE state = {int(State.HELD)} AND until IS NULL"  # noqa: S608  (a number)
NUMBERS: Final = (1 << NUMBER_BITS) - 1
Batches = dict[Pool, dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class KeyShape(Shape):
    """A province of key managers. `saes` says in which city each SAE is; links are named by their ends."""

    pairs: int = 0
    houses: int = 0
    program: str = QUICK
    cities: tuple[str, ...] = ("jinan", "qingdao")
    relays: tuple[str, ...] = ("weifang",)
    links: tuple[tuple[str, str], ...] = (("jinan", "weifang"), ("weifang", "qingdao"))
    saes: tuple[tuple[str, str], ...] = (
        ("jinan-sae-1", "jinan"),
        ("jinan-sae-2", "jinan"),
        ("qingdao-sae-1", "qingdao"),
        ("qingdao-sae-2", "qingdao"),
    )
    ready_keys: int = 512

    def toml(self, url: str) -> str:
        """The province file."""
        places = [*(("city", name) for name in self.cities), *(("relay", name) for name in self.relays)]
        tables = [f'[[{kind}]]\nname = "{name}"\n' for kind, name in places]
        tables += [f'[[link]]\nname = "{one}-{other}"\nends = ["{one}", "{other}"]\n' for one, other in self.links]
        tables += [f'[[sae]]\nname = "{name}"\ncity = "{city}"\n' for name, city in self.saes]
        tables += [f"[listen]\nfirst_port = 0\n\n[delivery]\nready_keys = {self.ready_keys}\n"]
        tables += [f"[replicas]\nkm = {self.replicas}\n"]
        return "\n".join((f'name = "live"\n\n[store]\nurl = "{url}"\n', *tables))


class KeyProvince(Province):
    """A province of which the key managers and the twin run, and nobody else."""

    def __init__(self, folder: Path, stores: Stores, shape: KeyShape) -> None:
        super().__init__(folder, stores, shape)
        self.homes: Mapping[str, PartyId] = self.plan.sae_homes

    @property
    def commands(self) -> dict[str, tuple[str, ...]]:
        """What each process runs: every replica of every key manager, and the twin."""
        made = {one.name: one.command for one in programs(self.state, self.record, self.plan)}
        kms = {name: command for name, command in made.items() if name.partition(".")[0] in self.plan.kms}
        found = {name: (*command[:2], self.shape.program, *command[3:]) for name, command in kms.items()}
        return {**found, TWIN_NAME: made[TWIN_NAME]}

    def replicas(self, km: PartyId) -> list[str]:
        """The processes of one key manager."""
        return sorted(name for name in self.commands if name.partition(".")[0] == km)

    @property
    def serving(self) -> list[PartyId]:
        """The key managers with SAEs."""
        return sorted(set(self.homes.values()))

    def delivery_urls(self, km: PartyId) -> list[str]:
        """Where SAEs get keys: at any replica."""
        return [one.delivery for one in self.record.services if one.party == km]

    def credentials(self, sae: str) -> Credentialed:
        """What an SAE shows."""
        return Credentialed(sae_party(sae), tls_section(self.state / SAES / sae))

    def metrics(self) -> list[bytes]:
        """The metrics of every process of a key manager, as they stand."""
        monitoring = [one.monitoring for one in self.record.services if one.party in self.plan.kms]
        return [_fetched(f"http://{address}/metrics") for address in monitoring]

    # --- key stores ---------------------------------------------------------------------------------------------------

    def folder(self, km: PartyId) -> Path:
        """Where all of one key manager lies."""
        return self.state / party_place(km)

    def configuration(self, km: PartyId) -> ServiceConfiguration:
        """What stands in its configuration."""
        return load_configuration(self.folder(km) / CONFIGURATION)

    def look(self, km: PartyId, sql: str) -> list[tuple[Any, ...]]:
        """Read what is committed in a key store, while it runs or not."""
        if self.stores.server is not None:
            return self.stores.server.fetch(sql.format(schema=f'"{schema_of(km)}".'), DATABASE)
        file = self.folder(km) / KEYS_FILE
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as connection:
            return list(connection.execute(sql.format(schema="")))

    def batches(self, km: PartyId) -> Batches:
        """Return every batch that was ever deposited at one end: the numbers of its first and last unit, by pool."""
        found: Batches = defaultdict(dict)
        for origin, target, series, batch, first, last, _ in self.look(km, BATCHES):
            pool = Pool(PartyId(origin), PartyId(target), series)
            found[pool][batch] = (first & NUMBERS, last & NUMBERS)
        return found

    def ended(self, km: PartyId) -> set[Pool]:
        """Return the pools that one end has ended: an older copy of a store was restored."""
        rows = self.look(km, ENDED)
        return {Pool(PartyId(origin), PartyId(target), series) for origin, target, series in rows}

    def ways(self, km: PartyId) -> list[tuple[str, str]]:
        """Return every batch that came to one end, with its provenance in words."""
        return [(row[3], provenance.describe(bytes(row[6]))) for row in self.look(km, BATCHES) if row[6]]

    def is_at_rest(self) -> bool:
        """Whether nothing is held, and what came to the origin of a pool is at its target too, unless it has ended."""
        if any(self.look(km, HELD) != [(0,)] for km in self.serving):
            return False
        batches = {km: self.batches(km) for km in self.serving}
        ended = {pool for km in self.serving for pool in self.ended(km)}
        return all(
            its.items() <= batches[pool.target].get(pool, {}).items()
            for km, pools in batches.items()
            for pool, its in pools.items()
            if pool.origin == km and pool not in ended
        )

    def come_to_rest(self) -> None:
        """Wait until all is at rest, and stop all. Raises `AssertionError` if that does not come about."""
        for _ in range(ATTEMPTS):
            end = time.monotonic() + REST_S
            while not self.is_at_rest():
                assert time.monotonic() < end, f"the key stores do not come to rest:\n{self.told()}"
                time.sleep(0.3)
            self.stop(list(self.processes))
            if self.is_at_rest():
                return
            self.begin()
        raise AssertionError(f"something was under way each of {ATTEMPTS} times that the province stopped")

    def ends(self) -> Iterator[PoolEnd]:
        """Yield how every pool stands at every end, as its key store says; nothing may run."""
        for km in self.serving:
            batches = self.batches(km)
            store = open_keys(self.configuration(km))
            try:
                for pool in store.pools():
                    yield PoolEnd(km, pool, store.count(pool), batches.get(pool, {}))
            finally:
                store.close()


def _fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (of this province)
        return bytes(answer.read())
