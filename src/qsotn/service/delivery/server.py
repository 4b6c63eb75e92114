"""Keys for SAEs, in one key manager's process: its key store, its desk, its listeners, and what goes on behind them.

What begins first ends last: the store, the other key managers, the tasks, the border to other operators, and only then
the listeners for SAEs. Where there is a border, SAEs are served from its gateway, and from the desk otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry

from qsotn.adapters.keystore import StaleStore, Times, open_key_store
from qsotn.adapters.tls.ordinary import OrdinaryFiles, OrdinaryTls
from qsotn.crypto.certificates import DEFAULT_TRUST_DOMAIN, UNREADABLE, certified_party
from qsotn.domain import PartyId
from qsotn.errors import BadProof, LineError, StoreError, WrongParty
from qsotn.keynetwork.delivery import KeyStore, Pool, PoolCount, Sweep
from qsotn.keynetwork.relay import Mode
from qsotn.keynetwork.throttle import ServiceClass
from qsotn.service.config import DAY_US, SQLITE, ServiceConfiguration
from qsotn.service.delivery import etsi014
from qsotn.service.delivery.assigned import Assigned
from qsotn.service.delivery.assignments import Destination, FarEnd
from qsotn.service.delivery.comparing import Comparing
from qsotn.service.delivery.configuration import DeliverySection, low_mark
from qsotn.service.delivery.desk import DeliveryDesk, Limits
from qsotn.service.delivery.etsi014_counters import MethodCounters
from qsotn.service.delivery.etsi014_identity import Identify, sae_of, standard_tls
from qsotn.service.delivery.filling import Filling, Supply, Worker
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.key_accounts import KeyAccounts, key_account_metrics
from qsotn.service.delivery.offered import KeyDelivery
from qsotn.service.delivery.passing_on import ForeignPart, PassingOn
from qsotn.service.delivery.priorities import Priorities
from qsotn.service.delivery.route_metrics import RouteMetrics
from qsotn.service.delivery.routes import Routes
from qsotn.service.delivery.sae_metrics import SaeMetrics
from qsotn.service.delivery.saes import Saes, party_sae
from qsotn.service.delivery.voids import HELD_US, Voids
from qsotn.service.installation import open_vault
from qsotn.service.interoperation import relayed
from qsotn.service.interoperation.border_server import border_served
from qsotn.service.interoperation.border_store import BorderStore, InThread
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
RELOAD_S: Final = 2.0
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
        self._saes = _saes(configuration, section)
        self._group = Group(lambda: open_keys(configuration), limits)
        others = {km: destination(km) for km in sorted(self._saes.key_managers - {own})}
        self._ways = {km: way for km, way in others.items() if way is not None}
        self._far_ends = {km: FarEnd(km, way) for km, way in self._ways.items()}
        self._voids = Voids(own, self._group, self._far_ends, clock)
        targets = self._saes.key_managers if own in self._saes.key_managers else ()
        mode = Mode(section.mode)
        routes = Routes(own, configuration.network, section.shares, mode, section.ready_keys)
        RouteMetrics(registry, lambda: routes.hindered(clock()))
        supply = Supply(routes, clock, mode)
        self._filling = Filling(own, targets, section.ready_keys, self._group, worker, supply)
        self._assigned = Assigned(self._saes, self._group, clock, self._filling.hand_over)
        self.assigned: Assigned | Forwarding = self._assigned
        """What other key managers may have done here."""
        self.streams: StreamsForPeers | None = None
        """What the key managers of streams' peers may ask here, if streams are served."""
        self._key_streams: KeyStreams | None = None
        self._standard: OrdinaryTls | None = None
        self._border: InThread | None = None
        self._rates = PoolRates(own, targets, section.ready_keys, self._group)
        priorities = _priorities(section, self._saes, clock)
        self.desk = DeliveryDesk(
            self._saes, _limits(section), self._group, self._far_ends, self._voids, clock, priorities
        )
        self._comparing = Comparing(own, self._group, self._far_ends, self.desk.end_lost)
        self._accounts = KeyAccounts(self._group, clock, key_account_metrics(registry))
        self.counters = MethodCounters()
        SaeMetrics(registry, self.counters, None if priorities is None else priorities.counts)
        self.tasks: list[asyncio.Task[None]] = []
        """What goes on; none ends before it is cancelled, unless by a defect."""

    async def pools(self) -> Mapping[Pool, PoolCount]:
        """Return how every pool stands at this end. Raises `Overloaded`, `StoreError`."""
        return await self._group.call(lambda store: {pool: store.count(pool) for pool in store.pools()})

    async def provenance(self, key_id: str) -> bytes | None:
        """Return how a key came here, as it was signed; None for an unknown key. Raises `Overloaded`, `StoreError`."""
        return await self._group.call(lambda store: store.provenance(key_id))

    async def foreign(self, key_id: str) -> ForeignPart | None:
        """Return where a key came from that went on from this border, None for any other. Raises `StoreError`."""
        if self._border is None:
            return None
        found = await self._border.call(lambda store: relayed.origin(store, key_id.lower()))
        if found is None:
            return None
        operator, pad = found
        return ForeignPart(operator, self._saes.own, pad.key_ids(self._saes.own)[0])

    @contextlib.asynccontextmanager
    async def running(self, post_quantum: Callable[[], ssl.SSLContext]) -> AsyncIterator[None]:
        """Serve SAEs. Raises `UsageError` for an address or files that cannot be used, `StoreError`.

        `post_quantum` makes the context of a server with the party's own certificate.
        """
        async with contextlib.AsyncExitStack() as stack:
            self._standard = _standard(self._section)
            listener = _bound(stack, "delivery", self._section.address)
            # Bound before anything is begun that would have to end for it.
            section = self._configuration.streams
            for_streams = None if section is None else _bound(stack, "streams", section.address)
            context = post_quantum() if self._standard is None else self._standard.context
            await self._group.start()
            stack.push_async_callback(self._group.stop)
            stack.push_async_callback(self._stop_asking)
            stack.push_async_callback(self._end_tasks)
            delivery = await self._at_border(stack)
            self._begin_tasks()
            if section is not None and for_streams is not None:
                await self._serve_streams(stack, delivery, for_streams, context)
                _log.info("streams for SAEs", address=section.address)
            serving = etsi014.listen(delivery, listener, context, self._identify(), observed=self.counters.observed)
            await stack.enter_async_context(serving)
            _log.info("keys for SAEs", address=self._section.address, tls=self._section.tls)
            yield

    async def _at_border(self, stack: contextlib.AsyncExitStack) -> KeyDelivery:
        """Open the border, if there is one; return what SAEs are served from."""
        section = self._configuration.border
        if section is None:
            return self.desk
        onward = PassingOn(self._saes, self._group, self._far_ends, self._voids, self.desk.pool, self._clock)
        serving = border_served(section, self.desk, self._saes, onward, lambda: open_border(self._configuration))
        border = await stack.enter_async_context(serving)
        self.assigned = Forwarding(self._saes.own, self._assigned, border.gateway, frozenset(section.saes))
        self._border = border.store
        return border.gateway

    async def _serve_streams(
        self,
        stack: contextlib.AsyncExitStack,
        delivery: KeyDelivery,
        listener: socket.socket,
        context: ssl.SSLContext,
    ) -> None:
        around = Surroundings(delivery, self._saes, self._owner, self._rates.rate, time.monotonic)
        self._key_streams = KeyStreams(around)
        self.streams = StreamsForPeers(self._key_streams, self._saes)
        self.tasks.append(asyncio.create_task(self._rates.run()))
        serving = listen(Etsi004(self._key_streams).answer, listener, context, self._identify())
        await stack.enter_async_context(serving)

    def _owner(self, km: PartyId) -> Owner:
        if km not in self._ways:
            raise LineError(f"no address of {km} is known")
        return RemoteOwner(self._ways[km])

    def _begin_tasks(self) -> None:
        doing: list[Coroutine[Any, Any, None]] = [self._voids.run(), self._filling.run(), self._sweep()]
        doing += [self._comparing.run(), self._accounts.run()]
        if self._standard is not None:
            doing.append(_reload(self._standard))
        self.tasks = [asyncio.create_task(one) for one in doing]

    async def _end_tasks(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _stop_asking(self) -> None:
        for far_end in self._far_ends.values():
            await far_end.stop()

    async def _sweep(self) -> None:
        """Have what is past its time destroyed, until cancelled. Raises `StaleStore`."""
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._key_streams is not None:
                self._key_streams.sweep()
            try:
                await self._group.apply(Sweep(self._clock()))
            except StaleStore:
                raise  # this ends the process: only one that opens the store anew destroys what was given out already
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
        times=Times(held=HELD_US, retention=configuration.accounts.retention_days * DAY_US),
    )
    if store.restored:
        _log.error("an older copy of the ready keys was found, and they are destroyed", pools=len(store.pools()))
    return store


def open_border(configuration: ServiceConfiguration) -> BorderStore:
    """Open the border store of a party, in the thread that it will belong to. Raises `StoreError`."""
    vault = open_vault(configuration.state, configuration.party, os.urandom)
    return BorderStore(configuration.state / BORDER_FILE, vault, os.urandom)


def _saes(configuration: ServiceConfiguration, section: DeliverySection) -> Saes:
    """Return every SAE; those of other operators count as attached to the key manager at the border."""
    foreign = () if configuration.border is None else configuration.border.saes
    own = configuration.party
    homes = {**{sae.id: sae.km for sae in configuration.saes}, **dict.fromkeys(foreign, own)}
    classes = {sae.id: sae.service_class for sae in configuration.saes if sae.service_class}
    return Saes(own, homes, classes, section.classes[-1].name if section.classes else "")


def _priorities(section: DeliverySection, saes: Saes, clock: Callable[[], int]) -> Priorities | None:
    """Return how classes share what is ready; where there is one class, whoever comes first has it."""
    if len(section.classes) < 2:
        return None
    classes = [ServiceClass(one.name, one.guaranteed_percent) for one in section.classes]
    return Priorities(classes, saes, low_mark(section.ready_keys), clock)


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


def _bound(stack: contextlib.AsyncExitStack, table: str, address: str) -> socket.socket:
    listener = bound(address, f"[{table}] address")
    stack.callback(listener.close)
    return listener


def _standard(section: DeliverySection) -> OrdinaryTls | None:
    match section:
        case DeliverySection(
            tls="standard", certificate=Path() as certificate, key=Path() as key, client_ca=Path() as ca
        ):
            return standard_tls(OrdinaryFiles(certificate, key, ca, section.client_list))
    return None


async def _reload(tls: OrdinaryTls) -> None:
    """Take over certificates and revocation lists that have changed, until cancelled."""
    while True:
        await asyncio.sleep(RELOAD_S)
        if tls.reload_if_changed():
            _log.info("certificates of standard TLS renewed")


def _own_sae(certificate: x509.Certificate, known: frozenset[str]) -> str:
    """Return which SAE shows a certificate of this province. Raises `WrongParty`."""
    try:
        sae = party_sae(certified_party(certificate.extensions, DEFAULT_TRUST_DOMAIN))
    except (*UNREADABLE, BadProof) as error:
        raise WrongParty(f"the certificate names no party of this province: {error}") from error
    if sae not in known:
        raise WrongParty(f"the certificate names {sae}: no SAE of this key manager")
    return sae
