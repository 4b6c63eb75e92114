"""The functions of ETSI GS QKD 004 over HTTP, for applications (`etsi004_peers` is for other key managers)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from qsotn.errors import QsotnError
from qsotn.service.interoperation import etsi004_messages as form
from qsotn.service.interoperation.etsi004 import KeyStreams
from qsotn.service.interoperation.reading import read_json
from qsotn.service.interoperation.reply import NOT_ALLOWED, NOT_FOUND, OK, Reply, json_reply, problem, problem_of

_Act = Callable[[str, bytes], Awaitable[msgspec.Struct]]


class Etsi004:
    """The three functions, for verified applications."""

    def __init__(self, streams: KeyStreams) -> None:
        self._streams = streams
        self._acts: Final[dict[str, _Act]] = {
            form.OPEN_CONNECT: self._open,
            form.GET_KEY: self._get_key,
            form.CLOSE: self._close,
        }

    async def answer(self, peer: str, method: str, path: str, body: bytes) -> Reply:
        """Answer a request of a peer that its certificate names so. Errors are answers, too."""
        act = self._acts.get(path)
        if act is None:
            return problem(NOT_FOUND, f"{path[:200]} is no function of ETSI GS QKD 004")
        if method != "POST":
            return problem(NOT_ALLOWED, f"{path} takes POST")
        try:
            return json_reply(OK, await act(peer, body))
        except QsotnError as error:
            return problem_of(error)

    async def _open(self, peer: str, body: bytes) -> msgspec.Struct:
        return await self._streams.open(peer, read_json(body, form.OpenConnect))

    async def _get_key(self, peer: str, body: bytes) -> msgspec.Struct:
        return await self._streams.get_key(peer, read_json(body, form.GetKey))

    async def _close(self, peer: str, body: bytes) -> msgspec.Struct:
        return await self._streams.close(peer, read_json(body, form.Close))
