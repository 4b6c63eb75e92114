"""Whether the service lives, is ready, and how it does: for orchestrators and for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from qsotn.service.http.answer import Answer, Receive, Scope, Send, Sending, json_answer, send_answer
from qsotn.service.http.context import Readiness
from qsotn.service.http.operation import OPERATORS, Call, Content, Success, operation
from qsotn.service.http.problems import METHOD_NOT_ALLOWED, NOT_FOUND, NOT_READY, HttpProblem, answer_to

PROMETHEUS_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_TAG: Final = "health"


class Liveness(msgspec.Struct, frozen=True):
    """The event loop answers."""

    alive: bool


def liveness() -> Answer:
    """Answer that the process lives."""
    return json_answer(200, Liveness(True))


def readiness(now: Readiness) -> Answer:
    """Answer that the service is ready. Raises `HttpProblem` 503 if it is not."""
    if not now.ready:
        raise HttpProblem(NOT_READY, "; ".join(now.reasons) or "the service is starting or stopping")
    return json_answer(200, now)


def exposition(registry: CollectorRegistry) -> Answer:
    """Answer with all metrics of a registry in the Prometheus text format."""
    return Answer(200, generate_latest(registry), PROMETHEUS_TEXT)


@operation(
    "GET",
    "/livez",
    tag=_TAG,
    roles=None,
    successes=(Success(200, "It lives.", Content(Liveness, Liveness(True))),),
)
async def read_liveness(_: Call[Any, Any, None]) -> Answer:
    """Whether the process lives. One that does not answer is to be restarted."""
    return liveness()


@operation(
    "GET",
    "/readyz",
    tag=_TAG,
    roles=None,
    successes=(Success(200, "It is ready.", Content(Readiness, Readiness(True))),),
    problems=(NOT_READY,),
)
async def read_readiness(call: Call[Any, Any, None]) -> Answer:
    """Whether the service can do its work now. One that cannot is to be left alone until it can."""
    return readiness(call.service.ready())


@operation(
    "GET",
    "/metrics",
    tag=_TAG,
    roles=OPERATORS,
    successes=(Success(200, "All metrics.", Content(media_type=PROMETHEUS_TEXT, schema={"type": "string"})),),
)
async def read_metrics(call: Call[Any, Any, None]) -> Answer:
    """The metrics of this process, in the Prometheus text format."""
    return exposition(call.service.registry)


@operation(
    "GET",
    "/openapi.json",
    tag=_TAG,
    roles=None,
    successes=(Success(200, "This document.", Content(dict[str, Any], schema={"type": "object"})),),
)
async def read_openapi(call: Call[Any, Any, None]) -> Answer:
    """What this service offers, as an OpenAPI 3.1 document."""
    return Answer(200, call.service.document)


OPERATIONS: Final = (read_liveness, read_readiness, read_metrics, read_openapi)


class Monitoring:
    """The plain monitoring listener, an ASGI application: /livez, /readyz and /metrics, without certificates.

    It is for an orchestrator and a collector on the same host, and tells nothing else.
    """

    def __init__(self, ready: Callable[[], Readiness], registry: CollectorRegistry) -> None:
        self._answers: dict[str, Callable[[], Answer]] = {
            "/livez": liveness,
            "/readyz": lambda: readiness(ready()),
            "/metrics": lambda: exposition(registry),
        }

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            await send_answer(Sending(send, scope["method"]), self._answer(scope["method"], scope["path"]))

    def _answer(self, method: str, path: str) -> Answer:
        try:
            return self._named(method, path)()
        except Exception as error:  # noqa: BLE001  (every request gets an answer, and the log has what failed)
            return answer_to(error, method, path)

    def _named(self, method: str, path: str) -> Callable[[], Answer]:
        if path not in self._answers:
            raise HttpProblem(NOT_FOUND, f"there is {', '.join(self._answers)}")
        if method not in ("GET", "HEAD"):
            raise HttpProblem(METHOD_NOT_ALLOWED, "this resource has GET, HEAD", ("allow", "GET, HEAD"))
        return self._answers[path]
