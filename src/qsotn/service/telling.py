"""The QKMP tells its key managers what it saw of the network's links, for the ways of their supplies.

Whoever answered the last look is told; it is told all, as the whole way of a supply matters to its origin. Who does
not take it is told again after the next look, and goes on with what it knows meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from qsotn.domain import PartyId
from qsotn.errors import LineError
from qsotn.parties.link_sights import LinkSight, NetworkSight, pages
from qsotn.service.config import SupervisionSection
from qsotn.service.http.operations_sights import SIGHTS

AT_ONCE: Final = 16
LONGEST_ANSWER_S: Final = 5.0
LOOKS_BELIEVED: Final = 3
"""A sight holds until the third look after it should have replaced it: one or two that fail change no way."""
SHORTEST_BELIEVED_S: Final = 15.0
_NOTHING: Final = 204
_log = structlog.get_logger("supervision")


class Asked(Protocol):
    """A party as it is reached from here, as `adapters.transport.http.HttpPeer` is."""

    async def ask(self, method: str, path: str, body: msgspec.Struct | None, expected: int) -> bytes:
        """Return an answer's body. Raises `LineError`."""


class Telling:
    """Tells key managers of links; remembers only who did not take it."""

    def __init__(self, reach: Callable[[PartyId], Asked], section: SupervisionSection) -> None:
        self._reach = reach
        self._believed_s = max(SHORTEST_BELIEVED_S, LOOKS_BELIEVED * section.interval_s)
        self._qber_limit = section.qber
        self._under_way = asyncio.Semaphore(AT_ONCE)
        self._deaf: set[PartyId] = set()

    async def tell(self, kms: Sequence[PartyId], sights: Sequence[LinkSight]) -> None:
        """Tell some key managers of all links."""
        told = list(pages(sights, self._believed_s, self._qber_limit))
        answers = await asyncio.gather(*(self._to_one(km, told) for km in kms))
        self._log_change({km: why for km, why in zip(kms, answers, strict=True) if why})

    async def _to_one(self, km: PartyId, told: Iterable[NetworkSight]) -> str:
        """Tell one; return why it was not taken, or nothing."""
        async with self._under_way:
            try:
                async with asyncio.timeout(LONGEST_ANSWER_S):
                    for page in told:
                        await self._reach(km).ask("PUT", SIGHTS, page, _NOTHING)
            except TimeoutError:
                return f"{km} did not answer within {LONGEST_ANSWER_S:g} s"
            except LineError as error:
                return str(error)
        return ""

    def _log_change(self, deaf: dict[PartyId, str]) -> None:
        for km in sorted(deaf.keys() - self._deaf):
            _log.warning("a key manager is not told of the network's links", told=km, reason=deaf[km])
        self._deaf = {*deaf}
