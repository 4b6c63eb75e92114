"""Keys in k shares over k node-disjoint ways: no relay, and no k − 1 of them together, knows the key.

k − 1 shares are fresh random bytes and the last is the key XOR all of those (the XOR scheme of n-out-of-n secret
sharing; Karnin, Greene and Hellman 1983). Any k − 1 shares are independent of the key, whatever their holder can
compute: information-theoretic, at k times the cost in link bits. All k are needed, so a relay can still withhold a key.

A relay that changes its share would change the key. So each share has a *check value*, made by the origin, which the
target compares before it joins anything; the one that differs names the way it came. There are two kinds:

* `commitment`: HMAC-SHA384 (RFC 2104, FIPS 198-1) under a key that HKDF (RFC 5869) derives from the share. It needs no
  secret beforehand; the origin publishes it under its signature. Binding as far as SHA-384 is collision-resistant;
  hiding only computationally: k − 1 relays that also see the last share's commitment could find that share, and with it
  the key, by trying 2^256 of them. A share is therefore never shorter than 256 bits.
* `one_time_tags`: Poly1305 (RFC 8439, section 2.5) under 32 fresh bytes for each way that both ends hold already, for
  example ready keys of their pool (Wegman and Carter 1981). Information-theoretic in both respects: a changed share of
  L bytes passes with probability at most 8·⌈L/16⌉/2^106 (Bernstein 2005; L with its framing), and the tag says nothing
  about it, because the second half of its key is a one-time pad. A batch of many keys is split as one and costs one tag
  key for each way.

The context names the key or batch, so that a share of another one is a wrong share. What names the *way* is the
position: which way a position stands for is for the origin to sign.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Final

from cryptography.hazmat.primitives.poly1305 import Poly1305

from qsotn.crypto import cbor
from qsotn.crypto.derivation import length_prefixed
from qsotn.crypto.session import possession_proof
from qsotn.domain import Entropy, Secret
from qsotn.errors import BadProof, KeyReuse, UsageError
from qsotn.keynetwork.relay import one_time_pad

SHORTEST_SHARE_BYTES: Final = 32
TAG_KEY_BYTES: Final = 32

Check = Callable[[int, Secret, bytes], bytes]
"""Makes the check value of the share at a position (from 0) in a context."""


class WrongShares(BadProof):
    """Shares that are not what the origin sent, or did not come. `positions` names their ways, from 0."""

    def __init__(self, positions: Sequence[int], number: int) -> None:
        ways = ", ".join(str(position + 1) for position in positions)
        super().__init__(f"of {number} shares those of way {ways} are missing or not what the origin sent")
        self.positions = tuple(positions)


def split(key: Secret, number: int, entropy: Entropy) -> tuple[Secret, ...]:
    """Return `number` shares of a key, or of several in a row, each as long as it is.

    Raises `UsageError` for fewer than two shares, or a key that is too short for a commitment to hide.
    """
    if number < 2:
        raise UsageError(f"a key was to be split into {number} shares: expected at least 2, for as many ways")
    if len(key) < SHORTEST_SHARE_BYTES:
        raise UsageError(f"a key of {8 * len(key)} bits was to be split: expected at least {8 * SHORTEST_SHARE_BYTES}")
    drawn = [Secret(entropy(len(key))) for _ in range(number - 1)]
    return (*drawn, join([key, *drawn]))


def join(shares: Sequence[Secret]) -> Secret:
    """Return the XOR of shares whose check values were compared; `join_checked` does both."""
    return Secret(reduce(one_time_pad, (share.reveal() for share in shares)))


def commitment(position: int, share: Secret, context: bytes) -> bytes:
    """Commit to a share (module docstring); 48 bytes."""
    return possession_proof(share, cbor.encode(["share", position, context]))


def one_time_tags(keys: Sequence[Secret]) -> Check:
    """Return the check that tags the share at each position under the key there, which is erased as it is used.

    Raises `KeyReuse` when a position is tagged again, as two tags under one key would tell the key.
    """

    def tag(position: int, share: Secret, context: bytes) -> bytes:
        key = keys[position]
        if len(key) != TAG_KEY_BYTES:
            raise KeyReuse(
                f"way {position + 1} needs {TAG_KEY_BYTES} fresh bytes to tag a share, given were {len(key)}"
            )
        value = Poly1305.generate_tag(key.reveal(), length_prefixed([context, share.reveal()]))
        key.erase()
        return value

    return tag


def check_values(shares: Sequence[Secret], context: bytes, check: Check = commitment) -> tuple[bytes, ...]:
    """At the origin: return the check value of every share, by position."""
    return tuple(check(position, share, context) for position, share in enumerate(shares))


def join_checked(
    shares: Sequence[Secret | None], values: Sequence[bytes], context: bytes, check: Check = commitment
) -> Secret:
    """At the target: compare every share with its check value, then join them. None stands for one that did not come.

    Raises `WrongShares`, which names every way that failed, and returns nothing of a key then.
    """
    if len(shares) != len(values) or not values:
        raise BadProof(f"{len(shares)} shares cannot be held against {len(values)} check values")
    wrong, sound = [], []
    for position, (share, value) in enumerate(zip(shares, values, strict=True)):
        if share is not None and hmac.compare_digest(check(position, share, context), value):
            sound.append(share)
        else:
            wrong.append(position)
    if wrong:
        raise WrongShares(wrong, len(shares))
    return join(sound)
