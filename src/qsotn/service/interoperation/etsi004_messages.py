"""ETSI GS QKD 004 V2.1.1: the parameters of its three functions, and an encoding of ours for them.

The standard defines functions, parameters and status codes, and no encoding. Here each function is a POST of a JSON
object under the parameters' own names, over the same mutual TLS as ETSI GS QKD 014; octets travel in base64. What the
functions themselves decide is a status of 200 with the standard's own code in it; other statuses of HTTP tell that a
request was none. An application that speaks another encoding of 004 needs an adapter.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from qsotn.domain import PartyId

OPEN_CONNECT, GET_KEY, CLOSE = "/etsi004/v2/open_connect", "/etsi004/v2/get_key", "/etsi004/v2/close"
CONNECT, LOCATE, LEAVE = "/kx/v1/streams/connect", "/kx/v1/streams/locate", "/kx/v1/streams/leave"
"""Between two key managers: the one at which the peer is asks the one that owns the stream."""
METADATA_MIMETYPE: Final = "application/json"
LARGEST_INDEX: Final = 2**31 - 1
_UUID: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$(?!\n)"

StreamId = Annotated[str, msgspec.Meta(pattern=_UUID)]
Application = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Index = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INDEX)]


class Status(IntEnum):
    """The standard's status codes."""

    SUCCESSFUL = 0
    PEER_NOT_CONNECTED = 1
    """Successful, but the peer application is not connected yet."""
    INSUFFICIENT_KEY = 2
    NO_PEER = 3
    """GET_KEY failed: the peer application is not connected yet."""
    NO_QKD_CONNECTION = 4
    """There is no way to the peer's key manager, or no such stream any more."""
    STREAM_IN_USE = 5
    TIMEOUT = 6
    QOS_NOT_MET = 7
    """OPEN_CONNECT failed; the QoS of the answer is a counter-offer."""
    METADATA_TOO_SMALL = 8


class QoS(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The quality of service of a stream; 0, or an empty text, leaves a parameter to the key manager.

    `chunk_size` in bytes, rates in bits per second, `jitter` and `timeout` in milliseconds, `ttl` in seconds.
    """

    chunk_size: Natural = msgspec.field(name="Key_chunk_size")
    max_bps: Natural = msgspec.field(name="Max_bps", default=0)
    min_bps: Natural = msgspec.field(name="Min_bps", default=0)
    jitter: Natural = msgspec.field(name="Jitter", default=0)
    priority: Natural = msgspec.field(name="Priority", default=0)
    timeout: Natural = msgspec.field(name="Timeout", default=0)
    ttl: Natural = msgspec.field(name="TTL", default=0)
    mimetype: Annotated[str, msgspec.Meta(max_length=256)] = msgspec.field(name="Metadata_mimetype", default="")


class StreamReport(msgspec.Struct, frozen=True):
    """A stream as the key manager that owns it tells an operator of it; `km` is the destination's."""

    stream: str
    source: str
    destination: str
    km: PartyId
    qos: QoS
    connected: bool


class OpenConnect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OPEN_CONNECT: begin a stream, or connect to one that the peer began."""

    source: Application = msgspec.field(name="Source")
    destination: Application = msgspec.field(name="Destination")
    qos: QoS = msgspec.field(name="QoS")
    stream: StreamId | None = msgspec.field(name="Key_stream_ID", default=None)


class Opened(msgspec.Struct, frozen=True, omit_defaults=True):
    """What OPEN_CONNECT returns: the QoS in force, or a counter-offer."""

    status: Status = msgspec.field(name="Status")
    qos: QoS = msgspec.field(name="QoS")
    stream: StreamId | None = msgspec.field(name="Key_stream_ID", default=None)


class GetKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """GET_KEY: the chunk at an index, or the next one; `metadata_size` is how many bytes of metadata are taken."""

    stream: StreamId = msgspec.field(name="Key_stream_ID")
    index: Index | None = None
    metadata_size: Natural = msgspec.field(name="Metadata_size", default=0)


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """What GET_KEY returns. `metadata_size` says how much metadata there is, also where it did not fit."""

    status: Status = msgspec.field(name="Status")
    index: Index | None = None
    key: bytes | None = msgspec.field(name="Key_buffer", default=None)
    metadata: str | None = msgspec.field(name="Metadata", default=None)
    metadata_size: Natural = msgspec.field(name="Metadata_size", default=0)

    def __repr__(self) -> str:
        return f"Chunk({self.status!r}, {self.index}, {len(self.key or b'')} bytes)"


class Close(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CLOSE: leave a stream."""

    stream: StreamId = msgspec.field(name="Key_stream_ID")


class Closed(msgspec.Struct, frozen=True):
    """What CLOSE returns."""

    status: Status = msgspec.field(name="Status")


# --- between key managers -------------------------------------------------------------------------------------------


class Connect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An application at the asking key manager wants to be the peer of a stream."""

    stream: StreamId
    application: Application


class Connected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stream, if the asked key manager owns it: which life of it, who began it, with what QoS, how long ago."""

    found: bool
    life: str = ""
    source: str = ""
    qos: QoS | None = None
    age_s: float = 0.0


class Locate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask under which ID the peer finds the chunk at an index."""

    stream: StreamId
    life: str
    application: Application
    index: Index


class Located(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ID under which a chunk waits for the peer, and for how many seconds more; or why there is none.

    What lies before the index `first` is no longer kept.
    """

    status: Status
    key_id: str = ""
    left_s: float = 0.0
    first: Index = 0


class Leave(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The peer of a stream is gone."""

    stream: StreamId
    life: str
    application: Application
