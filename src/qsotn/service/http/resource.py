"""One path and its methods, as an ASGI application: who may, then what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from qsotn.service.http.answer import Answer, Receive, Scope, Send, send_answer
from qsotn.service.http.context import Service
from qsotn.service.http.operation import Operation, peer_of
from qsotn.service.http.problems import METHOD_NOT_ALLOWED, HttpProblem

OPERATION: Final = "qsotn.operation"
"""Where the scope says which operation was called, for the metrics."""


class Resource:
    """The operations of one path by method. HEAD is a GET whose body the application does not send."""

    def __init__(self, service: Service, operations: Mapping[str, Operation]) -> None:
        self._service = service
        self._operations = dict(operations)
        if "GET" in operations and operations["GET"].safe:
            self._operations["HEAD"] = operations["GET"]
        self._allow = ("allow", ", ".join(sorted({*self._operations, "OPTIONS"})))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises `HttpProblem` and whatever the operation raises."""
        peer, operation = peer_of(scope), self._operations.get(scope["method"])
        if operation is None:
            await self._without_operation(scope, send)
            return
        scope[OPERATION] = operation.name
        operation.check_role(peer)
        await operation.endpoint(self._service, peer, scope, receive, send)

    async def _without_operation(self, scope: Scope, send: Send) -> None:
        if scope["method"] != "OPTIONS":
            raise HttpProblem(METHOD_NOT_ALLOWED, f"this resource has {self._allow[1]}", self._allow)
        await send_answer(send, Answer(204, headers=(self._allow,)))
