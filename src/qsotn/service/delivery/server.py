"""Keys for SAEs, in one key manager's process: its key store, its desk, its listeners, and what goes on behind them.

What begins first ends last: the store, the other key managers, the tasks, the border to other operators, and only then
the listeners for SAEs. Where there is a border, SAEs are served from its gateway, and from the desk otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry

from qsotn.adapters.keystore import Times, open_key_store
from qsotn.crypto.certificates import DEFAULT_TRUST_DOMAIN, UNREADABLE, certified_party
from qsotn.domain import PartyId
from qsotn.errors import BadProof, LineError, StoreError, WrongParty
from qsotn.keynetwork.delivery import KeyStore, Pool, PoolCount, Sweep
from qsotn.keynetwork.relay import Mode
from qsotn.service.config import SQLITE, ServiceConfiguration
from qsotn.service.delivery import etsi014
from qsotn.service.delivery.assigned import Assigned
from qsotn.service.delivery.assignments import Destination, FarEnd
from qsotn.service.delivery.configuration import DeliverySection
from qsotn.service.delivery.desk import DeliveryDesk, Limits
from qsotn.service.delivery.etsi014_counters import MethodCounters
from qsotn.service.delivery.etsi014_identity import Identify, sae_of, standard_server_context
from qsotn.service.delivery.filling import Filling, Supply, Worker
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.offered import KeyDelivery
from qsotn.service.delivery.routes import Routes
from qsotn.service.delivery.sae_metrics import SaeMetrics
from qsotn.service.delivery.saes import Saes, party_sae
from qsotn.service.delivery.voids import HELD_US, Voids
from qsotn.service.installation import open_vault
from qsotn.service.interoperation.border_server import border_served
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.etsi004 import KeyStreams, Owner, Surroundings
from qsotn.service.interoperation.etsi004_client import RemoteOwner
from qsotn.service.interoperation.etsi004_http import Etsi004
from qsotn.service.interoperation.etsi004_peers import StreamsForPeers
from qsotn.service.interoperation.forwarding import Forwarding
from qsotn.service.interoperation.pool_rates import PoolRates
from qsotn.service.interoperation.serving import listen
from qsotn.service.listeners import bound
from qsotn.service.worker import Overloaded

KEYS_FILE: Final = "keys.db"
BORDER_FILE: Final = "border.db"
"""Keys from and to other operators."""
EPOCHS_FOLDER: Final = "epochs"
"""Epoch keys and witnesses: never in one backup with the database."""
SWEEP_S: Final = 5.0
_log = structlog.get_logger("keys")


class DeliveryService:
    """Keys for SAEs, from `running` on."""

    def __init__(
        self,
        configuration: ServiceConfiguration,
        section: DeliverySection,
        worker: Worker,
        destination: Callable[[PartyId], Destination | None],
        clock: Callable[[], int],
        registry: CollectorRegistry,
    ) -> None:
        """`clock` returns microseconds since the epoch; what SAEs ask is counted in `registry`."""
        own, limits = configuration.party, configuration.limits.waiting
        self._configuration = configuration
        self._section = section
        self._clock = clock
        self._saes = _saes(configuration)
        self._group = Group(lambda: open_keys(configuration), limits)
        others = {km: destination(km) for km in sorted(self._saes.key_managers - {own})}
        self._ways = {km: way for km, way in others.items() if way is not None}
        self._far_ends = {km: FarEnd(km, way) for km, way in self._ways.items()}
        self._voids = Voids(own, self._group, self._far_ends, clock)
        targets = self._saes.key_managers if own in self._saes.key_managers else ()
        routes = Routes(own, configuration.network, section.shares)
        supply = Supply(routes, clock, Mode(section.mode))
        self._filling = Filling(own, targets, section.ready_keys, self._group, worker, supply)
        self._assigned = Assigned(self._saes, self._group, clock, self._filling.hand_over)
        self.assigned: Assigned | Forwarding = self._assigned
        """What other key managers may have done here."""
        self.streams: StreamsForPeers | None = None
        """What the key managers of streams' peers may ask here, if streams are served."""
        self._key_streams: KeyStreams | None = None
        self._rates = PoolRates(own, targets, section.ready_keys, self._group)
        self.desk = DeliveryDesk(self._saes, _limits(section), self._group, self._far_ends, self._voids, clock)
        self.counters = MethodCounters()
        SaeMetrics(registry, self.counters)
        self.tasks: list[asyncio.Task[None]] = []
        """What goes on; none ends before it is cancelled, unless by a defect."""

    async def pools(self) -> Mapping[Pool, PoolCount]:
        """Return how every pool stands at this end. Raises `Overloaded`, `StoreError`."""
        return await self._group.call(lambda store: {pool: store.count(pool) for pool in store.pools()})

    async def provenance(self, key_id: str) -> bytes | None:
        """Return how a key came here, as it was signed; None for an unknown key. Raises `Overloaded`, `StoreError`."""
        return await self._group.call(lambda store: store.provenance(key_id))

    @contextlib.asynccontextmanager
    async def running(self, post_quantum: Callable[[], ssl.SSLContext]) -> AsyncIterator[None]:
        """Serve SAEs. Raises `UsageError` for an address or files that cannot be used, `StoreError`.

        `post_quantum` makes the context of a server with the party's own certificate.
        """
        async with contextlib.AsyncExitStack() as stack:
            listener = bound(self._section.address)
            stack.callback(listener.close)
            context = _context(self._section) or post_quantum()
            await self._group.start()
            stack.push_async_callback(self._group.stop)
            stack.push_async_callback(self._stop_asking)
            stack.push_async_callback(self._end_tasks)
            delivery = await self._at_border(stack)
            self._begin_tasks()
            await self._serve_streams(stack, delivery, context)
            serving = etsi014.listen(delivery, listener, context, self._identify(), observed=self.counters.observed)
            await stack.enter_async_context(serving)
            _log.info("keys for SAEs", address=self._section.address, tls=self._section.tls)
            yield

    async def _at_border(self, stack: contextlib.AsyncExitStack) -> KeyDelivery:
        """Open the border, if there is one; return what SAEs are served from."""
        section = self._configuration.border
        if section is None:
            return self.desk
        border = border_served(section, self.desk, self._saes, lambda: open_border(self._configuration))
        gateway = await stack.enter_async_context(border)
        self.assigned = Forwarding(self._saes.own, self._assigned, gateway, frozenset(section.saes))
        return gateway

    async def _serve_streams(
        self, stack: contextlib.AsyncExitStack, delivery: KeyDelivery, context: ssl.SSLContext
    ) -> None:
        section = self._configuration.streams
        if section is None:
            return
        around = Surroundings(delivery, self._saes, self._owner, self._rates.rate, time.monotonic)
        self._key_streams = KeyStreams(around)
        self.streams = StreamsForPeers(self._key_streams, self._saes)
        self.tasks.append(asyncio.create_task(self._rates.run()))
        listener = bound(section.address)
        stack.callback(listener.close)
        serving = listen(Etsi004(self._key_streams).answer, listener, context, self._identify())
        await stack.enter_async_context(serving)
        _log.info("streams for SAEs", address=section.address)

    def _owner(self, km: PartyId) -> Owner:
        if km not in self._ways:
            raise LineError(f"no address of {km} is known")
        return RemoteOwner(self._ways[km])

    def _begin_tasks(self) -> None:
        doing: tuple[Coroutine[Any, Any, None], ...] = (self._voids.run(), self._filling.run(), self._sweep())
        self.tasks = [asyncio.create_task(one) for one in doing]

    async def _end_tasks(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _stop_asking(self) -> None:
        for far_end in self._far_ends.values():
            await far_end.stop()

    async def _sweep(self) -> None:
        """Have what is past its time destroyed, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._key_streams is not None:
                self._key_streams.sweep()
            try:
                await self._group.apply(Sweep(self._clock()))
            except (StoreError, Overloaded) as error:
                _log.warning("what is past its time is not destroyed now", reason=str(error))

    def _identify(self) -> Identify:
        known = self._saes.known
        if self._section.tls == "standard":
            return lambda certificate: sae_of(certificate, known)
        return lambda certificate: _own_sae(certificate, known)


def open_keys(configuration: ServiceConfiguration) -> KeyStore:
    """Open the key store of a party, in the thread that it will belong to. Raises `StoreError`."""
    state, party = configuration.state, configuration.party
    embedded = configuration.store.url == SQLITE
    store = open_key_store(
        f"sqlite:///{(state / KEYS_FILE).absolute()}" if embedded else configuration.store.url,
        party,
        state / EPOCHS_FOLDER,
        open_vault(state, party, os.urandom),
        os.urandom,
        replica="1" if embedded else _replica(configuration.listen.address),
        times=Times(held=HELD_US),
    )
    if store.restored:
        _log.error("an older copy of the ready keys was found, and they are destroyed", pools=len(store.pools()))
    return store


def open_border(configuration: ServiceConfiguration) -> BorderStore:
    """Open the border store of a party, in the thread that it will belong to. Raises `StoreError`."""
    vault = open_vault(configuration.state, configuration.party, os.urandom)
    return BorderStore(configuration.state / BORDER_FILE, vault, os.urandom)


def _saes(configuration: ServiceConfiguration) -> Saes:
    """Return every SAE; those of other operators count as attached to the key manager at the border."""
    foreign = () if configuration.border is None else configuration.border.saes
    own = configuration.party
    return Saes(own, {**{sae.id: sae.km for sae in configuration.saes}, **dict.fromkeys(foreign, own)})


def _replica(address: str) -> str:
    """Name a replica by where it listens, which no other one does."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", address).strip("-")


def _limits(section: DeliverySection) -> Limits:
    return Limits(
        key_size=section.key_size,
        most_stored_keys=section.ready_keys,
        most_keys=section.most_keys,
        smallest_key=section.smallest_key,
        largest_key=section.largest_key,
        most_additional_slaves=section.most_additional_slaves,
    )


def _context(section: DeliverySection) -> ssl.SSLContext | None:
    match section:
        case DeliverySection(
            tls="standard", certificate=Path() as certificate, key=Path() as key, client_ca=Path() as ca
        ):
            return standard_server_context(certificate, key, ca)
    return None


def _own_sae(certificate: x509.Certificate, known: frozenset[str]) -> str:
    """Return which SAE shows a certificate of this province. Raises `WrongParty`."""
    try:
        sae = party_sae(certified_party(certificate.extensions, DEFAULT_TRUST_DOMAIN))
    except (*UNREADABLE, BadProof) as error:
        raise WrongParty(f"the certificate names no party of this province: {error}") from error
    if sae not in known:
        raise WrongParty(f"the certificate names {sae}: no SAE of this key manager")
    return sae
