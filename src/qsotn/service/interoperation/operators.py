"""The other operators: by what name their key managers are known, where they are reached, and which SAEs are theirs.

An operator is configured by people, never learnt from a message. A callback URL is only compared with what is
configured: this key manager connects to no place that a request names (no server-side request forgery).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from qsotn.errors import Refusal, UsageError, WrongParty

_LONGEST_PATH = 512


@dataclass(frozen=True, slots=True)
class Operator:
    """One other operator's key manager at our border. `name` is how its certificate names it; `url` is its origin."""

    name: str
    url: str
    saes: frozenset[str]

    @property
    def origin(self) -> tuple[str, int]:
        """Host and port that it is reached at. Raises `UsageError` for a URL that is no origin."""
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise UsageError(f"operator {self.name}: {self.url!r} is no origin; expected https://host:port")
        return _origin(parts)


class Operators:
    """All other operators that this key manager deals with."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        """Raises `UsageError` if two have one name or one SAE, or if a URL is none."""
        self._by_name = {operator.name: operator for operator in operators}
        self._by_sae = {sae: operator for operator in operators for sae in operator.saes}
        origins = [operator.origin for operator in operators]
        if len(self._by_name) != len(origins) or len(self._by_sae) != sum(len(one.saes) for one in operators):
            raise UsageError("two operators have one name, or one SAE belongs to two of them")

    @property
    def all(self) -> tuple[Operator, ...]:
        """Every operator."""
        return tuple(self._by_name.values())

    def named(self, name: str) -> Operator:
        """Return the operator that a certificate names. Raises `WrongParty`."""
        if name not in self._by_name:
            raise WrongParty(f"{name} is the key manager of no operator that is known here")
        return self._by_name[name]

    def of_sae(self, sae: str) -> Operator | None:
        """Return the operator that an SAE belongs to, None for one of nobody else."""
        return self._by_sae.get(sae)


def callback_path(operator: Operator, url: str | None) -> str | None:
    """Return the path of a callback at its operator's own origin, None without a URL: for the synchronous mode.

    Raises `Refusal` CALLBACK_REFUSED for any other place, and for a URL that two readers could understand differently.
    """
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        own = parts.scheme == "https" and _origin(parts) == operator.origin
    except ValueError:
        raise _refused(operator) from None
    odd = any(not "!" <= sign <= "~" or sign in "\\@#?%" for sign in url)
    dotted = any(step in (".", "..") for step in parts.path.split("/"))
    if not own or odd or dotted or not parts.path.startswith("/") or len(parts.path) > _LONGEST_PATH:
        raise _refused(operator)
    return parts.path


def _origin(parts: SplitResult) -> tuple[str, int]:
    return (parts.hostname or "").lower(), parts.port or 443


def _refused(operator: Operator) -> Refusal:
    return Refusal("CALLBACK_REFUSED", f"ack_callback_url is not at the configured origin of {operator.name}")
