"""ETSI GS QKD 014 V1.1.1, clause 6: the data formats, in its order, as both ends write and read them.

Sizes are in bits. What the standard reserves for future use, and the values of extension parameters, stay as they
came (`msgspec.Raw`). An optional member that is `null` counts as absent: several clients in use write it so. Requests
have no members but those of the standard, because a misspelt one would quietly ask for something else; vendors have
the extension parameters for theirs. Answers may have more, which is not read.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

import msgspec

JSON: Final = "application/json"
PREFIX: Final = "/api/v1/keys/"

SIZE_NOT_A_MULTIPLE: Final = "size shall be a multiple of 8"
MANDATORY_NOT_SUPPORTED: Final = "not all extension_mandatory parameters are supported"
KEYS_NOT_FOUND: Final = "one or more keys specified are not found on KME"
"""Messages in the standard's own words (clauses 6.2 and 6.4)."""

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
"""An integer that every JSON reader takes for what it is (RFC 8259, clause 6)."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Parameters = tuple[dict[str, msgspec.Raw], ...]


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """6.1: what a master SAE may ask for on behalf of a slave SAE. `max_sae_id_count` 0 means no multicast."""

    source_kme_id: Name = msgspec.field(name="source_KME_ID")
    target_kme_id: Name = msgspec.field(name="target_KME_ID")
    master_sae_id: Name = msgspec.field(name="master_SAE_ID")
    slave_sae_id: Name = msgspec.field(name="slave_SAE_ID")
    key_size: Positive
    stored_key_count: Count
    max_key_count: Count
    max_key_per_request: Positive
    max_key_size: Positive
    min_key_size: Positive
    max_sae_id_count: Count = msgspec.field(name="max_SAE_ID_count")
    status_extension: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class KeyRequest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """6.2: how many keys, how large, for whom besides the slave SAE of the path; None is the standard's default."""

    number: Positive | None = None
    size: Positive | None = None
    additional_slaves: tuple[Name, ...] | None = msgspec.field(default=None, name="additional_slave_SAE_IDs")
    extension_mandatory: Parameters | None = None
    extension_optional: Parameters | None = None


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """6.3: one key; its octets travel in base64."""

    key_id: str = msgspec.field(name="key_ID")
    key: bytes
    key_id_extension: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="key_ID_extension")
    key_extension: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    def __repr__(self) -> str:
        return f"Key({self.key_id!r}, {len(self.key)} bytes)"


class KeyContainer(msgspec.Struct, frozen=True, omit_defaults=True):
    """6.3: the answer with keys."""

    keys: tuple[Key, ...]
    key_container_extension: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class KeyIdentifier(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """6.4: one key that is asked for."""

    key_id: str = msgspec.field(name="key_ID")
    key_id_extension: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="key_ID_extension")


class KeyIdentifiers(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """6.4: the keys that are asked for."""

    key_ids: Annotated[tuple[KeyIdentifier, ...], msgspec.Meta(min_length=1)] = msgspec.field(name="key_IDs")
    key_ids_extension: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="key_IDs_extension")


class Error(msgspec.Struct, frozen=True, omit_defaults=True):
    """6.5: what went wrong. `details` are name/value pairs."""

    message: str
    details: Parameters | None = None


def path(sae: str, method: str) -> str:
    """Return the path of a method about one SAE, whose ID is URL-encoded as a whole (clause 5.1)."""
    return f"{PREFIX}{quote(sae, safe='')}/{method}"
