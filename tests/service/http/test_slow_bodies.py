"""A body that does not come to its end is not waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.service.http.driver import Client, ask, scope_of

from qsotn.service.http import request


def test_a_body_that_takes_too_long_is_given_up_and_so_is_its_connection(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "SLOWEST_BODY_S", 0.02)
    pieces = iter([b'{"name": '])

    async def incoming() -> dict[str, Any]:
        for piece in pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    headers = {"content-type": "application/json", "idempotency-key": "slow"}
    scope = scope_of("POST", "/operations/v1/accounts", headers)
    reply = asyncio.run(ask(operator.application, scope, incoming))
    assert (reply.status, reply.problem, reply.headers["connection"]) == (408, "request-timeout", "close")
