"""What every run must satisfy, however it went: a checker over plain recorded facts.

    history = History(tuple(gather(store, party) for party, store in stores.items()), tuple(operations))
    assert check(history) == []

Gather when the run has come to rest: no client asks any more, nothing is due in any outbox, no device begins a rekey by
itself. A rule is a function of the history; a violation names the rule, and the party, record and key or procedure that
break it. Two things are no violation, because they are how the system fails closed:

- A rekey whose device was killed with the keys in its line terminal waits for the line's own word for ever, if a later
  generation took its place (`facts.overtaken`).
- Keys of a request that failed are lost, never returned. If they had reached the other city's key manager they lie
  there, stored for a QSSP that will not ask.
"""

from __future__ import annotations

from tests.faults import (
    rules_of_clients,
    rules_of_devices,
    rules_of_entries,
    rules_of_generations,
    rules_of_keys,
    rules_of_lines,
    rules_of_links,
    rules_of_procedures,
)
from tests.faults.facts import History, Operation, Outcome, Rule, Violation
from tests.faults.snapshots import Snapshot, gather

__all__ = ["RULES", "History", "Operation", "Outcome", "Snapshot", "Violation", "check", "gather"]
_SUBJECTS = (
    rules_of_procedures,
    rules_of_clients,
    rules_of_devices,
    rules_of_lines,
    rules_of_keys,
    rules_of_generations,
    rules_of_entries,
    rules_of_links,
)
RULES = tuple(found for subject in _SUBJECTS for found in vars(subject).values() if isinstance(found, Rule))
"""Every rule there is."""


def check(history: History) -> list[Violation]:
    """Hold a history against every rule; return what does not hold."""
    return [violation for judge in RULES for violation in judge(history)]
