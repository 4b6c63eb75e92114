"""The room that bodies share: nobody fills another's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from qsotn.domain import PartyId, Role, role_of
from qsotn.service.http.bodies import DEVICES, EVERYBODY, Bodies, Body
from qsotn.service.http.problems import HttpProblem

ROOM = {EVERYBODY: 100, DEVICES: 50}


@dataclass(frozen=True)
class Somebody:
    party: PartyId

    @property
    def role(self) -> Role:
        return role_of(self.party)


def body_of(bodies: Bodies, party: str, size: int) -> Body:
    """A request whose body arrives in one piece."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(size), "more_body": True}

    return bodies.read(receive, Somebody(PartyId(party)) if party else None)


def fits(bodies: Bodies, party: str, size: int) -> bool:
    """Whether there is room; what fits stays, and what does not is told to come again."""
    try:
        asyncio.run(body_of(bodies, party, size)())
    except HttpProblem as problem:
        return problem.kind.status != 503
    return True


def test_a_peer_has_its_share_and_no_more() -> None:
    bodies = Bodies(ROOM, share=40, device_share=10)
    assert fits(bodies, "pomp/a", 40)
    assert not fits(bodies, "pomp/a", 1)
    assert fits(bodies, "qssp/a", 40)


def test_devices_together_leave_half_of_the_room_to_the_platform() -> None:
    bodies = Bodies(ROOM, share=40, device_share=10)
    assert [fits(bodies, f"cpe/{number}", 10) for number in range(6)] == [True] * 5 + [False]
    assert not fits(bodies, "cpe/0", 1)
    assert fits(bodies, "pomp/a", 40)


def test_all_together_have_no_more_than_the_room() -> None:
    bodies = Bodies(ROOM, share=60, device_share=10)
    assert fits(bodies, "pomp/a", 60)
    assert not fits(bodies, "qssp/a", 41)
    assert fits(bodies, "", 40)


@pytest.mark.parametrize("party", ["pomp/a", "cpe/a", ""])
def test_what_was_answered_gives_its_room_back(party: str) -> None:
    bodies = Bodies(ROOM, share=40, device_share=40)

    async def story() -> None:
        for _ in range(5):
            body = body_of(bodies, party, 40)
            await body()
            body.forget()
            body.forget()

    asyncio.run(story())
    assert not bodies._held
