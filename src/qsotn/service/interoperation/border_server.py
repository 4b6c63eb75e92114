"""A key manager's border as its configuration says: the listener for other operators, the ways to them, the gateway."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

import structlog

from qsotn.service.delivery.etsi014_identity import sae_of
from qsotn.service.delivery.offered import KeyDelivery
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation.border import Neighbourhood, opened
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.configuration import BorderSection
from qsotn.service.interoperation.etsi020_client import HttpLine
from qsotn.service.interoperation.gateway import Gateway
from qsotn.service.interoperation.operators import Operator, Operators
from qsotn.service.interoperation.serving import listen, standard_context
from qsotn.service.listeners import bound

_log = structlog.get_logger("interoperation")


@contextlib.asynccontextmanager
async def border_served(
    section: BorderSection, delivery: KeyDelivery, saes: Saes, open_store: Callable[[], BorderStore]
) -> AsyncIterator[Gateway]:
    """Serve other operators; yields what this key manager's own SAEs are then served from.

    `saes` are all, with those of other operators as attached here. Raises `UsageError` for an address or files that
    cannot be used, `StoreError`.
    """
    operators = [Operator(one.name, one.url, frozenset(one.saes)) for one in section.operators]
    context = partial(standard_context, section.certificate, section.key, section.authority)
    lines = {operator.name: HttpLine(operator, partial(context, server=False)) for operator in operators}
    known = frozenset(lines)
    around = Neighbourhood(delivery, saes, Operators(operators), lambda operator: lines[operator.name], section.own_url)
    async with contextlib.AsyncExitStack() as stack:
        listener, server = bound(section.address), context(server=True)
        stack.callback(listener.close)
        for line in lines.values():
            stack.push_async_callback(line.close)
        border = await stack.enter_async_context(opened(around, open_store))
        serving = listen(border.interface.answer, listener, server, lambda certificate: sae_of(certificate, known))
        await stack.enter_async_context(serving)
        _log.info("border", address=section.address, operators=sorted(known))
        yield border.gateway
