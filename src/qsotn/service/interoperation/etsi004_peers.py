"""What the key managers of peers may ask of streams that are owned here (ETSI GS QKD 004), each for its own SAEs."""

from __future__ import annotations

from qsotn.domain import PartyId
from qsotn.errors import WrongParty
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation import etsi004_messages as form
from qsotn.service.interoperation.etsi004 import KeyStreams


class StreamsForPeers:
    """Streams of this key manager's applications, for verified key managers.

    Every method raises `WrongParty` for one that is not the application's, `Refusal` UNKNOWN_SAE.
    """

    def __init__(self, streams: KeyStreams, saes: Saes) -> None:
        self._streams, self._saes = streams, saes

    async def connect(self, peer: PartyId, asked: form.Connect) -> form.Connected:
        """Connect an application of the peer, if the stream is there and it is the other end."""
        self._check_speaks_for(peer, asked.application)
        return await self._streams.connect(asked, peer)

    async def locate(self, peer: PartyId, asked: form.Locate) -> form.Located:
        """Say under which ID a chunk waits for an application of the peer. Raises `StoreError`."""
        self._check_speaks_for(peer, asked.application)
        return await self._streams.locate(asked)

    async def leave(self, peer: PartyId, asked: form.Leave) -> None:
        """Note that an application of the peer is gone."""
        self._check_speaks_for(peer, asked.application)
        await self._streams.leave(asked)

    def reports(self) -> list[form.StreamReport]:
        """Return the streams that are owned here, by name, for an operator."""
        return self._streams.reports()

    def _check_speaks_for(self, peer: PartyId, application: str) -> None:
        if self._saes.home(application) != peer:
            raise WrongParty(f"{peer} is not the key manager of {application}")
