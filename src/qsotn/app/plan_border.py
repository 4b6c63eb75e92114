"""What a province file says of other operators (ETSI GS QKD 020) and streams (004), and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import msgspec

from qsotn.service.config_checks import of_url
from qsotn.service.interoperation.configuration import OperatorSection, operator_complaints

if TYPE_CHECKING:
    from qsotn.app.plan import Plan

_FILES: Final = ("certificate", "key", "authority", "authority_list")


class Streams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Streams of key for SAEs, at every key manager with SAEs: ports from the first upwards, or behind all others."""

    first_port: int | None = None


class Border(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The border to other operators, at the key manager of a city: its port, or one behind all others.

    `own_url` is the origin at which operators reach it. TLS there is ordinary, 1.3 at least: `certificate` and `key`
    are the border's, `authority` is whose certificates operators show, `authority_list` has a revocation list of each
    of these CAs; PEM files by absolute path.
    """

    city: str
    own_url: str
    certificate: str
    key: str
    authority: str
    operators: tuple[OperatorSection, ...] = msgspec.field(name="operator")
    authority_list: str = ""
    port: int | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files that are named, by their key."""
        return {key: path for key in _FILES if (path := getattr(self, key))}

    @property
    def saes(self) -> tuple[str, ...]:
        """The SAEs of all operators, which count as attached to the key manager at the border."""
        return tuple(sae for operator in self.operators for sae in operator.saes)


def border_complaints(plan: Plan) -> Iterator[str]:
    """Yield what is wrong, each with its table and what would be right."""
    if plan.streams is not None:
        if not plan.saes:
            yield "[streams]: there is no [[sae]] to give streams to; name one, or leave it out"
        yield from _of_replicas("[streams]", plan)
    if plan.border is not None:
        yield from _of_border(plan.border, plan)
        yield from _of_replicas("[border]", plan)


def _of_border(border: Border, plan: Plan) -> Iterator[str]:
    cities = [city.name for city in plan.cities]
    if border.city not in cities:
        yield f"[border] city: there is no city {border.city!r}; there are {', '.join(cities)}"
    yield from of_url("[border] own_url", border.own_url)
    yield from _of_files(border)
    yield from operator_complaints(border.operators, {sae.name for sae in plan.saes})


def _of_files(border: Border) -> Iterator[str]:
    for key in _FILES:
        path = getattr(border, key)
        if not PurePath(path).is_absolute() and (path or key != "authority_list"):
            yield f"[border] {key}: {path!r} is no absolute path; name a PEM file by one"


def _of_replicas(table: str, plan: Plan) -> Iterator[str]:
    if plan.replicas.km > 1:
        yield f"{table}: {plan.replicas.km} processes for each key manager cannot share it; set [replicas] km to 1"
