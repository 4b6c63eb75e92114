"""A fault proxy before every listener of a province: whoever speaks to a party, an operator too, passes through one."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Self

from tests.faults.loop_thread import LoopThread
from tests.faults.proxy import FaultProxy
from tests.faults.weather import Calm, Fault, Storm, Weather
from tests.live.province import Province

from qsotn.app.record import RECORD
from qsotn.domain import PartyId
from qsotn.service.config import split_address


class Detours:
    """Proxies in one event loop; an asynchronous context, within which they are open."""

    def __init__(self, province: Province) -> None:
        self._province = province
        self.proxies: dict[PartyId, list[FaultProxy]] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            for number, service in enumerate(self._province.record.services):
                address = service.url.removeprefix("https://")
                proxy = await opened.enter_async_context(FaultProxy(split_address(address), seed=number))
                self.proxies.setdefault(service.party, []).append(proxy)
                self._lead(service.url, f"https://{proxy.address[0]}:{proxy.address[1]}")
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._opened.aclose()

    def _lead(self, url: str, around: str) -> None:
        """Write the proxy's address where the listener's stood: in configurations, and in what operators read."""
        self._province.edit("*/service*.toml", f'"{url}"', f'"{around}"')
        record = self._province.state / RECORD
        record.write_text(record.read_text().replace(f'"{url}"', f'"{around}"'))

    @property
    def happened(self) -> Counter[type[Fault]]:
        """Faults that took place, at all proxies together."""
        return sum((proxy.happened for proxies in self.proxies.values() for proxy in proxies), Counter())

    def set(self, weather: Weather | Fault, *parties: PartyId) -> None:
        """Change the weather before some parties, or before all."""
        for party in parties or self.proxies:
            for proxy in self.proxies[party]:
                proxy.set(weather)

    def storm(self, kind: Storm) -> None:
        """Have a storm before every listener, each with its own times and its own faults."""
        every = (proxy for proxies in self.proxies.values() for proxy in proxies)
        for number, proxy in enumerate(every):
            proxy.set(replace(kind, seed=1000 * kind.seed + number))

    def calm(self) -> None:
        """End all that happens to new connections, and to what comes next on those that are open."""
        self.set(Calm())


class DetourThread(LoopThread):
    """Detours in a thread of their own."""

    def __init__(self, detours: Detours) -> None:
        super().__init__(detours)
        self.detours = detours
