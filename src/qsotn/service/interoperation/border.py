"""One key manager's border to other operators, put together: the store, what is sent, what is received, the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from qsotn.domain import KeyId
from qsotn.service.delivery.offered import KeyDelivery
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation.border_store import BorderStore, InThread
from qsotn.service.interoperation.etsi020 import Etsi020
from qsotn.service.interoperation.etsi020_client import Courier, Line
from qsotn.service.interoperation.gateway import ACKNOWLEDGED_S, Gateway
from qsotn.service.interoperation.operators import Operator, Operators
from qsotn.service.interoperation.relaying import Onward, Relaying
from qsotn.service.interoperation.sent import Sending


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Who there is: this network's ready keys and SAEs, foreign ones among them, and the other operators.

    `line` returns the way to an operator, `own_url` is the origin at which operators reach us.
    """

    delivery: KeyDelivery
    saes: Saes
    operators: Operators
    line: Callable[[Operator], Line]
    own_url: str
    patience_s: float = ACKNOWLEDGED_S
    onward: Onward | None = None
    """The way to SAEs at other key managers of this network."""


@dataclass(frozen=True, slots=True)
class Border:
    """What SAEs are served from, and what other operators are (`interface.answer`, over `serving.listen`)."""

    gateway: Gateway
    interface: Etsi020
    store: InThread


def now_us() -> int:
    """Return microseconds since the epoch."""
    return time.time_ns() // 1000


@contextlib.asynccontextmanager
async def opened(
    around: Neighbourhood, open_store: Callable[[], BorderStore], clock: Callable[[], int] = now_us
) -> AsyncIterator[Border]:
    """Open the border; at the end, what is under way stays in the store. Raises what opening the store raises.

    A defect of the courier ends the context with an `ExceptionGroup`.
    """
    async with InThread(open_store) as store, asyncio.TaskGroup() as tasks:
        settling = _Settling()
        courier = Courier(around.operators, store, around.line, clock, around.own_url, settling)
        gateway = Gateway(
            around.delivery, around.operators, around.saes, store, clock, courier.nudge, around.patience_s
        )
        settling.gateway = gateway
        await gateway.recover()
        relaying = None
        doing = [tasks.create_task(courier.run())]
        if around.onward is not None:
            relaying = Relaying(around.onward, around.saes, store, clock, courier.nudge)
            doing.append(tasks.create_task(relaying.run()))
        interface = Etsi020(around.operators, around.saes, store, clock, courier.nudge, gateway.settled, relaying)
        yield Border(gateway, interface, store)
        for task in doing:
            task.cancel()


class _Settling:
    """Courier and gateway know each other: this is the one that is made first."""

    gateway: Gateway

    def __call__(self, changed: Mapping[KeyId, Sending]) -> None:
        self.gateway.settled(changed)
