from typing import Final

from qsotn.dataplane.kernel_interface import Buffer, Room, Words

INTERFACE: Final[int]
SOURCE: Final[str]

def payload_fcs(data: Buffer, /) -> bytes: ...
def scramble_x43(data: bytes, history: int, /) -> bytes: ...
def descramble_x43(data: bytes, history: int, /) -> bytes: ...
def parity_bip8(frames: Buffer, /) -> bytes: ...
def scramble_otu(source: Buffer, target: Room, /) -> None: ...
def encode_fec(frames: Room, /) -> None: ...
def decode_fec(frames: Room, /) -> tuple[int, int]: ...
def build_frames(
    overhead: Room, payload: Buffer, gap: int, parity: bytearray, places: bytes, frames: Room, fec: bool, /
) -> None: ...
def take_frames(
    frames: Buffer, overhead: Room, payload: Room, gap: int, parities: Room, fec: bool, /
) -> tuple[int, int]: ...
def map_clients(
    data: Buffer,
    starts: Words,
    sizes: Words,
    first: int,
    type_header: int,
    target: Room,
    position: int,
    enough: int,
    history: int,
    /,
) -> tuple[int, int, int]: ...
def follow_clients(
    stream: Buffer,
    position: int,
    end: int,
    history: int,
    areas: Room,
    starts: Words,
    sizes: Words,
    types: Words,
    verdicts: Words,
    /,
) -> tuple[int, int, int, int, int]: ...
def limit_level(level: int, /) -> int: ...
