"""The twin's process: it stands for the QKD modules at both ends of every link, and feeds the key managers.

For each link it asks both ends how they stand, and when one of them can allocate less than it should, has both burn the
same authentication key, distils a block, and brings each end its own copy, again and again until both have it. It keeps
nothing: after a kill the next exchange has the next number, and costs no more than the authentication key that was
burned, and a block that one end had got, which that end then writes off (`procedures.block_account`).

A link that rests, or whose light gives no key, is measured every so often (`twin_watch`), and both ends are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final, TypeVar

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from qsotn.adapters.transport.http import Declined, HttpPeer
from qsotn.domain import PartyId, Role, Secret
from qsotn.errors import KeyShortage, LineError, PeerError, UsageError
from qsotn.quantum.failures import NoKey, TooFewDetections
from qsotn.quantum.ledger import BlockLedger
from qsotn.service.config import TwinConfiguration, TwinLink
from qsotn.service.http.context import Readiness
from qsotn.service.http.health import Monitoring
from qsotn.service.http.quantum_modules import Block, Exchange, ExchangeKey, FirstKeys, Measurement
from qsotn.service.identity_files import Credentialed
from qsotn.service.link_keys import AUTHENTICATION_BYTES, POOL_DEPTH, LinkStatus, next_exchange, wants_first_keys
from qsotn.service.listeners import monitored, stopped_by_signals
from qsotn.service.observability import configure_logging
from qsotn.service.parent import end_with
from qsotn.service.twin_watch import EAVESDROPPERS, Eavesdroppers, LinkWatch

T = TypeVar("T")

LOOK_S: Final = 1.0
RETRY_S: Final = 2.0
BROUGHT_S: Final = 600.0
"""How long a block is brought again to an end that is away; its far end waits for longer before it writes it off."""
_SERVERS_FAULT: Final = 500
_OK, _NOTHING = 200, 204
_log = structlog.get_logger("twin")


def run(configuration: TwinConfiguration) -> None:
    """Feed all links until SIGTERM or SIGINT."""
    configure_logging(configuration.log, "qkd/twin")
    asyncio.run(_serve(configuration))


async def _serve(configuration: TwinConfiguration) -> None:
    stopping, fed = asyncio.Event(), Fed(link.name for link in configuration.links)
    with stopped_by_signals(stopping):
        async with contextlib.AsyncExitStack() as stack:
            pool = stack.enter_context(ProcessPoolExecutor(1, initializer=_begin_worker, initargs=(os.getpid(),)))
            ends = [_ends_of(link, configuration) for link in configuration.links]
            await stack.enter_async_context(
                monitored(configuration.listen.monitoring, Monitoring(fed.readiness, CollectorRegistry()))
            )
            taps = Eavesdroppers(configuration.state / EAVESDROPPERS)
            tasks = [
                asyncio.create_task(_feed(link, pair, configuration.keys.fill_bits, pool, fed, taps.fraction))
                for link, pair in zip(configuration.links, ends, strict=True)
            ]
            told = asyncio.create_task(stopping.wait())
            done, _ = await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in (told, *tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for pair in ends:
                for end in pair:
                    await end.close()
            for ended in done - {told}:
                ended.result()


class Fed:
    """Which links have had their first keys: the twin is ready when all have."""

    def __init__(self, links: Any) -> None:
        self._waiting = set(links)

    def note(self, link: str) -> None:
        """Both ends of this link have what they should have."""
        self._waiting.discard(link)

    def readiness(self) -> Readiness:
        """Say whether every link was filled once."""
        return Readiness(not self._waiting, tuple(f"{link} has no keys yet" for link in sorted(self._waiting)))


class ModuleEnd:
    """The modules at one end of one link: what they say to that end's key manager."""

    def __init__(self, link: TwinLink, km: PartyId, urls: tuple[str, ...], tls: Credentialed) -> None:
        self._path = f"/kq/v1/links/{link.name}"
        self._tls = tls
        self._peer = HttpPeer(km, urls, lambda: tls.client(km))

    async def status(self) -> LinkStatus:
        """Return how this end stands. Raises `LineError`."""
        self._tls.reload()
        return await self._ask("GET", "", None, LinkStatus)

    async def install(self, keys: tuple[bytes, ...]) -> None:
        """Bring the first authentication keys. Raises `LineError`."""
        await self._tell("PUT", "/first-keys", FirstKeys(keys))

    async def begin(self, number: int) -> Secret:
        """Have this end burn its key of an exchange. Raises `LineError`."""
        return Secret((await self._ask("POST", "/exchanges", Exchange(number), ExchangeKey)).key)

    async def deposit(self, block: Block) -> None:
        """Bring this end's copy of a block. Raises `LineError`."""
        await self._tell("POST", "/blocks", block)

    async def measured(self, error_rate: float | None, *, distils: bool) -> None:
        """Tell this end how the light is. Raises `LineError`."""
        await self._tell("PUT", "/measurement", Measurement(error_rate, distils))

    async def _ask(self, method: str, path: str, body: msgspec.Struct | None, answer: type[T]) -> T:
        content = await self._peer.ask(method, self._path + path, body, _OK)
        try:
            return msgspec.json.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise LineError(f"{self._peer.party} answered something else than {answer.__name__}: {error}") from None

    async def _tell(self, method: str, path: str, body: msgspec.Struct) -> None:
        await self._peer.ask(method, self._path + path, body, _NOTHING)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.close()


def _ends_of(link: TwinLink, configuration: TwinConfiguration) -> tuple[ModuleEnd, ModuleEnd]:
    tls = Credentialed(PartyId(f"{Role.QKD}/{link.name}"), link.tls)
    one, other = (ModuleEnd(link, km, configuration.peers[km], tls) for km in link.ends)
    return one, other


def _nobody(_: str) -> float:
    """Say that nobody measures the light."""
    return 0.0


async def _feed(
    link: TwinLink,
    ends: tuple[ModuleEnd, ModuleEnd],
    fill_bits: int,
    pool: ProcessPoolExecutor,
    fed: Fed,
    intercepted: Callable[[str], float] = _nobody,
) -> None:
    watch = LinkWatch(time.monotonic)
    while True:
        try:
            states = [await end.status() for end in ends]
            filled = min(state.available_bits for state in states) >= fill_bits
            if wants_first_keys(states):
                await _install(ends)
            elif not filled and watch.is_worth_a_key:
                await _watched_exchange(link, ends, next_exchange(states), pool, watch, intercepted(link.name))
            else:
                if filled:
                    fed.note(link.name)
                if watch.is_due:
                    await _measured(ends, pool, watch, intercepted(link.name))
                await asyncio.sleep(LOOK_S)
        except (LineError, KeyShortage, PeerError, UsageError) as error:
            # An end that is away, or a block that failed: the next exchange has a later number.
            _log.warning("link not fed", link=link.name, reason=str(error))
            await asyncio.sleep(RETRY_S)


async def _install(ends: tuple[ModuleEnd, ModuleEnd]) -> None:
    keys = tuple(os.urandom(AUTHENTICATION_BYTES) for _ in range(POOL_DEPTH))
    for end in ends:
        await end.install(keys)


async def _watched_exchange(
    link: TwinLink,
    ends: tuple[ModuleEnd, ModuleEnd],
    number: int,
    pool: ProcessPoolExecutor,
    watch: LinkWatch,
    intercepted: float,
) -> None:
    """Exchange, and tell both ends of light that gave no key. Raises `NoKey`, and whatever else an exchange raises."""
    try:
        await _exchange(link, ends, number, pool, intercepted)
    except NoKey as error:
        watch.gave_nothing(error.error_rate)
        await _tell(ends, error.error_rate, watch)
        raise
    watch.distilled()


async def _measured(
    ends: tuple[ModuleEnd, ModuleEnd], pool: ProcessPoolExecutor, watch: LinkWatch, intercepted: float
) -> None:
    error_rate = await asyncio.get_running_loop().run_in_executor(pool, _measure, intercepted)
    watch.measured(error_rate)
    await _tell(ends, error_rate, watch)


async def _tell(ends: tuple[ModuleEnd, ModuleEnd], error_rate: float | None, watch: LinkWatch) -> None:
    for end in ends:
        await end.measured(error_rate, distils=watch.distils)


async def _exchange(
    link: TwinLink, ends: tuple[ModuleEnd, ModuleEnd], number: int, pool: ProcessPoolExecutor, intercepted: float
) -> None:
    keys = [await end.begin(number) for end in ends]
    blocks = await asyncio.get_running_loop().run_in_executor(
        pool, _distil, link.name, number, keys[0].reveal(), keys[1].reveal(), intercepted
    )
    for end, block in zip(ends, blocks, strict=True):
        await _bring(link, end, block)
    ledger = blocks[0].ledger
    _log.info("block distilled", link=link.name, block=number, qber=round(ledger.error_rate, 4), bits=ledger.net_bits)


async def _bring(link: TwinLink, end: ModuleEnd, block: Block) -> None:
    """Bring an end its copy until it says that it has it. Raises `LineError` if it declines, or is away for long."""
    clock = asyncio.get_running_loop().time
    until = clock() + BROUGHT_S
    while True:
        try:
            return await end.deposit(block)
        except LineError as error:
            declined = isinstance(error, Declined) and error.status < _SERVERS_FAULT
            if declined or clock() >= until:
                raise
            _log.warning("a block is brought again", link=link.name, block=block.number, reason=str(error))
            await asyncio.sleep(RETRY_S)


def _distil(link: str, number: int, key_a: bytes, key_b: bytes, intercepted: float = 0.0) -> tuple[Block, Block]:
    """Distil one block, in a process of its own: light takes all of a processor.

    `intercepted` is the fraction of the pulses that an eavesdropper measures and sends on.
    """
    from qsotn.quantum.link import distil_block
    from qsotn.quantum.optics import intercept_resend
    from qsotn.quantum.parameters import METRO

    seed = int.from_bytes(os.urandom(8))
    keys = (Secret(key_a), Secret(key_b))
    attack = intercept_resend(intercepted) if intercepted else None
    one, other = distil_block(METRO, link, number, os.urandom, os.urandom, seed, keys, attack=attack)
    return _block(number, one.ledger, one.key, one.next_authentication), _block(
        number, other.ledger, other.key, other.next_authentication
    )


def _measure(intercepted: float = 0.0) -> float | None:
    """Return the error rate of the light, or None where too little arrives, in that process."""
    from qsotn.quantum.measuring import measure_error_rate
    from qsotn.quantum.optics import intercept_resend
    from qsotn.quantum.parameters import METRO

    attack = intercept_resend(intercepted) if intercepted else None
    try:
        return measure_error_rate(METRO, os.urandom, os.urandom, int.from_bytes(os.urandom(8)), attack=attack)
    except TooFewDetections:
        return None


def _block(number: int, ledger: BlockLedger, key: Secret, withheld: Secret) -> Block:
    return Block(number, key.reveal(), withheld.reveal(), ledger)


def _begin_worker(parent: int) -> None:
    """A worker process ends with its parent, and not at the terminal's word."""
    end_with(parent)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN if name is signal.SIGINT else lambda *_: sys.exit(0))
