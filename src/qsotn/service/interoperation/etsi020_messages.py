"""ETSI GS QKD 020 V1.1.1: what key managers of different operators tell each other of keys, as it is written and read.

Members and their limits are those of the standard's OpenAPI document, version 1.1.1. Keys travel in base64, sizes are
in bits. An acknowledgement names the keys of one target SAE that share one status. What a vendor adds stands in the
extension members; `extension_mandatory` asks for something that this key manager must know, and as it knows none, a
request with one is refused. Requests have no other members but the standard's: a misspelt one would quietly ask for
something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from qsotn.errors import MalformedMessage, Refusal

VERSIONS, EXT_KEYS, ACK, VOID = (
    "/kmapi/versions",
    "/kmapi/v1/ext_keys",
    "/kmapi/v1/ext_keys/ack",
    "/kmapi/v1/ext_keys/void",
)
SPOKEN: Final = ("v1",)
CAPABILITIES: Final = ("synchronous_mode",)
"""What is more than the standard demands: a request without a callback is answered with its acknowledgement."""
MOST_KEYS: Final = 128
"""Of one request. What is larger is refused before anything of it is taken."""
MOST_ACKNOWLEDGED: Final = 1024
MOST_TARGETS: Final = 16
MOST_EXTENSIONS: Final = 1024
SMALLEST_KEY, LARGEST_KEY = 64, 8192
"""Bits of a key that another operator may hand us."""
LONGEST_MESSAGE: Final = 500

Uuid = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$(?!\n)")]
LONGEST_SAE_ID: Final = 64
_SAE_ID: Final = r"^([A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$(?!\n)"
_EXTENSION: Final = re.compile(r"E[1-9][0-9]*_.+", re.DOTALL)
SaeId = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_SAE_ID, pattern=_SAE_ID)]
"""Of characters that a URI may have ("SAE IDs")."""
Targets = Annotated[tuple[SaeId, ...], msgspec.Meta(min_length=1, max_length=MOST_TARGETS)]
Url = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Extension = dict[str, msgspec.Raw]


class AckStatus(StrEnum):
    """What became of keys at the key manager that acknowledges."""

    RELAYED = "relayed"
    FAILED = "failed"
    VOIDED = "voided"
    FAILED_TO_VOID = "failed to void"
    NOT_PRESENT = "key not present"


class Versions(msgspec.Struct, frozen=True):
    """The versions of the interface that a key manager speaks, and what it can beside."""

    versions: tuple[str, ...]
    capabilities: tuple[str, ...] = ()


class ExtKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key and the ID under which its SAEs know it."""

    key_id: Uuid
    value: bytes
    extension: Extension | None = None

    def __repr__(self) -> str:
        return f"ExtKey({self.key_id!r}, {len(self.value)} bytes)"


class ExtKeyContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keys that the initiator SAE has, or will have once they are acknowledged, for the target SAEs."""

    keys: Annotated[tuple[ExtKey, ...], msgspec.Meta(min_length=1, max_length=MOST_KEYS)]
    initiator_sae_id: SaeId
    target_sae_ids: Targets
    ack_callback_url: Url | None = None
    extension_mandatory: Extension | None = None
    extension_optional: Extension | None = None


class VoidContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keys that no SAE may be given any more: those named, or all between these SAEs if that is confirmed."""

    initiator_sae_id: SaeId
    target_sae_ids: Targets
    key_ids: Annotated[tuple[Uuid, ...], msgspec.Meta(max_length=MOST_ACKNOWLEDGED)]
    ack_callback_url: Url | None = None
    all_confirmation: bool = False
    extension: Extension | None = None


class KeyReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One acknowledged key."""

    key_id: Uuid
    extension: Extension | None = None


class AckContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keys between an initiator and a target SAE that share one status."""

    key_id_container: Annotated[tuple[KeyReference, ...], msgspec.Meta(max_length=MOST_ACKNOWLEDGED)]
    ack_status: AckStatus
    initiator_sae_id: SaeId
    target_sae_ids: Targets
    message: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    extension: Extension | None = None


Acks = Annotated[tuple[AckContainer, ...], msgspec.Meta(max_length=MOST_ACKNOWLEDGED)]


def check_transfer(asked: ExtKeyContainer) -> None:
    """Check what the shape does not say. Raises `MalformedMessage`, `Refusal` UNSUPPORTED_EXTENSION."""
    _check_names(asked.extension_mandatory, asked.extension_optional, *(key.extension for key in asked.keys))
    _check_mandatory(asked.extension_mandatory)
    _check_ids(key.key_id for key in asked.keys)
    _check_targets(asked.initiator_sae_id, asked.target_sae_ids)
    for key in asked.keys:
        if not SMALLEST_KEY <= len(key.value) * 8 <= LARGEST_KEY:
            limits = f"{SMALLEST_KEY} to {LARGEST_KEY} bits"
            raise MalformedMessage(f"key {key.key_id} has {len(key.value) * 8} bits; taken are {limits}")


def check_void(asked: VoidContainer) -> None:
    """Check what the shape does not say. Raises `MalformedMessage`, `Refusal` NO_ALL_CONFIRMATION."""
    _check_names(asked.extension)
    _check_ids(asked.key_ids)
    _check_targets(asked.initiator_sae_id, asked.target_sae_ids)
    if not asked.key_ids and not asked.all_confirmation:
        detail = "key_ids is empty: to void all keys between these SAEs, all_confirmation must be true"
        raise Refusal("NO_ALL_CONFIRMATION", detail)


def check_sae_id(name: str) -> None:
    """Check that an SAE can be named to another operator ("SAE IDs"). Raises `MalformedMessage`."""
    try:
        msgspec.convert(name, SaeId)
    except msgspec.ValidationError:
        raise MalformedMessage(
            f"SAE {name[:80]!r} cannot be named to other operators: an ID is 1 to {LONGEST_SAE_ID} characters of a URI"
        ) from None


def key_name(key_id: str) -> str:
    """Return a key ID in the one spelling in which it is kept (RFC 9562, section 4)."""
    return key_id.lower()


def _check_ids(key_ids: Iterable[str]) -> None:
    names = [key_name(key_id) for key_id in key_ids]
    if len(set(names)) != len(names):
        raise MalformedMessage("a key_id stands there twice")


def _check_targets(initiator: str, targets: tuple[str, ...]) -> None:
    if initiator in targets or len(set(targets)) != len(targets):
        raise MalformedMessage("target_sae_ids names an SAE twice, or the initiator itself")


def _check_names(*extensions: Extension | None) -> None:
    """Check that extensions are not empty, and that each is named after whom it belongs to ("Extensions")."""
    for extension in extensions:
        if extension is not None and not 1 <= len(extension) <= MOST_EXTENSIONS:
            raise MalformedMessage(f"an extension has {len(extension)} members; expected 1 to {MOST_EXTENSIONS}")
        for name in extension or ():
            if not _EXTENSION.fullmatch(name):
                raise MalformedMessage(
                    f"extension {name[:80]!r}: expected E, a private enterprise number, _ and a name"
                )


def _check_mandatory(mandatory: Extension | None) -> None:
    if mandatory:
        names = ", ".join(name[:80] for name in list(mandatory)[:8])
        raise Refusal("UNSUPPORTED_EXTENSION", f"extension_mandatory has what is not supported here: {names}")
