"""What a key manager's `service.toml` says of other operators (ETSI GS QKD 020) and of streams (004)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from qsotn.errors import MalformedMessage
from qsotn.service.config_checks import of_address, of_url
from qsotn.service.delivery.configuration import id_complaints
from qsotn.service.interoperation.etsi020_messages import check_sae_id


class OperatorSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One other operator: how its key manager's certificate names it, its origin, and the SAEs that are there."""

    name: str
    url: str
    saes: tuple[str, ...]


class BorderSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The border to other operators: `host:port` of the listener, and its TLS 1.3 in both directions (PEM files).

    `own_url` is the origin at which operators reach this key manager; `authority` is whose certificates they show, and
    `authority_list` has a revocation list of each of these CAs.
    """

    address: str
    own_url: str
    certificate: Path
    key: Path
    authority: Path
    operators: tuple[OperatorSection, ...] = msgspec.field(name="operator")
    authority_list: Path | None = None

    @property
    def saes(self) -> tuple[str, ...]:
        """The SAEs of all operators: in this network they count as attached to this key manager."""
        return tuple(sae for operator in self.operators for sae in operator.saes)


class StreamsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Streams of key for this key manager's SAEs: `host:port` of the listener, whose TLS is that of `[delivery]`."""

    address: str


def border_complaints(border: BorderSection, own_saes: Collection[str]) -> Iterator[str]:
    """Yield what is wrong, each with its table and what would be right. `own_saes` are those of this network."""
    yield from of_address("[border] address", border.address)
    yield from of_url("[border] own_url", border.own_url)
    yield from operator_complaints(border.operators, own_saes)


def operator_complaints(operators: Sequence[OperatorSection], own_saes: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with the operators at a border. `own_saes` are the SAEs of this network."""
    if not operators:
        yield "[border]: there is no [[border.operator]] behind it; name one, or leave the border out"
    yield from _of_operators(operators)
    yield from _of_saes(operators, own_saes)


def _of_operators(operators: Sequence[OperatorSection]) -> Iterator[str]:
    seen: set[str] = set()
    for number, operator in enumerate(operators, 1):
        where = f"[[border.operator]] number {number}"
        yield from id_complaints(f"{where}, name", operator.name)
        if operator.name in seen:
            yield f"{where}, name: {operator.name!r} stands there twice; an operator has one key manager at this border"
        seen.add(operator.name)
        yield from of_url(f"{where}, url", operator.url)
        if not operator.saes:
            yield f"{where}, saes: the list is empty; name the SAEs that are reached through this operator"


def _of_foreign_id(where: str, sae: str) -> Iterator[str]:
    try:
        check_sae_id(sae)
    except MalformedMessage as error:
        yield f"{where}: {error}"


def _of_saes(operators: Sequence[OperatorSection], own_saes: Collection[str]) -> Iterator[str]:
    seen: set[str] = set()
    for number, operator in enumerate(operators, 1):
        where = f"[[border.operator]] number {number}, saes"
        for sae in operator.saes:
            yield from _of_foreign_id(where, sae)
            if sae in own_saes:
                yield f"{where}: {sae!r} stands under [[sae]], too; leave it out there, for it is attached elsewhere"
            if sae in seen:
                yield f"{where}: {sae!r} stands there twice; an SAE belongs to one operator"
            seen.add(sae)
