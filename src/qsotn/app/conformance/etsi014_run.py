"""One run against a key manager, or against the two at the ends: who asks, and what has been seen so far."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.app.conformance.asking import OK, Caller, Reply, keys_of
from qsotn.app.conformance.report import Fails, Skips
from qsotn.domain import KeyId

Context = Callable[[], ssl.SSLContext]


@dataclass(frozen=True)
class Party:
    """An SAE that takes part: its ID, its key manager, and its certificate."""

    sae: str
    url: str
    context: Context


@dataclass(frozen=True)
class Target:
    """What is tested. The master's SAE ID may be empty: then it is the one that the status names.

    `anonymous` and `old` are contexts without a certificate, and for TLS below 1.2.
    """

    master: Party
    slave: Party
    additional: Party | None
    anonymous: Context
    old: Context | None
    slave_certificate: str = ""
    """In PEM, for a header that pretends to be a proxy's."""


@dataclass
class Run:
    """What the points share."""

    target: Target
    master: Caller
    slave: Caller
    additional: Caller | None
    status: form.Status | None = None
    drawn: list[tuple[KeyId, bytes]] = field(default_factory=list, repr=False)

    @property
    def slave_sae(self) -> str:
        """The slave SAE's ID."""
        return self.target.slave.sae

    @property
    def master_sae(self) -> str:
        """The master SAE's ID, as it was given or as the status named it."""
        return self.target.master.sae or self.offered.master_sae_id

    @property
    def offered(self) -> form.Status:
        """The status. Raises `Skips` if there is none."""
        if self.status is None:
            raise Skips("there was no status to go by")
        return self.status

    async def draw(self, number: int = 1, **members: object) -> dict[KeyId, bytes]:
        """Ask for new keys as the master, and note them. Raises `Fails`, `Skips`."""
        return self.note((await self.master.enc_keys(self.slave_sae, number=number, **members)).expect(OK), number)

    def note(self, reply: Reply, number: int) -> dict[KeyId, bytes]:
        """Return the new keys of an answer, of which there must be as many as were asked for. Raises `Fails`."""
        keys = keys_of(reply)
        self.drawn += keys.items()
        if len(keys) != number:
            raise Fails(f"{len(keys)} keys came, {number} were asked for")
        return keys


def same(got: dict[KeyId, bytes], wanted: dict[KeyId, bytes]) -> None:
    """Check that two parties hold the same keys. Raises `Fails`."""
    if got.keys() != wanted.keys():
        raise Fails(f"other key IDs came: {_some(got)} instead of {_some(wanted)}")
    different = [key_id for key_id in got if got[key_id] != wanted[key_id]]
    if different:
        raise Fails(f"another key came under the ID {different[0]}")


def _some(keys: dict[KeyId, bytes]) -> str:
    return ", ".join(sorted(keys)[:3]) or "none"


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID in its usual form."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def unknown_id() -> KeyId:
    """Return a key ID that no key manager knows."""
    return KeyId(str(uuid4()))
