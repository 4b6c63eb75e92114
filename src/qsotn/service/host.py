"""One party's process, from its configuration to its end.

What it is made of, and the order in which it begins (and, in reverse, ends): logs and metrics; credentials of TLS; the
desk thread with the store and the node (`worker`); the HTTP application on a listener with mutual TLS (`http`), and a
plain one for monitoring; the sender, and the mailbox or the collector; the clock that fails what is late and takes over
renewed certificates. Nothing is announced as ready before all of it stands, and it stops being ready before any of it
goes.
"""

from __future__ import annotations

import asyncio
import asyncio.constants
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import structlog
import uvicorn

from qsotn.adapters.storage import open_store
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.tls.uvicorn_protocol import over_tls
from qsotn.adapters.transport.exchange import MOST_CONNECTIONS
from qsotn.adapters.transport.http import DEVICE_CONNECTIONS, HttpPeer
from qsotn.domain import LineId, PartyId, Role, role_of
from qsotn.errors import QsotnError, StoreConflict, StoreError
from qsotn.parties import km_pool
from qsotn.ports import Posted, Store
from qsotn.runtime import Node
from qsotn.service.collector import Collector
from qsotn.service.config import DAY_US, SQLITE, ServiceConfiguration
from qsotn.service.delivery.server import DeliveryService
from qsotn.service.doorbell import Doorbell
from qsotn.service.garbage import collect_rarely
from qsotn.service.http.application import make_application
from qsotn.service.http.context import Deployment, Readiness
from qsotn.service.http.health import Monitoring
from qsotn.service.identity_files import Credentialed
from qsotn.service.installation import INSTALLATION, install, open_installed, open_vault
from qsotn.service.km_duties import DutyMetrics, KmDuties
from qsotn.service.lines import Line
from qsotn.service.listeners import bound, monitored, served, stopped_by_signals
from qsotn.service.mailbox import Mailbox
from qsotn.service.observability import Chronicle, Metrics, configure_logging, open_spans
from qsotn.service.orders import Terms
from qsotn.service.sender import LEASE_US, Sender
from qsotn.service.supervision import Supervision
from qsotn.service.supervision_metrics import NetworkMetrics
from qsotn.service.worker import DeskWorker, Overloaded

TICK_S: Final = 1.0
RELOAD_S: Final = 2.0
KEEP_ALIVE_S: Final = 75
"""Longer than a client keeps an idle connection, so that it is the client who ends it."""
GRACE_S: Final = 5
INSTALL_ATTEMPTS: Final = 20
STORE_FILE: Final = "store.db"
_log = structlog.get_logger("host")


def now_us() -> int:
    """The clock of a service: microseconds since the epoch."""
    return time.time_ns() // 1000


def run(configuration: ServiceConfiguration) -> None:
    """Serve one party until SIGTERM or SIGINT. Raises `QsotnError` for what keeps it from beginning or going on."""
    configure_logging(configuration.log, configuration.party)
    asyncio.run(Host(configuration).serve())


class Host:
    """One party's process."""

    def __init__(self, configuration: ServiceConfiguration) -> None:
        self._configuration = configuration
        self.party, self.role = configuration.party, role_of(configuration.party)
        self._metrics = Metrics()
        self._spans = open_spans(configuration.telemetry.otlp, configuration.party)
        self._tls = Credentialed(configuration.party, configuration.tls, self._metrics.peers_refused.inc)
        self._line = None if configuration.line is None else Line(configuration.line)
        self._worker = self._make_worker()
        self._peers: dict[PartyId, HttpPeer] = {}
        # A device's store is its own; replicas of a platform's party share one.
        self._sender = Sender(self._worker, self.peer, alone=self.role is Role.CPE)
        self._mailbox = Mailbox(self._worker, alone=self._store_kind == "sqlite") if self.role is Role.PMP else None
        self._delivery = self._make_delivery()
        self._troubles: set[str] = {"starting"}
        self._store: Store
        self._installed = _modified(configuration.state / INSTALLATION)
        self._stopping = asyncio.Event()

    # --- life -------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Begin, serve until told to stop, and end."""
        with stopped_by_signals(self._stopping):
            async with contextlib.AsyncExitStack() as stack:
                await self._begin(stack)
                collect_rarely()
                self._troubles.discard("starting")
                _log.info("ready", address=self._configuration.listen.address, pid=os.getpid())
                await self._wait()
                self._troubles.add("stopping")
                _log.info("stopping")

    async def _begin(self, stack: contextlib.AsyncExitStack) -> None:
        listener = bound(self._configuration.listen.address, "[listen] address")
        stack.callback(listener.close)
        if self._line is not None:
            stack.callback(self._line.close)
        await self._worker.start(self)
        stack.push_async_callback(self._worker.stop)
        stack.push_async_callback(self._close_peers)
        await self._sender.start()
        stack.push_async_callback(self._sender.stop)
        await self._begin_role(stack)
        await stack.enter_async_context(self._listeners(listener))
        self._background = [asyncio.create_task(self._tick()), asyncio.create_task(self._reload())]
        if self.role is Role.QKMP:
            self._background.append(asyncio.create_task(self._supervision().run()))
        if self.role is Role.KM:
            retention_us = self._configuration.accounts.retention_days * DAY_US
            duties = KmDuties(self._worker, retention_us, DutyMetrics(self._metrics.registry))
            self._background.append(asyncio.create_task(duties.run()))
        stack.push_async_callback(self._end_background)

    async def _begin_role(self, stack: contextlib.AsyncExitStack) -> None:
        if self._mailbox is not None:
            await self._mailbox.start()
            stack.push_async_callback(self._mailbox.stop)
        if self.role is Role.CPE and self._configuration.courier is not None:
            collector = Collector(self._worker, self._reached(self._configuration.courier))
            await collector.start()
            stack.push_async_callback(collector.stop)
        if self._delivery is not None:
            await stack.enter_async_context(self._delivery.running(self._tls.server))

    def _supervision(self) -> Supervision:
        configuration, metrics = self._configuration, NetworkMetrics(self._metrics.registry, now_us)
        return Supervision(self._worker, list(configuration.peers), self._reached, configuration.supervision, metrics)

    async def _wait(self) -> None:
        """Wait for the word to stop. Raises what ended the desk thread, or a task, before it."""
        told = asyncio.create_task(self._stopping.wait())
        delivery = () if self._delivery is None else self._delivery.tasks
        watched: list[asyncio.Future[Any]] = [told, self._worker.failed, *self._background, *delivery]
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        for ended in done:
            if ended is not told:
                ended.result()

    async def _end_background(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)

    # --- the desk ---------------------------------------------------------------------------------------------------

    def _make_worker(self) -> DeskWorker:
        limit = self._configuration.limits.waiting
        if self._line is None:
            return DeskWorker(self._open_node, limit)
        line = self._line
        return DeskWorker(self._open_node, limit, line.idle, line.before, Doorbell(line.ports))

    def _make_delivery(self) -> DeliveryService | None:
        section = self._configuration.delivery
        if section is None:
            return None
        return DeliveryService(self._configuration, section, self._worker, self.peer, now_us, self._metrics.registry)

    def _open_node(self) -> tuple[Node, Store]:
        configuration, folder = self._configuration, self._configuration.state
        store = self._open_store()
        try:
            _install(folder, store)
            vault = open_vault(folder, self.party, os.urandom)
            identity, anchors = open_installed(store, vault, self.party)
        except BaseException:
            store.close()
            raise
        self._store = store
        node = Node(
            identity,
            anchors,
            store,
            vault,
            os.urandom,
            now_us,
            configuration.courier,
            lease=LEASE_US,
            collects=_is_nobody if self._mailbox is None else _is_device,
            expects=_is_nobody if self._mailbox is None else self._mailbox.expects,
            observer=Chronicle(self._metrics, self._spans),
        )
        return node, store

    @property
    def _store_kind(self) -> Literal["sqlite", "postgresql"]:
        return "sqlite" if self._configuration.store.url == SQLITE else "postgresql"

    def _open_store(self) -> Store:
        if self._store_kind == "sqlite":
            return SqliteStore(self._configuration.state / STORE_FILE)
        return open_store(self._configuration.store.url, self.party)

    def posted(self, posted: Sequence[Posted]) -> None:
        """`worker.Outlet`: these are on lease to this process."""
        self._sender.take(posted)

    def mail(self, mail: Mapping[PartyId, Sequence[Posted]]) -> None:
        """`worker.Outlet`: something waits for these devices."""
        if self._mailbox is not None:
            self._mailbox.deliver(mail)

    # --- the network ------------------------------------------------------------------------------------------------

    def peer(self, party: PartyId) -> HttpPeer | None:
        """Return the way to another party, or None if no address of it is configured."""
        return self._reached(party) if party in self._configuration.peers else None

    def _reached(self, party: PartyId) -> HttpPeer:
        if party not in self._peers:
            urls = self._configuration.peers[party]
            most = DEVICE_CONNECTIONS if self.role is Role.CPE else MOST_CONNECTIONS
            self._peers[party] = HttpPeer(party, urls, lambda: self._tls.client(party), most)
        return self._peers[party]

    async def _close_peers(self) -> None:
        for peer in self._peers.values():
            await peer.close()

    @contextlib.asynccontextmanager
    async def _listeners(self, listener: socket.socket) -> AsyncIterator[None]:
        application = make_application(
            self._worker, self.role, self._readiness, self._metrics.registry, self._mailbox, self._deployment()
        )
        config = uvicorn.Config(
            application,
            http=over_tls(self._tls.server()),  # type: ignore[arg-type]  # it is called, whatever it is
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        async with served(config, listener), self._monitored():
            yield

    @contextlib.asynccontextmanager
    async def _monitored(self) -> AsyncIterator[None]:
        async with monitored(
            self._configuration.listen.monitoring, Monitoring(self._readiness, self._metrics.registry)
        ):
            yield

    def _deployment(self) -> Deployment:
        deployment = Deployment(now_us(), self._store_kind, self._terms(), self._alarms)
        if self._delivery is None:
            return deployment
        delivery = self._delivery
        return replace(
            deployment,
            assigned=delivery.assigned,
            streams=delivery.streams,
            pools=delivery.pools,
            provenance=delivery.provenance,
            foreign=delivery.foreign,
        )

    def _terms(self) -> Terms | None:
        pmps = [party for party in self._configuration.peers if role_of(party) is Role.PMP]
        return Terms(pmps[0]) if self.role is Role.POMP and pmps else None

    def _alarms(self, line: LineId) -> tuple[str, ...]:
        equipment = None if self._line is None else self._line.equipment
        if equipment is None or equipment.line != line:
            return ()
        return tuple(sorted(equipment.terminal.alarms()))

    def _readiness(self) -> Readiness:
        return Readiness(not self._troubles, tuple(sorted(self._troubles)))

    # --- time -------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            self._metrics.waiting.set(self._worker.waiting)
            try:
                await self._worker.call(Node.tick)
                if self.role is Role.KM:
                    await self._worker.call(_let_go_of_supplies)
                self._troubles.discard("the store is not available")
            except StoreConflict as error:
                _log.info("another replica keeps the time", reason=str(error))
            except StoreError as error:
                self._troubles.add("the store is not available")
                _log.error("the store is not available", reason=str(error))
            except Overloaded as error:
                _log.warning("overloaded", reason=str(error))
            await asyncio.sleep(TICK_S)

    async def _reload(self) -> None:
        while True:
            self._metrics.certificate_expiry.set(self._tls.not_after.timestamp())
            await asyncio.sleep(RELOAD_S)
            self._tls.reload()
            changed = _modified(self._configuration.state / INSTALLATION)
            if changed != self._installed:
                self._installed = changed
                await self._reinstall()

    async def _reinstall(self) -> None:
        """Take in renewed certificates of this party and of those it knows."""
        try:
            await self._worker.call(self._take_installation)
        except QsotnError as error:
            _log.error("the changed installation is not taken over", reason=str(error))
        else:
            _log.info("installation renewed")

    def _take_installation(self, node: Node) -> None:
        folder = self._configuration.state
        install(folder, self._store, os.urandom)
        identity, _ = open_installed(self._store, open_vault(folder, self.party, os.urandom), self.party)
        node.renew(identity)


def _let_go_of_supplies(node: Node) -> None:
    """Destroy the bits of supplies that are past their time."""
    with node.desk() as km:
        km_pool.sweep(km.desk)


def _is_device(party: PartyId) -> bool:
    return role_of(party) is Role.CPE


def _is_nobody(_: PartyId) -> bool:
    return False


def _install(folder: Path, store: Store) -> None:
    """Provision the store, which other replicas may be doing at the same moment."""
    for attempt in range(INSTALL_ATTEMPTS):
        try:
            install(folder, store, os.urandom)
        except StoreConflict:
            if attempt == INSTALL_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * (attempt + 1))
        else:
            return


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
