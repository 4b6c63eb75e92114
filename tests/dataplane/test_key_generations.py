"""Two ends or none: the slots of both ends, joined by announcements that are delivered, lost, forged or reflected."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsotn.dataplane.confirmation import SIZE, Announcement, AnnouncementReader, GenerationKeys
from qsotn.dataplane.events import KeyErased, PeerArmed, PeerConfirmed, Switched
from qsotn.dataplane.keyslots import KeySlots, LineEnd, SlotState
from qsotn.domain import Direction, End, KeyId, LineId, Secret
from qsotn.errors import BadProof, KeyReuse, KeyShortage, OutOfOrder, UsageError


def keys(number: int, *, wrong: Direction | None = None) -> GenerationKeys:
    return {
        direction: (KeyId(f"key-{number}-{direction}"), Secret(bytes([number, direction is wrong, index] + [7] * 29)))
        for index, direction in enumerate(Direction)
    }


def here(end: End, epoch: int = 1) -> LineEnd:
    return LineEnd(LineId("line-1"), end, "ODU0", epoch)


def slots(end: End, epoch: int = 1) -> KeySlots:
    return KeySlots(here(end, epoch), window=3)


def announcements(sender: KeySlots, end: End, sequence: int = 1, epoch: int = 1) -> list[Announcement]:
    said = [
        Announcement(end.sends, g.number, epoch, sequence, g.peer_latest is not None, g.prover.digest)
        for g in sender.announced()
    ]
    return [g.prover.prove(words) for g, words in zip(sender.announced(), said, strict=True)]


def tell(sender: KeySlots, end: End, receiver: KeySlots, sequence: int = 1, epoch: int = 1) -> None:
    for announcement in announcements(sender, end, sequence, epoch):
        [read] = AnnouncementReader().feed(announcement.encode())
        receiver.accept(read)


def both(number: int, a: KeySlots, b: KeySlots, sequence: int = 1) -> None:
    a.install(number, number % 2, keys(number))
    b.install(number, number % 2, keys(number))
    tell(a, End.A, b, sequence)
    tell(b, End.B, a, sequence)


def test_a_generation_lives_and_goes() -> None:
    a, b = slots(End.A), slots(End.B)
    both(4, a, b)
    assert a.state(0) is SlotState.ARMED
    assert a.sending().number == 4
    assert a.state(0) is SlotState.ACTIVE
    both(5, a, b, sequence=2)
    assert a.sending().number == 5
    assert (a.state(0), a.state(1)) == (SlotState.RETIRING, SlotState.ACTIVE)
    assert a.receiving(4).number == 4
    for _ in range(3):
        assert a.state(0) is SlotState.RETIRING
        a.opened(a.receiving(5))
    assert a.state(0) is SlotState.EMPTY
    with pytest.raises(BadProof, match="not installed"):
        a.receiving(4)
    assert a.events() == [
        PeerArmed(4),
        PeerConfirmed(4),
        Switched(4, KeyId("key-4-a-to-b")),
        PeerArmed(5),
        PeerConfirmed(5),
        Switched(5, KeyId("key-5-a-to-b")),
        KeyErased(4, (KeyId("key-4-a-to-b"), KeyId("key-4-b-to-a"))),
    ]
    assert a.events() == []


def test_the_old_generation_stays_while_this_end_still_sends_under_it() -> None:
    a, b = slots(End.A), slots(End.B)
    both(0, a, b)
    a.sending()
    a.install(1, 1, keys(1))
    for _ in range(9):
        a.opened(a.receiving(1))
    assert a.sending().number == 0
    assert a.state(0) is SlotState.ACTIVE


def test_one_end_alone_never_sends() -> None:
    a = slots(End.A)
    a.install(0, 0, keys(0))
    with pytest.raises(KeyShortage, match="both ends"):
        a.sending()


def test_a_discarded_generation_is_not_sent_under_and_makes_room() -> None:
    a, b = slots(End.A), slots(End.B)
    both(0, a, b)
    a.sending()
    a.discard(0)
    a.discard(0)
    with pytest.raises(KeyShortage):
        a.sending()
    a.install(2, 0, keys(2))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [(Direction.A_TO_B, "does not hold"), (Direction.B_TO_A, "does not hold")],
)
def test_a_far_end_with_one_wrong_key_proves_nothing(wrong: Direction, text: str) -> None:
    a, b = slots(End.A), slots(End.B)
    a.install(0, 0, keys(0))
    b.install(0, 0, keys(0, wrong=wrong))
    with pytest.raises(BadProof, match=text):
        tell(b, End.B, a)
    with pytest.raises(KeyShortage):
        a.sending()


def test_a_far_end_with_other_key_ids_is_told_apart() -> None:
    a, b = slots(End.A), slots(End.B)
    a.install(0, 0, keys(0))
    b.install(0, 0, {d: (KeyId(f"other-{d}"), secret) for d, (_, secret) in keys(0).items()})
    with pytest.raises(BadProof, match="other keys"):
        tell(b, End.B, a)


def test_the_same_keys_on_another_line_prove_nothing() -> None:
    a = slots(End.A)
    stranger = KeySlots(LineEnd(LineId("line-2"), End.B, "ODU0", 1))
    a.install(0, 0, keys(0))
    stranger.install(0, 0, keys(0))
    with pytest.raises(BadProof):
        tell(stranger, End.B, a)


def test_an_own_announcement_come_back_proves_nothing() -> None:
    a = slots(End.A)
    a.install(0, 0, keys(0))
    [own] = announcements(a, End.A)
    with pytest.raises(BadProof, match="came back"):
        a.accept(own)
    with pytest.raises(BadProof, match="does not hold"):
        a.accept(replace(own, direction=Direction.B_TO_A))


@pytest.mark.parametrize(
    "change",
    [{"epoch": 2}, {"sequence": 2}, {"confirms": True}, {"proof": bytes(20)}, {"generation": 16}],
    ids=str,
)
def test_every_field_of_an_announcement_is_proven(change: dict[str, object]) -> None:
    a, b = slots(End.A), slots(End.B)
    a.install(0, 0, keys(0))
    b.install(0, 0, keys(0))
    [said] = announcements(b, End.B)
    forged = Announcement(**{**vars(said), **change})
    if forged.generation == 0:
        with pytest.raises(BadProof):
            a.accept(forged)
    else:
        a.accept(forged)
    with pytest.raises(KeyShortage):
        a.sending()


def test_epoch_and_sequence_of_the_far_end_only_grow() -> None:
    a, b = slots(End.A), slots(End.B)
    a.install(0, 0, keys(0))
    b.install(0, 0, keys(0))
    tell(b, End.B, a, sequence=5, epoch=3)
    for epoch, sequence in [(3, 5), (3, 4), (2, 99)]:
        tell(b, End.B, a, sequence, epoch)
    assert a.sending().peer_latest == (3, 5)
    tell(b, End.B, a, sequence=1, epoch=4)
    assert a.sending().peer_epoch == 4


@pytest.mark.parametrize(
    ("number", "slot", "material", "error"),
    [
        (2, 1, keys(2), UsageError),
        (2, 0, {Direction.A_TO_B: keys(2)[Direction.A_TO_B]}, UsageError),
        (2, 0, {d: (KeyId("x" + d), Secret(bytes(31))) for d in Direction}, UsageError),
        (2, 0, {d: (KeyId("same"), Secret(bytes(32))) for d in Direction}, KeyReuse),
        (1, 1, keys(3), KeyReuse),
        (0, 0, keys(3), KeyReuse),
        (2, 0, keys(1), KeyReuse),
        (3, 1, keys(3), OutOfOrder),
    ],
    ids=["slot", "one key", "short key", "one ID twice", "number again", "older", "key ID again", "slot in use"],
)
def test_what_may_not_be_installed(number: int, slot: int, material: GenerationKeys, error: type[Exception]) -> None:
    a = slots(End.A)
    a.install(1, 1, keys(1))
    with pytest.raises(error):
        a.install(number, slot, material)
    a.install(2, 0, keys(2))


def test_of_two_generations_ready_at_once_the_newer_is_sent_under_and_the_older_retires() -> None:
    a, b = slots(End.A), slots(End.B)
    for number in (1, 2):
        a.install(number, number % 2, keys(number))
        b.install(number, number % 2, keys(number))
    tell(b, End.B, a)
    assert a.sending().number == 2
    assert a.state(1) is SlotState.RETIRING
    assert a.sending().number == 2


def test_a_newer_generation_that_is_not_proven_yet_waits_beside_an_older_one_that_is() -> None:
    a, b = slots(End.A), slots(End.B)
    a.install(0, 0, keys(0))
    a.install(1, 1, keys(1))
    b.install(0, 0, keys(0))
    tell(b, End.B, a)
    assert a.sending().number == 0
    assert a.state(1) is SlotState.ARMED
    b.install(1, 1, keys(1))
    tell(b, End.B, a, sequence=2)
    assert a.sending().number == 1


@pytest.mark.parametrize("association", [1, 2, 3, 6, 12])
def test_an_association_number_means_one_generation_and_not_its_slot(association: int) -> None:
    a = slots(End.A)
    a.install(4, 0, keys(4))
    with pytest.raises(BadProof, match="not installed"):
        a.receiving(association)
    assert a.receiving(20 % 16).number == 4


def test_an_erased_generation_proves_nothing_more() -> None:
    a = slots(End.A)
    a.install(0, 0, keys(0))
    [generation] = a.announced()
    [said] = announcements(a, End.A)
    a.discard(0)
    with pytest.raises(ValueError, match="erased"):
        generation.prover.prove(said)


@given(st.binary(max_size=100), st.lists(st.integers(1, 64), min_size=1, max_size=40), st.binary(max_size=100))
def test_announcements_are_found_between_other_bytes(before: bytes, cuts: list[int], after: bytes) -> None:
    b = slots(End.B)
    b.install(0, 0, keys(0))
    [said] = announcements(b, End.B)
    stream = before + said.encode() + after + bytes(SIZE)
    reader, found, position = AnnouncementReader(), [], 0
    for cut in [*cuts, len(stream)]:
        found += reader.feed(stream[position : position + cut])
        position += cut
    assert said in found


@given(st.integers(0, 8 * SIZE - 1))
def test_a_damaged_announcement_is_not_read(bit: int) -> None:
    b = slots(End.B)
    b.install(0, 0, keys(0))
    [said] = announcements(b, End.B)
    damaged = bytearray(said.encode())
    damaged[bit // 8] ^= 0x80 >> bit % 8
    assert said not in AnnouncementReader().feed(bytes(damaged) + bytes(SIZE))
