"""An entry of a key file is burned once, for one generation, and the same one at both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.faults.facts import History, rule
from tests.faults.snapshots import CpeSnapshot, QsspSnapshot


@rule
def entries_are_burned_in_order(history: History) -> Iterator[str]:
    """At the QSSP exactly the entries below the next one are burned, and what is burned is gone."""
    for city in history.all(QsspSnapshot):
        for file in city.key_files.values():
            named = f"key file {file.key_file_id} of {file.cpe} at {city.party}"
            if sorted(map(int, file.burned)) != list(range(file.next_entry)):
                yield f"{named} burned entries {sorted(map(int, file.burned))}, the next is {file.next_entry}"
            yield from (f"{named} {wrong}" for wrong in _not_gone(file.entries, file.next_entry))


def _not_gone(entries: tuple[bytes, ...], burned_below: int) -> Iterator[str]:
    for number, entry in enumerate(entries):
        if bool(entry) is (number < burned_below):
            yield f"{'still has' if entry else 'lost'} entry {number}; {burned_below} are burned"


@rule
def an_entry_serves_one_generation(history: History) -> Iterator[str]:
    """No two generations of a city name one entry of one file, and no generation burned two."""
    for city in history.all(QsspSnapshot):
        named: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name, kept in city.generations.items():
            if kept.key_file_id:
                named[kept.key_file_id, kept.entry].append(name)
        for (file_id, entry), names in named.items():
            if len(names) > 1:
                yield f"entry {entry} of key file {file_id} at {city.party} wraps {' and '.join(names)}"
        for file in city.key_files.values():
            twice = [purpose for purpose in set(file.burned.values()) if list(file.burned.values()).count(purpose) > 1]
            yield from (f"key file {file.key_file_id} at {city.party} burned two entries for {one}" for one in twice)


@rule
def an_entry_was_burned_for_its_generation(history: History) -> Iterator[str]:
    """What a generation names, its file says too, and the reverse."""
    for city in history.all(QsspSnapshot):
        named = {
            (kept.key_file_id, str(kept.entry)): f"{kept.line}/{kept.generation}"
            for kept in city.generations.values()
            if kept.key_file_id in city.key_files
        }
        burned = {
            (file.key_file_id, entry): purpose
            for file in city.key_files.values()
            for entry, purpose in file.burned.items()
        }
        for file_id, entry in sorted(named.keys() | burned.keys()):
            generation, purpose = named.get((file_id, entry)), burned.get((file_id, entry))
            if generation != purpose:
                yield f"entry {entry} of key file {file_id} at {city.party}: burned for {purpose}, wraps {generation}"


@rule
def a_device_burned_what_its_city_burned(history: History) -> Iterator[str]:
    """A device is never ahead of its QSSP, what it burned is gone, and no entry opened two generations."""
    burned = _burned_below(history)
    for device in history.all(CpeSnapshot):
        for file in device.key_files.values():
            named, limit = f"key file {file.key_file_id} at {device.party}", burned.get(file.key_file_id)
            if limit is not None and file.burned_below > limit:
                yield f"{named} burned {file.burned_below} entries, its QSSP {limit}"
            yield from (f"{named} {wrong}" for wrong in _not_gone(file.entries, file.burned_below))
        yield from _opened_twice(device)


def _burned_below(history: History) -> dict[str, int]:
    return {file.key_file_id: file.next_entry for city in history.all(QsspSnapshot) for file in city.key_files.values()}


def _opened_twice(device: CpeSnapshot) -> Iterator[str]:
    opened: dict[tuple[str, int], str] = {}
    for name, kept in device.generations.items():
        before = opened.setdefault((kept.key_file_id, kept.entry), name)
        if before != name:
            yield f"entry {kept.entry} of key file {kept.key_file_id} at {device.party} opened {before} and {name}"
