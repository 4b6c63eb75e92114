"""Authentication of a block's classical messages: Wegman–Carter with Poly1305 under one-time keys.

Each party adds every message, in the order of the exchange and with its direction and length, to two running Poly1305
computations, one per direction, each under 256 key bits that are used for this block only (128 for the polynomial's
point, of which 106 count, and 128 of one-time pad). Poly1305 is an ε-almost-XOR-universal hash with
ε = 8·⌈L/16⌉/2^106 for L bytes (Bernstein 2005); with its pad used once, a forger without bounds on computation
succeeds with at most that probability.

The transcript opens with link, block number and parameters, so parties that disagree on those fail too. The messages
alternate strictly: both parties see one order.

Limits: tags come at the end, so interference is noticed only after the work is done; it wastes the block and its
512 bits of authentication key, but no key is released. Whoever can keep interfering can use up the keys: that is a
denial of service, which no protocol over this channel prevents. Bob, who hears the last tag, has then released his key
only if it verified; if that tag is cut off, Alice holds a block that Bob does not, and the key managers drop it.
"""

from __future__ import annotations

import hmac

import msgspec
from cryptography.hazmat.primitives.poly1305 import Poly1305

from qsotn.domain import Direction, Secret
from qsotn.errors import KeyReuse
from qsotn.quantum.failures import AuthenticationFailed
from qsotn.quantum.parameters import Parameters

TAG_KEY_BYTES = 32
BLOCK_KEY_BYTES = 2 * TAG_KEY_BYTES
"""One one-time key per direction, Alice to Bob first."""


class Transcript:
    """One party's view of all that was said, under both directions' tags. It spends (erases) the key it is given."""

    def __init__(self, key: Secret, link: str, number: int, parameters: Parameters) -> None:
        """Raise `KeyReuse` if the key is not `BLOCK_KEY_BYTES` long, as a key is that was spent before."""
        if len(key) != BLOCK_KEY_BYTES:
            raise KeyReuse(f"block {number} of {link} needs {BLOCK_KEY_BYTES} fresh key bytes, given were {len(key)}")
        material = key.reveal()
        key.erase()
        self._open = {
            Direction.A_TO_B: Poly1305(material[:TAG_KEY_BYTES]),
            Direction.B_TO_A: Poly1305(material[TAG_KEY_BYTES:]),
        }
        self.length = 0
        """Bytes that the tags cover so far."""
        self.add(Direction.A_TO_B, msgspec.json.encode((link, number, parameters)))

    def add(self, direction: Direction, message: bytes) -> None:
        """Append a message to every tag that is not finished yet."""
        if not self._open:
            return  # only the last tag itself comes later, and no tag can cover that
        framed = direction.encode() + len(message).to_bytes(8, "big") + message
        self.length += len(framed)
        for tag in self._open.values():
            tag.update(framed)

    def tag(self, direction: Direction) -> bytes:
        """Finish and return the 16-byte tag of one direction."""
        return self._open.pop(direction).finalize()

    def verify(self, direction: Direction, tag: bytes) -> None:
        """Finish one direction's tag and compare; raise `AuthenticationFailed` if the far end's is another."""
        if not hmac.compare_digest(self.tag(direction), tag):
            raise AuthenticationFailed(f"the {direction} tag over {self.length} bytes of the exchange does not verify")


def forgery_probability(length: int) -> float:
    """ε of both tags over a transcript of that many bytes: 2·8·⌈length/16⌉/2^106."""
    return 16.0 * float(-(-length // 16)) * 2.0**-106
