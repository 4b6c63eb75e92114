"""What `qsotn serve source` reads: links whose bits come from key managers of somebody else, or out of files.

Paths are relative to the file's folder. A link that is fed here is not to be fed by the twin, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from qsotn.domain import PartyId, Role
from qsotn.errors import UsageError
from qsotn.service.config import LogSection, MonitoringSection, TlsSection
from qsotn.service.config_checks import of_monitoring, of_party, of_peers, of_url
from qsotn.service.delivery.configuration import id_complaints
from qsotn.service.interoperation.link_feed import LEAST_BYTES, MOST_BYTES
from qsotn.service.toml_file import read_toml

MOST_KEYS: Final = 4096
"""Of one request."""


class ForeignEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end of a link: our key manager `km`, and theirs at `url` (ETSI GS QKD 014), where we are the SAE `sae`.

    `certificate` and `key` are that SAE's, `authority` is whose certificate the foreign key manager shows; PEM files.
    """

    km: PartyId
    url: str
    sae: str
    certificate: Path
    key: Path
    authority: Path


class ForeignSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A link that is fed from two foreign key managers: at the first end we are the master SAE, at the other the slave.

    `tls` is what the link identifies itself with at our own key managers, as `qkd/<link>`. Each end is kept at
    `wanted_bits` that it may allocate; a block is made of `keys` keys of `key_size` bits.
    """

    link: str
    tls: TlsSection
    ends: tuple[ForeignEnd, ForeignEnd] = msgspec.field(name="end")
    wanted_bits: int = 24 * 1024
    keys: int = 128
    key_size: int = 256


class FilesEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end of a link: our key manager, and the folder in which the device there leaves its blocks."""

    km: PartyId
    folder: Path


class FilesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link that is fed from files, in a folder at each end."""

    link: str
    tls: TlsSection
    ends: tuple[FilesEnd, FilesEnd] = msgspec.field(name="end")


class SourceConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `service.toml` of a process of sources. `state` keeps the account of every link."""

    state: Path
    peers: dict[PartyId, tuple[str, ...]]
    foreign: tuple[ForeignSection, ...] = ()
    files: tuple[FilesSection, ...] = ()
    listen: MonitoringSection = MonitoringSection()
    log: LogSection = LogSection()


def load_sources(path: Path) -> SourceConfiguration:
    """Read the configuration of a process of sources. Raises `UsageError`."""
    configuration = read_toml(path, SourceConfiguration)
    for complaint in _complaints(configuration):
        raise UsageError(f"{path}: {complaint}")
    return configuration


def _complaints(configuration: SourceConfiguration) -> Iterator[str]:
    yield from of_monitoring(configuration.listen.monitoring)
    yield from of_peers(configuration.peers)
    sections: dict[str, Sequence[ForeignSection | FilesSection]] = {
        "[[foreign]]": configuration.foreign,
        "[[files]]": configuration.files,
    }
    if not any(sections.values()):
        yield "there is neither [[foreign]] nor [[files]]; name a link in one of them"
    seen: set[str] = set()
    for table, links in sections.items():
        for number, section in enumerate(links, 1):
            where = f"{table} number {number}"
            yield from _of_link(where, section, configuration, seen)
            yield from _of_foreign(where, section) if isinstance(section, ForeignSection) else _of_files(where, section)


def _of_link(
    where: str, section: ForeignSection | FilesSection, configuration: SourceConfiguration, seen: set[str]
) -> Iterator[str]:
    yield from of_party(f"{where}, link", PartyId(f"{Role.QKD}/{section.link}"), (Role.QKD,))
    if section.link in seen:
        yield f"{where}, link: {section.link!r} stands there twice; a link has one source"
    seen.add(section.link)
    kms = [end.km for end in section.ends]
    for km in kms:
        yield from of_party(f"{where}, km", km, (Role.KM,))
        if km not in configuration.peers:
            yield f"{where}, km: [peers] does not say where {km} is; name its URL there"
    if kms[0] == kms[1]:
        yield f"{where}, km: both ends are at {kms[0]}; a link joins two key managers"


def _of_foreign(where: str, section: ForeignSection) -> Iterator[str]:
    for end in section.ends:
        yield from of_url(f"{where}, url", end.url)
        yield from id_complaints(f"{where}, sae", end.sae)
    if section.ends[0].sae == section.ends[1].sae:
        yield f"{where}, sae: both ends are {section.ends[0].sae!r}; master and slave are two SAEs"
    if section.wanted_bits < 1:
        yield f"{where}, wanted_bits: {section.wanted_bits} is too few; at least 1"
    if section.key_size < 8 or section.key_size % 8:
        yield f"{where}, key_size: {section.key_size} is no size of a key; expected a multiple of 8, for example 256"
    size = section.keys * section.key_size // 8
    if not 1 <= section.keys <= MOST_KEYS or not LEAST_BYTES <= size <= MOST_BYTES:
        yield (
            f"{where}, keys, key_size: {section.keys} keys of {section.key_size} bits make no block; expected 1 to "
            f"{MOST_KEYS} keys, of {LEAST_BYTES} to {MOST_BYTES} bytes together"
        )


def _of_files(where: str, section: FilesSection) -> Iterator[str]:
    one, other = (end.folder for end in section.ends)
    if one == other:
        yield f"{where}, folder: both ends are {one}; each end has a folder of its own"
