"""A key manager's border as its configuration says: the listener for other operators, the ways to them, the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

import structlog

from qsotn.adapters.tls.ordinary import OrdinaryFiles, OrdinaryTls
from qsotn.service.delivery.etsi014_identity import sae_of
from qsotn.service.delivery.offered import KeyDelivery
from qsotn.service.delivery.saes import Saes
from qsotn.service.delivery.throttled import Throttled
from qsotn.service.interoperation.border import Border, Neighbourhood, opened
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.configuration import BorderSection
from qsotn.service.interoperation.etsi020_client import HttpLine
from qsotn.service.interoperation.etsi020_problems import problem
from qsotn.service.interoperation.operators import Operator, Operators
from qsotn.service.interoperation.relaying import Onward
from qsotn.service.interoperation.serving import listen, standard_context
from qsotn.service.listeners import bound

RELOAD_S = 2.0
_log = structlog.get_logger("interoperation")


@contextlib.asynccontextmanager
async def border_served(
    section: BorderSection, delivery: KeyDelivery, saes: Saes, onward: Onward, open_store: Callable[[], BorderStore]
) -> AsyncIterator[Border]:
    """Serve other operators; yields what this key manager's own SAEs are then served from, the gateway.

    `saes` are all, with those of other operators as attached here; `onward` is the way to those elsewhere. Raises
    `UsageError` for an address or files that cannot be used, `StoreError`.
    """
    operators = [Operator(one.name, one.url, frozenset(one.saes)) for one in section.operators]
    server, client = (_tls(section, server=side) for side in (True, False))
    lines = {operator.name: HttpLine(operator, lambda: client.context) for operator in operators}
    known = frozenset(lines)
    ways = Operators(operators)
    around = Neighbourhood(delivery, saes, ways, lambda operator: lines[operator.name], section.own_url, onward=onward)
    async with contextlib.AsyncExitStack() as stack:
        listener = bound(section.address, "[border] address")
        stack.callback(listener.close)
        for line in lines.values():
            stack.push_async_callback(line.close)
        border = await stack.enter_async_context(opened(around, open_store))
        identify = partial(sae_of, known=known)
        serving = listen(border.interface.answer, listener, server.context, identify, problem)
        await stack.enter_async_context(serving)
        stack.enter_context(_reloading(server, client))
        _log.info("border", address=section.address, operators=sorted(known))
        yield border


def _tls(section: BorderSection, *, server: bool) -> OrdinaryTls:
    throttled = Throttled()

    def make(now: OrdinaryFiles) -> ssl.SSLContext:
        return standard_context(now.certificate, now.key, now.authority, server=server)

    def refused(reason: str) -> None:
        throttled.tell(_log.warning, "an operator is refused", reason=reason)

    def failed(reason: str) -> None:
        _log.error("the border goes on with the certificates it had", reason=reason)

    files = OrdinaryFiles(section.certificate, section.key, section.authority, section.authority_list)
    return OrdinaryTls(files, make, refused, failed)


@contextlib.contextmanager
def _reloading(*all_tls: OrdinaryTls) -> Iterator[None]:
    """Take over certificates and revocation lists that have changed, as long as the context is open."""
    task = asyncio.create_task(_reload(all_tls))
    try:
        yield
    finally:
        task.cancel()


async def _reload(all_tls: Sequence[OrdinaryTls]) -> None:
    while True:
        await asyncio.sleep(RELOAD_S)
        renewed = [tls.reload_if_changed() for tls in all_tls]
        if any(renewed):
            _log.info("certificates of the border renewed")
