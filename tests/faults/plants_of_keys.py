"""Faults in keys, generations, key-file entries and link units, each with the rule that must find it."""

from __future__ import annotations

from msgspec import structs
from tests.faults.good_history import GOOD, file_of
from tests.faults.planting import Planted, added, both, changed, dropped, lost, units
from tests.faults.scribe import CPE_A, CPE_B, KM_A, KM_B, KM_R, QKMP, QSSP_A, QSSP_B
from tests.faults.snapshots import KmSnapshot, QsspSnapshot

from qsotn.domain import KeyId, PartyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.parties import km, qssp
from qsotn.parties.cpe import GenerationState
from qsotn.procedures.key_supply import Supply

FILES, LINES = "key_files", "lines"
G1_A, G2_A, G2_B = "line-2/a/00000001", "line-2/a/00000002", "line-2/b/00000002"
G2 = "line-2/00000002"


def generation(city: PartyId, key: str) -> qssp.Generation:
    return GOOD.at(city, QsspSnapshot).generations[key]


def key(party: PartyId, key_id: str) -> km.KeyRecord:
    return GOOD.at(party, KmSnapshot).keys[key_id]


KEY_PLANTS = [
    Planted(
        "a_key_was_made_once",
        added(KM_B, "keys", "key-17", structs.replace(key(KM_B, "key-17"), role="origin")),
        ("key-17", "2 origins", KM_A, KM_B),
    ),
    Planted("a_key_was_made_once", dropped(KM_A, "keys", "key-17"), ("key-17", "0 origins", KM_R, KM_B)),
    Planted(
        "a_key_in_use_was_made_for_it",
        changed(QSSP_A, "generations", G2_A, key_id_a_to_b=KeyId("key-z")),
        (QSSP_A, "key-z", "generation 2 of line-2 a-to-b", "no key manager made it"),
    ),
    Planted(
        "a_key_in_use_was_made_for_it",
        changed(KM_A, "keys", "key-1", slave=QSSP_B),
        (QSSP_A, "key-1", f"entry 0 of key file {file_of(CPE_A)}", KM_A),
    ),
    Planted(
        "a_key_serves_once",
        changed(QSSP_A, "generations", G2_A, key_id_a_to_b=generation(QSSP_A, G1_A).key_id_a_to_b),
        ("key-17", "generation 1 of line-2 a-to-b", "generation 2 of line-2 a-to-b", QSSP_A),
    ),
    Planted(
        "a_key_serves_once",
        changed(QSSP_A, "generations", G2_A, key_id_b_to_a=generation(QSSP_A, G2_A).key_id_a_to_b),
        ("key-19", "generation 2 of line-2 a-to-b", "generation 2 of line-2 b-to-a"),
    ),
    Planted(
        "a_key_serves_once",
        changed(QSSP_A, FILES, file_of(CPE_A), key_ids=tuple(KeyId(f"key-{n}") for n in (1, 2, 3, 4, 19))),
        ("key-19", f"entry 4 of key file {file_of(CPE_A)}", "generation 2 of line-2 a-to-b"),
    ),
    Planted(
        "a_key_is_accounted_for",
        both(dropped(QSSP_A, "generations", G2_A), dropped(QSSP_B, "generations", G2_B)),
        (KM_A, "key-19", "rekey-2"),
    ),
    Planted(
        "a_key_is_accounted_for",
        changed(QSSP_A, FILES, file_of(CPE_A), key_ids=tuple(KeyId(f"key-{n}") for n in (1, 2, 3, 4))),
        (KM_A, "key-5", "init-a"),
    ),
    Planted(  # it was made at a moment at which nobody asked
        "a_key_is_accounted_for", changed(KM_A, "keys", "key-23", at=7), (KM_A, "key-23", "nobody")
    ),
    Planted(
        "a_failed_supply_gives_no_key",
        added(KM_B, "stored", "key-25", km.StoredKey(KeyId("key-25"), b"", QSSP_A, QSSP_B, ())),
        (KM_B, "key-25", "hop-15"),
    ),
    Planted(
        "a_failed_supply_gives_no_key",
        changed(QSSP_B, "generations", G2_B, key_id_a_to_b=KeyId("key-25")),
        (QSSP_B, "key-25", "hop-15", "generation 2 of line-2"),
    ),
    Planted(
        "a_key_is_handed_over_once",
        added(KM_B, "stored", "key-19", km.StoredKey(KeyId("key-19"), b"", QSSP_A, QSSP_B, ())),
        (KM_B, "key-19", QSSP_B),
    ),
    Planted(
        "a_key_is_handed_over_once",
        added(KM_B, "stored", "key-z", km.StoredKey(KeyId("key-z"), b"", QSSP_A, QSSP_B, ())),
        (KM_B, "key-z", "no record"),
    ),
    Planted(
        "a_key_waits_until_it_is_handed_over", changed(KM_B, "keys", "key-19", delivered_at=0), (KM_B, "key-19", QSSP_B)
    ),
    Planted("a_key_that_was_handed_over_arrived", dropped(QSSP_B, "generations", G2_B), (KM_B, "key-19", QSSP_B)),
    Planted(
        "a_supply_that_ended_keeps_nothing",
        added(KM_A, "supplies", "hop-13", Supply(ProcedureId("rekey-4"), Seat.KM_A, Seat.QSSP_A, ("key-23",))),
        (KM_A, "key-23", "hop-13"),
    ),
]

GENERATION_PLANTS = [
    Planted(
        "both_cities_drew_the_same_keys",
        changed(QSSP_B, "generations", G2_B, key_id_a_to_b=KeyId("key-20"), key_id_b_to_a=KeyId("key-19")),
        (QSSP_B, "generation 2 of line-2", "key-19", "key-20"),
    ),
    Planted(
        "both_cities_drew_the_same_keys",
        dropped(QSSP_A, "generations", G2_A),
        (QSSP_B, "generation 2 of line-2", "none"),
    ),
    Planted(
        "the_qkmp_saw_what_the_cities_share",
        changed(QKMP, "synchronisations", G2, key_ids=(KeyId("key-19"), KeyId("key-z"))),
        (QKMP, "generation 2 of line-2", "key-z", QSSP_A),
    ),
    Planted(
        "the_qkmp_saw_what_the_cities_share",
        changed(QKMP, "synchronisations", G2, responder=QSSP_A),
        (QKMP, "generation 2 of line-2", QSSP_A),
    ),
    Planted(
        "a_completed_key_change_reached_everybody",
        dropped(QKMP, "synchronisations", G2),
        (QSSP_A, "rekey-2", "no QKMP saw generation 2 of line-2"),
    ),
    Planted(
        "a_completed_key_change_reached_everybody",
        dropped(CPE_B, "generations", G2),
        (QSSP_B, "rekey-2", CPE_B, "generation 2 of line-2"),
    ),
    Planted(
        "a_completed_key_change_reached_everybody", dropped(QSSP_A, "generations", G2_A), (QSSP_A, "rekey-2", G2_A)
    ),
    Planted(
        "no_undelivered_session_key_is_left",
        changed(QSSP_A, "generations", G2_A, wrapped=(b"one", b"other")),
        (QSSP_A, "generation 2 of line-2", "key-19"),
    ),
    Planted(
        "a_device_holds_what_its_city_drew",
        changed(CPE_A, "generations", G2, key_id_a_to_b=KeyId("key-z")),
        (CPE_A, "generation 2 of line-2", "key-z", "key-19"),
    ),
    Planted(
        "a_device_holds_what_its_city_drew",
        changed(CPE_A, "generations", G2, entry=4),
        (CPE_A, "generation 2 of line-2", file_of(CPE_A), "4"),
    ),
    Planted(
        "a_device_holds_what_its_city_drew", dropped(CPE_A, LINES, "line-2"), (CPE_A, "generation 2 of line-2", "None")
    ),
    Planted(
        "a_device_keeps_keys_only_until_they_are_installed",
        changed(CPE_A, "generations", G2, wrapped=(b"one", b"other")),
        (CPE_A, "generation 2 of line-2", "INSTALLED", "key-19"),
    ),
    Planted(
        "a_device_keeps_keys_only_until_they_are_installed",
        changed(CPE_A, "generations", G2, state=GenerationState.ARMED),
        (CPE_A, "generation 2 of line-2", "ARMED", "key-19"),
    ),
]

ENTRY_PLANTS = [
    Planted(
        "entries_are_burned_in_order",
        changed(QSSP_A, FILES, file_of(CPE_A), burned={"0": "line-1/1", "1": "line-2/1", "3": "line-2/3"}),
        (QSSP_A, CPE_A, file_of(CPE_A), "[0, 1, 3]"),
    ),
    Planted(
        "entries_are_burned_in_order",
        changed(QSSP_A, FILES, file_of(CPE_A), entries=(b"", b"wrapped", b"", b"", b"wrapped")),
        (QSSP_A, CPE_A, file_of(CPE_A), "still has entry 1"),
    ),
    Planted(
        "entries_are_burned_in_order",
        changed(QSSP_A, FILES, file_of(CPE_A), entries=(b"", b"", b"", b"", b"")),
        (QSSP_A, CPE_A, file_of(CPE_A), "lost entry 4"),
    ),
    Planted(
        "an_entry_serves_one_generation",
        changed(QSSP_A, "generations", G2_A, entry=1),
        (QSSP_A, file_of(CPE_A), "entry 1", G1_A, G2_A),
    ),
    Planted(
        "an_entry_serves_one_generation",
        changed(
            QSSP_A, FILES, file_of(CPE_A), burned={"0": "line-1/1", "1": "line-2/1", "2": "line-2/2", "3": "line-2/2"}
        ),
        (QSSP_A, file_of(CPE_A), "line-2/2"),
    ),
    Planted(
        "an_entry_was_burned_for_its_generation",
        changed(QSSP_A, "generations", G2_A, entry=4),
        (QSSP_A, file_of(CPE_A), "entry 4", "line-2/2"),
    ),
    Planted(
        "an_entry_was_burned_for_its_generation",
        changed(
            QSSP_A, FILES, file_of(CPE_A), burned={"0": "line-1/1", "1": "line-2/1", "2": "line-9/1", "3": "line-2/3"}
        ),
        (QSSP_A, file_of(CPE_A), "entry 2", "line-9/1", "line-2/2"),
    ),
    Planted(
        "a_device_burned_what_its_city_burned",
        changed(CPE_B, FILES, file_of(CPE_B), burned_below=5, entries=(b"",) * 5),
        (CPE_B, file_of(CPE_B), "burned 5 entries, its QSSP 4"),
    ),
    Planted(
        "a_device_burned_what_its_city_burned",
        changed(CPE_B, FILES, file_of(CPE_B), entries=(b"", b"", b"wrapped", b"", b"wrapped")),
        (CPE_B, file_of(CPE_B), "still has entry 2"),
    ),
    Planted(
        "a_device_burned_what_its_city_burned",
        changed(CPE_B, "generations", G2, entry=1),
        (CPE_B, file_of(CPE_B), "entry 1", "line-2/00000001", "line-2/00000002"),
    ),
]

LINK_PLANTS = [
    Planted(
        "a_unit_serves_one_key",
        changed(KM_A, "keys", "key-19", taken=key(KM_A, "key-17").taken),
        ("key-17", "key-19", KM_A, "a-r"),
    ),
    Planted(
        "a_unit_serves_one_key",
        changed(KM_B, "keys", "key-19", taken=key(KM_B, "key-20").taken),
        ("key-19", "key-20", KM_R, KM_B, "b-r"),
    ),
    Planted("a_unit_was_taken_at_both_ends", dropped(KM_B, "keys", "key-19"), ("key-19", KM_R, KM_B, "b-r")),
    Planted(  # only the end that allocates a unit may be alone with it
        "a_unit_was_taken_at_both_ends", dropped(KM_A, "keys", "key-26"), ("key-26", KM_R, KM_A, "a-r")
    ),
    Planted(
        "a_unit_is_stored_until_it_is_given",
        units(KM_A, gone=frozenset({"a-r/00000001/000040"})),
        (KM_A, "unit 40 of block 1 of a-r", "gone"),
    ),
    Planted(
        "a_unit_is_stored_until_it_is_given",
        units(KM_B, back=frozenset({"b-r/00000001/000032"})),
        (KM_B, "unit 32 of block 1 of b-r", "key-15", "still stored"),
    ),
    Planted(
        "a_unit_is_stored_until_it_is_given",
        added(KM_A, "pooled", "a-r/00000001/000040", "batch/00"),
        (KM_A, "unit 40 of block 1 of a-r", "batch/00", "still stored"),
    ),
    Planted(
        "a_unit_is_stored_until_it_is_given",
        added(KM_B, "pooled", "b-r/00000001/000032", "batch/00"),
        (KM_B, "unit 32 of block 1 of b-r", "key-15", "batch/00"),
    ),
    Planted(
        "a_unit_is_stored_until_it_is_given",
        changed(KM_A, "blocks", "a-r/00000001", state=km.BlockState.DISCARDED),
        (KM_A, "unit 63 of block 1 of a-r", "discarded"),
    ),
    Planted(
        "both_ends_have_the_same_blocks",
        changed(KM_R, "blocks", "b-r/00000001", state=km.BlockState.PENDING),
        ("block 1 of b-r", KM_B, KM_R, "PENDING"),
    ),
    Planted("both_ends_have_the_same_blocks", lost(KM_B), ("block 1 of b-r", KM_R, KM_B, "unknown")),
]

ALL = [*KEY_PLANTS, *GENERATION_PLANTS, *ENTRY_PLANTS, *LINK_PLANTS]
