"""The process of sources: it brings bits of others to both ends of a link, as the twin brings its own.

They come from two key managers of somebody else (`adapters.keysource.foreign`), or out of files that QKD devices leave
(`interoperation.ingestion`). What was begun is kept in the state folder, so that a kill loses bits and never has any
used twice; a stop waits until what is under way is done, and begins nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from qsotn.adapters.keysource.etsi014 import Etsi014Client
from qsotn.adapters.keysource.foreign import Account, Drawn, ForeignSource
from qsotn.domain import PartyId, Role, Secret
from qsotn.errors import KeyShortage, LineError, Refusal, UsageError
from qsotn.service.config import TwinLink
from qsotn.service.http.context import Readiness
from qsotn.service.http.health import Monitoring
from qsotn.service.identity_files import Credentialed
from qsotn.service.interoperation.ingestion import Ingestion, Register
from qsotn.service.interoperation.link_feed import LEAST_BYTES, available_bits, bring
from qsotn.service.listeners import monitored, stopped_by_signals
from qsotn.service.observability import configure_logging
from qsotn.service.source_config import FilesSection, ForeignEnd, ForeignSection, SourceConfiguration
from qsotn.service.twin import ModuleEnd

Doing = Callable[[], Coroutine[Any, Any, None]]
"""What goes on for a link, until it is cancelled."""
STOP_S: Final = 20.0
"""How long a stop waits for what is under way."""
_log = structlog.get_logger("sources")


def run(configuration: SourceConfiguration) -> None:
    """Feed all links until SIGTERM or SIGINT. Raises `UsageError`, `StoreError`."""
    configure_logging(configuration.log, "qkd/sources")
    asyncio.run(serve(configuration, asyncio.Event()))


async def serve(configuration: SourceConfiguration, stopping: asyncio.Event) -> None:
    """Feed all links until `stopping` is set or a signal sets it. Raises `UsageError`, `StoreError`."""
    with stopped_by_signals(stopping), _alone(configuration.state):
        async with contextlib.AsyncExitStack() as stack:
            feeding = Feeding(configuration, stopping)
            doing = [
                *[await stack.enter_async_context(feeding.foreign(section)) for section in configuration.foreign],
                *[await stack.enter_async_context(feeding.files(section)) for section in configuration.files],
            ]
            monitoring = Monitoring(feeding.readiness, feeding.registry)
            await stack.enter_async_context(monitored(configuration.listen.monitoring, monitoring))
            _log.info("ready", links=sorted(feeding.links), pid=os.getpid())
            await _until_told(stopping, doing, feeding)


async def _until_told(stopping: asyncio.Event, doing: Sequence[Doing], feeding: Feeding) -> None:
    told, tasks = asyncio.create_task(stopping.wait()), [asyncio.create_task(one()) for one in doing]
    done, _ = await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
    _log.info("stopping")
    stopping.set()
    if told in done:
        await feeding.finished()
    for task in (told, *tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for ended in done - {told}:
        ended.result()


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the state folder: two processes with one account would bring the same bits. Raises `UsageError`."""
    try:
        descriptor = os.open(state / "source.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"state: {state} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"state: {state} is in use by another process of sources") from error
    try:
        yield
    finally:
        os.close(descriptor)


class Feeding:
    """What feeds the links: how they stand, and what is under way."""

    def __init__(self, configuration: SourceConfiguration, stopping: asyncio.Event) -> None:
        self._configuration, self._stopping = configuration, stopping
        self.registry = CollectorRegistry()
        self._brought = self._gauge("qsotn_source_brought_bits", "Bits of a link that reached both ends")
        self._lost = self._gauge("qsotn_source_lost_bits", "Bits of a link that are used at no end")
        self._idle: dict[str, asyncio.Event] = {}
        self._waiting: dict[str, str] = {}

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(name, what, ["link"], registry=self.registry)

    @property
    def links(self) -> tuple[str, ...]:
        """The links that are fed."""
        return tuple(self._idle)

    def readiness(self) -> Readiness:
        """Say whether every link got, or has, what it should; if not, the reasons."""
        return Readiness(not self._waiting, tuple(f"{link} {why}" for link, why in sorted(self._waiting.items())))

    async def finished(self) -> None:
        """Wait until nothing is under way, but not for ever."""
        try:
            async with asyncio.timeout(STOP_S):
                for idle in self._idle.values():
                    await idle.wait()
        except TimeoutError:
            _log.warning("what is under way is not waited for", seconds=STOP_S)

    # --- from key managers of somebody else -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def foreign(self, section: ForeignSection) -> AsyncIterator[Doing]:
        """Yield what draws keys for a link until it is cancelled. Raises `UsageError`, `StoreError`."""
        async with _module_ends(section, self._configuration) as ends, _clients(section) as (master, slave):
            account = Account(self._configuration.state / f"foreign-{section.link}.json")
            one, other = (end.sae for end in section.ends)
            idle = self._begin(section.link, "had no keys yet")
            self._show_account(section, account)

            async def wanted() -> int:
                idle.set()
                if self._stopping.is_set():
                    return 0
                if await available_bits(ends) >= section.wanted_bits:
                    self._waiting.pop(section.link, None)
                    return 0
                number = await _offered(master, other, section)
                if number and not self._stopping.is_set():
                    idle.clear()
                    return number
                return 0

            async def take(drawn: Drawn) -> None:
                number = await bring(section.link, ends, [drawn.at_master, drawn.at_slave], os.urandom)
                self._waiting.pop(section.link, None)
                idle.set()
                _log.info("keys brought", exchange=number, keys=len(drawn.key_ids))

            source = ForeignSource((one, master), (other, slave), account, section.key_size)
            yield partial(_of_link, section.link, partial(source.run, wanted, take))

    def _show_account(self, section: ForeignSection, account: Account) -> None:
        size = section.key_size
        self._brought.labels(section.link).set_function(lambda: account.totals.handed_over * size)
        self._lost.labels(section.link).set_function(lambda: account.totals.lost * size)

    # --- from files -------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def files(self, section: FilesSection) -> AsyncIterator[Doing]:
        """Yield what takes a link's blocks until it is cancelled. Raises `UsageError`, `StoreError`."""
        async with _module_ends(section, self._configuration) as ends:
            register = Register(self._configuration.state / f"files-{section.link}.register")
            one, other = (_folder(end.folder) for end in section.ends)
            idle = self._begin(section.link)
            self._brought.labels(section.link).set_function(lambda: register.brought_bits)
            self._lost.labels(section.link).set_function(lambda: register.lost_bits)

            async def brought(copies: Sequence[Secret], depositing: Callable[[], None]) -> int:
                if self._stopping.is_set():
                    raise LineError("this process is being stopped")
                idle.clear()
                try:
                    return await bring(section.link, ends, copies, os.urandom, depositing)
                finally:
                    idle.set()

            yield partial(_of_link, section.link, Ingestion((one, other), register, brought).run)

    def _begin(self, link: str, waiting: str = "") -> asyncio.Event:
        self._idle[link] = asyncio.Event()
        self._idle[link].set()
        if waiting:
            self._waiting[link] = waiting
        return self._idle[link]


async def _of_link(link: str, doing: Doing) -> None:
    """Do what is to be done for a link; every line of the log that comes of it names the link."""
    structlog.contextvars.bind_contextvars(link=link)
    await doing()


async def _offered(master: Etsi014Client, slave: str, section: ForeignSection) -> int:
    """Return how many keys to draw now: a block of them, or as many as there are. Raises as the client does."""
    status = await master.status(slave)
    if not status.min_key_size <= section.key_size <= status.max_key_size:
        sizes = f"{status.min_key_size} to {status.max_key_size}"
        raise Refusal("BAD_REQUEST", f"its keys have {sizes} bits; key_size is {section.key_size}")
    number = min(section.keys, status.max_key_per_request, status.stored_key_count)
    if number * section.key_size < LEAST_BYTES * 8:
        raise KeyShortage(f"it has {status.stored_key_count} keys now, and gives {status.max_key_per_request} at once")
    return number


@contextlib.asynccontextmanager
async def _module_ends(
    section: ForeignSection | FilesSection, configuration: SourceConfiguration
) -> AsyncIterator[tuple[ModuleEnd, ModuleEnd]]:
    """Reach both key managers of a link as its modules do. Raises `UsageError`."""
    tls = Credentialed(PartyId(f"{Role.QKD}/{section.link}"), section.tls)
    kms = (section.ends[0].km, section.ends[1].km)
    link = TwinLink(section.link, kms, section.tls)
    one, other = (ModuleEnd(link, km, configuration.peers[km], tls) for km in kms)
    try:
        yield one, other
    finally:
        await one.close()
        await other.close()


@contextlib.asynccontextmanager
async def _clients(section: ForeignSection) -> AsyncIterator[tuple[Etsi014Client, Etsi014Client]]:
    one, other = section.ends
    contexts = [foreign_context(end) for end in section.ends]
    async with (
        Etsi014Client(one.url, lambda: contexts[0]) as master,
        Etsi014Client(other.url, lambda: contexts[1]) as slave,
    ):
        yield master, slave


def foreign_context(end: ForeignEnd) -> ssl.SSLContext:
    """Return the context of an SAE at a foreign key manager: TLS 1.2 at least. Raises `UsageError`."""
    try:
        context = ssl.create_default_context(cafile=str(end.authority))
        context.load_cert_chain(end.certificate, end.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{end.certificate}, {end.key} or {end.authority} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _folder(folder: Path) -> Path:
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"{folder} is no folder that this process can read and write: files are taken out of it")
    return folder
