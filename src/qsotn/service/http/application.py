"""The HTTP side of one party's service, whole: an ASGI application by role, and its OpenAPI document.

What always holds: every request gets an answer, and every answer that is no success is a problem document; what is
too large is refused before it is read; what is not for a peer's role is refused before its body is read.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry
from starlette.routing import Route, Router

from qsotn.domain import Role
from qsotn.service.http import (
    health,
    mailbox,
    operations_admission,
    operations_assignments,
    operations_common,
    operations_cpe,
    operations_keys,
    operations_km,
    operations_lines,
    operations_network,
    operations_pmp,
    operations_pomp,
    operations_qkmp,
    operations_qssp,
    operations_rates,
    operations_sights,
    operations_streams,
    quantum_modules,
)
from qsotn.service.http.answer import Receive, Scope, Send, Sending, send_answer
from qsotn.service.http.bodies import Bodies
from qsotn.service.http.context import Deployment, Mailbox, Readiness, Service, Worker
from qsotn.service.http.messages import interface_operations
from qsotn.service.http.metrics import Metrics
from qsotn.service.http.openapi import openapi_document
from qsotn.service.http.operation import Operation, known_peer
from qsotn.service.http.problems import NOT_FOUND, HttpProblem, answer_to
from qsotn.service.http.request import ClientGone, check_size
from qsotn.service.http.resource import OPERATION, Resource

_BY_ROLE: Final[dict[Role, tuple[Operation, ...]]] = {
    Role.POMP: operations_pomp.OPERATIONS + operations_lines.OPERATIONS,
    Role.PMP: mailbox.OPERATIONS + operations_pmp.OPERATIONS,
    Role.QSSP: operations_qssp.OPERATIONS + operations_keys.QSSP_OPERATIONS,
    Role.KM: (
        operations_assignments.OPERATIONS
        + operations_streams.OPERATIONS
        + operations_km.OPERATIONS
        + operations_keys.KM_OPERATIONS
        + operations_sights.OPERATIONS
        + quantum_modules.OPERATIONS
    ),
    Role.QKMP: (
        operations_qkmp.OPERATIONS
        + operations_network.OPERATIONS
        + operations_rates.OPERATIONS
        + operations_admission.OPERATIONS
    ),
    Role.CPE: operations_cpe.OPERATIONS,
}
_NONE: Final = "none"
"""The operation of a request that reached none, for the metrics."""


def operations_of(role: Role) -> tuple[Operation, ...]:
    """Return everything that a party of this role serves; what is used most comes first."""
    return (*interface_operations(role), *_BY_ROLE[role], *operations_common.OPERATIONS, *health.OPERATIONS)


def document(role: Role) -> dict[str, Any]:
    """Return the OpenAPI document of a role's service."""
    return openapi_document(role, operations_of(role))


@cache
def rendered(role: Role) -> bytes:
    """Return the document as it is served and as it lies in a file: indented JSON and a line feed."""
    return msgspec.json.format(msgspec.json.encode(document(role)), indent=1) + b"\n"


def make_application(
    worker: Worker,
    role: Role,
    ready: Callable[[], Readiness],
    registry: CollectorRegistry,
    mailbox: Mailbox | None,
    deployment: Deployment,
) -> Application:
    """Make the application that serves one party. Its request metrics are registered in `registry`."""
    service = Service(role, worker, ready, registry, mailbox, deployment, rendered(role))
    return Application(_resources(service), Metrics(registry))


def _resources(service: Service) -> dict[str, Resource]:
    """Return what is served, by path, in the order in which it is declared."""
    by_path: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in operations_of(service.role):
        by_path[operation.path][operation.method] = operation
    return {path: Resource(service, methods) for path, methods in by_path.items()}


def _router(resources: Mapping[str, Resource]) -> Router:
    routes = [Route(path, resource) for path, resource in resources.items()]
    return Router(routes, redirect_slashes=False, default=_not_found)


async def _not_found(scope: Scope, _: Receive, __: Send) -> None:
    raise HttpProblem(NOT_FOUND, f"there is nothing at {scope['path']}")


class Application:
    """Serves requests, and answers every one: the one place where errors become problem documents."""

    def __init__(self, resources: Mapping[str, Resource], metrics: Metrics) -> None:
        self._fixed = {path: resource for path, resource in resources.items() if "{" not in path}
        """Those without parameters in their path, among them all that datagrams take, need no search."""
        self._router = _router(resources)
        self._metrics = metrics
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or another of the server's events."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        began, sending = time.perf_counter(), Sending(send, scope["method"])
        body = self._bodies.read(receive, known_peer(scope))
        try:
            await self._serve(scope, body, sending)
        except ClientGone:
            return
        finally:
            body.forget()
            self._metrics.note(scope.get(OPERATION, _NONE), sending.status, time.perf_counter() - began)

    async def _route(self, scope: Scope, receive: Receive, sending: Sending) -> None:
        fixed = self._fixed.get(scope["path"])
        if fixed is None:
            await self._router(scope, receive, sending)
        else:
            scope["path_params"] = {}
            await fixed(scope, receive, sending)

    async def _serve(self, scope: Scope, receive: Receive, sending: Sending) -> None:
        try:
            check_size(scope)
            await self._route(scope, receive, sending)
        except ClientGone:
            raise
        except Exception as error:
            if sending.status:  # half an answer cannot be taken back: the server ends the connection
                raise
            await send_answer(sending, answer_to(error, scope["method"], scope["path"]))
