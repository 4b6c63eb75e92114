"""Which SAEs there are (secure application entities, ETSI GS QKD 014 clause 3.1), and at which key manager each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from qsotn.domain import PartyId, Role
from qsotn.errors import Refusal, WrongParty

_PREFIX: Final = f"{Role.SAE}/"


class Saes:
    """The SAEs that one key manager knows: its own, and those of others."""

    def __init__(
        self, own: PartyId, homes: Mapping[str, PartyId], classes: Mapping[str, str] | None = None, rest: str = ""
    ) -> None:
        """`homes` says at which key manager each SAE is, `classes` of which class; those without one are of `rest`."""
        self.own = own
        self._homes = dict(homes)
        self._classes = dict(classes or {})
        self._rest = rest

    @property
    def key_managers(self) -> frozenset[PartyId]:
        """Every key manager at which there is an SAE."""
        return frozenset(self._homes.values())

    @property
    def known(self) -> frozenset[str]:
        """Every SAE."""
        return frozenset(self._homes)

    def check_own(self, sae: str) -> None:
        """Check that an SAE is attached here. Raises `WrongParty`."""
        if self._homes.get(sae) != self.own:
            raise WrongParty(f"{sae} is not attached to {self.own}")

    def home(self, sae: str) -> PartyId:
        """Return the key manager at which an SAE is. Raises `Refusal` UNKNOWN_SAE."""
        try:
            return self._homes[sae]
        except KeyError:
            raise Refusal("UNKNOWN_SAE", f"no SAE {sae} is known to {self.own}") from None

    def service_class(self, sae: str) -> str:
        """Return the class by whose priority an SAE is served."""
        return self._classes.get(sae, self._rest)

    def by_home(self, saes: Iterable[str]) -> dict[PartyId, tuple[str, ...]]:
        """Return SAEs by their key manager, this one first, each once. Raises `Refusal` UNKNOWN_SAE."""
        found: dict[PartyId, tuple[str, ...]] = {}
        for sae in dict.fromkeys(saes):
            home = self.home(sae)
            found[home] = (*found.get(home, ()), sae)
        return {home: found[home] for home in sorted(found, key=lambda home: home != self.own)}


def party_sae(party: PartyId) -> str:
    """Return the SAE ID of whoever shows a certificate of this province: the name of an SAE, else the whole ID."""
    return party.removeprefix(_PREFIX)
