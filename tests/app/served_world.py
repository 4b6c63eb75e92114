"""A world's parties as services: their real applications behind one plain HTTP server, and an operator who asks them.

There is no TLS here, and one loop does everything: parties say what they have to say between two requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.service.http.driver import DEPLOYMENT, Incoming, application_of, ask, scope_of
from tests.world import World

from qsotn.app.operator import Operator
from qsotn.app.province import PARTIES
from qsotn.domain import PartyId
from qsotn.service.http.context import Deployment

T = TypeVar("T")

ADVICE = "start it"


@dataclass
class Faults:
    """What goes wrong on the way: how many of the next answers are lost, and who is not asked at all."""

    lost_answers: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Idempotency-Key of every request that arrived."""


@dataclass
class Served:
    """A world that is served."""

    world: World
    operator: Operator
    faults: Faults
    work: Callable[[], object]
    """What the world does between two requests."""


@contextlib.asynccontextmanager
async def served(
    world: World,
    *,
    without: Sequence[PartyId] = (),
    replicas: Sequence[str] = (),
    work: Callable[[], object] | None = None,
    deployments: Mapping[PartyId, Deployment] | None = None,
) -> AsyncIterator[Served]:
    """Serve every party of a world but some. `replicas` are addresses of the POMP that nobody listens at.

    `deployments` are those of parties that know more of themselves than others.
    """
    faults = Faults()
    async with TestServer(_application(world, faults, deployments or {})) as server:
        base = str(server.make_url("")).rstrip("/")
        urls: dict[PartyId, tuple[str, ...]] = {party: (f"{base}/{party}",) for party in PARTIES}
        urls |= dict.fromkeys(without, ("http://127.0.0.1:1",))
        urls |= {party: (*replicas, *urls[party]) for party in PARTIES if replicas and party.startswith("pomp/")}
        async with Operator(urls, lambda _: True, ADVICE) as operator:
            one = Served(world, operator, faults, work or world.pump)
            working = asyncio.create_task(_work(one))
            try:
                yield one
            finally:
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working


async def _work(one: Served) -> None:
    while True:
        one.work()
        await asyncio.sleep(0)


def _application(world: World, faults: Faults, deployments: Mapping[PartyId, Deployment]) -> web.Application:
    applications = {
        party: application_of(world, party, deployment=deployments.get(party, DEPLOYMENT)) for party in PARTIES
    }

    async def handle(request: web.Request) -> web.StreamResponse:
        party = PartyId(f"{request.match_info['role']}/{request.match_info['name']}")
        target = request.raw_path.removeprefix(f"/{party}")
        faults.asked.append((request.method, target, request.headers.get("Idempotency-Key", "")))
        scope = scope_of(request.method, target, dict(request.headers))
        scope["path"] = request.match_info["path"]
        reply: Any = await ask(applications[party], scope, Incoming([await request.read()]))
        if faults.lost_answers:
            faults.lost_answers -= 1
            assert request.transport is not None
            request.transport.close()
        headers = {name: value for name, value in reply.headers.items() if name != "content-length"}
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    application = web.Application()
    application.router.add_route("*", "/{role}/{name}{path:/.*}", handle)
    return application


def as_operator(world: World, act: Callable[[Operator], Awaitable[T]], **how: Any) -> T:
    """Do something as the operator of a world that is served meanwhile."""

    async def run() -> T:
        async with served(world, **how) as one:
            return await act(one.operator)

    return asyncio.run(run())
