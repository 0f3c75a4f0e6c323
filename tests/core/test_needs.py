"""What attempts of a kind are expected to take, from what earlier ones took."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batt_supervisor.core.model import CHARGED, RESOURCE, Limits, Outcome, Room, Space, Work
from batt_supervisor.core.needs import CUT_SHORT, KINDS_MAX, LEARNED_AFTER, PEAKS, Learned, Needs

MIB = 2**20
DEFAULT = Space(128 * MIB, 4)
WORK = Work(Room("/"), Limits(10.0), function="zoo:work")

Peaks = list[tuple[int | None, int | None, bool]]


def taught(memory_mib: list[int], threads: list[int | None] | None = None, kind: str = WORK.kind) -> Needs:
    """Attempts of a kind that went as far as they would, with these peaks."""
    needs = Needs()
    for place, mib in enumerate(memory_mib):
        needs.learn(kind, mib * MIB, threads[place] if threads else None, ok=True)
    return needs


def expected(needs: Needs, memory_mib: int | None = None, threads: int | None = None) -> Space:
    declared = replace(WORK, need_memory_bytes=memory_mib and memory_mib * MIB, need_threads=threads)
    return needs.expected(declared, DEFAULT).space


@pytest.mark.parametrize(
    ("peaks_mib", "mib"),
    [
        ([], 128),
        # Up to four attempts: the default, or what one of them was seen to take.
        ([10], 128),
        ([10, 20, 30, 40], 128),
        ([10, 300, 10], 330),
        # From five on they speak for themselves, with a margin.
        ([10] * 5, 11),
        ([10, 20, 30, 40, 500], 550),
        # A high quantile: among twenty, one that took more than all others is left out, and two are not.
        ([10] * 18 + [500], 550),
        ([10] * 19 + [500], 11),
        ([10] * 18 + [500] * 2, 550),
        # Only the last ones count.
        ([500] * 64 + [10] * 60, 550),
        ([500] * 64 + [10] * 61, 11),
    ],
)
def test_memory_starts_from_the_default_and_follows_the_peaks(peaks_mib: list[int], mib: int) -> None:
    assert expected(taught(peaks_mib)).memory_bytes == mib * MIB


@pytest.mark.parametrize(
    ("peaks", "threads"),
    [
        ([], 4),
        ([1] * 4, 4),
        # One more than was seen, for what comes and goes between two looks.
        ([1] * 5, 2),
        ([9] * 5, 10),
        ([20] * 5, 22),
        # Attempts that were too short to be looked at: they may have opened a pool.
        ([None] * 64, 4),
        ([1, 1, 1, 1, None], 4),
        ([1] * 19 + [None], 2),
        ([1] * 18 + [None] * 2, 4),
        ([None] * 30 + [9] * 2, 10),
        ([None] * 62 + [9] * 2, 4),
        ([None] * 58 + [9] * 6, 10),
    ],
)
def test_threads_follow_the_peaks_where_attempts_were_looked_at(peaks: list[int | None], threads: int) -> None:
    needs = taught([10] * len(peaks), peaks)
    assert expected(needs).threads == threads


@pytest.mark.parametrize(
    ("peaks", "declared", "threads"),
    [([], 1, 1), ([None] * 9, 1, 1), ([None] * 9, 40, 40), ([9] * 9, 1, 10), ([1] * 9, 8, 8)],
)
def test_what_is_declared_stands_in_the_place_of_the_default_and_is_never_undercut(
    peaks: list[int | None], declared: int, threads: int
) -> None:
    needs = taught([10] * len(peaks), peaks)
    assert expected(needs, threads=declared).threads == threads


@pytest.mark.parametrize(
    ("peaks_mib", "declared_mib", "mib"),
    [([], 64, 64), ([], 1000, 1000), ([50] * 9, 64, 64), ([500] * 9, 64, 550), ([80], 64, 88)],
)
def test_declared_memory_is_never_undercut(peaks_mib: list[int], declared_mib: int, mib: int) -> None:
    assert expected(taught(peaks_mib), declared_mib).memory_bytes == mib * MIB


def test_a_kind_learns_from_its_own_attempts_alone_and_by_its_name_in_every_run() -> None:
    needs = taught([500] * 5, kind="score")
    assert expected(needs) == DEFAULT
    named = replace(WORK, name="score", room=Room("/elsewhere"))
    assert needs.expected(named, DEFAULT).space.memory_bytes == 550 * MIB
    assert needs.of_kind("score", DEFAULT).memory_bytes == 550 * MIB
    assert needs.of_kind("other", DEFAULT) == DEFAULT


def test_an_attempt_that_was_cut_short_may_raise_what_is_expected() -> None:
    needs = taught([100] * 5, [3] * 5)
    for _ in range(5):
        needs.learn(WORK.kind, 1000 * MIB, 50, ok=False)
    assert expected(needs) == Space(1100 * MIB, 55)


def test_the_first_attempt_being_cut_short_tells_what_is_needed_at_least() -> None:
    needs = Needs()
    needs.learn(WORK.kind, 1000 * MIB, None, ok=False)
    assert expected(needs) == Space(1100 * MIB, 4)


def test_what_was_cut_short_early_teaches_nothing() -> None:
    needs = taught([100] * 5)
    needs.dirty()
    for memory_bytes in (None, 1, 100 * MIB):
        needs.learn(WORK.kind, memory_bytes, None, ok=False)
    assert needs.dirty() == []
    assert expected(needs).memory_bytes == 110 * MIB


def test_a_guess_of_threads_is_told_from_what_is_known() -> None:
    def known(needs: Needs, **declared: int) -> bool:
        return needs.expected(replace(WORK, **declared), DEFAULT).known

    assert not known(Needs())
    assert not known(Needs(), need_memory_bytes=MIB)
    assert known(Needs(), need_threads=4)
    assert not known(taught([10] * 9, [None] * 9))
    assert not known(taught([10] * 2, [1] * 2))
    assert known(taught([10] * 2, [9] * 2))
    assert known(taught([10] * 9, [1] * 9))


def test_what_was_learned_is_told_once_and_can_be_taken_over() -> None:
    needs = taught([10, 20], [None, 7], kind="a")
    needs.learn("b", None, 3, ok=True)
    found = needs.dirty()
    assert found == [Learned("a", 2, (10 * MIB, 20 * MIB), (None, 7)), Learned("b", 1, (), (3,))]
    assert needs.dirty() == []
    needs.learn("b", 5, None, ok=True)
    assert needs.dirty() == [Learned("b", 2, (5,), (3, None))]
    later = Needs(found)
    assert later.dirty() == []
    assert later.of_kind("a", DEFAULT) == needs.of_kind("a", DEFAULT)
    later.learn("a", 30 * MIB, 1, ok=True)
    assert later.dirty() == [Learned("a", 3, (10 * MIB, 20 * MIB, 30 * MIB), (None, 7, 1))]


def test_a_kind_is_learned_after_so_many_attempts() -> None:
    assert not Learned("a", 9, (1,) * (LEARNED_AFTER - 1)).is_learned
    assert Learned("a", 9, (1,) * LEARNED_AFTER).is_learned


def test_the_kind_that_was_not_used_for_longest_is_forgotten() -> None:
    needs = Needs()
    for number in range(KINDS_MAX):
        needs.learn(f"k{number}", 999 * MIB, None, ok=True)
    needs.expected(replace(WORK, name="k0"), DEFAULT)
    needs.learn("k1", 999 * MIB, None, ok=True)
    needs.learn("one more", 1, None, ok=True)
    assert [needs.of_kind(f"k{number}", DEFAULT) == DEFAULT for number in range(4)] == [False, False, True, False]
    told = [one.kind for one in needs.dirty()]
    assert len(told) == KINDS_MAX
    assert "k2" not in told


def test_more_than_is_kept_can_be_taken_over() -> None:
    rows = [Learned(f"k{number}", 100, (999 * MIB,) * 100, (9,) * 100) for number in range(KINDS_MAX + 2)]
    needs = Needs(rows)
    assert needs.of_kind("k1", DEFAULT) == DEFAULT
    assert needs.of_kind("k2", DEFAULT) != DEFAULT
    needs.learn("k2", 1, 1, ok=True)
    (told,) = needs.dirty()
    assert (len(told.memory), len(told.threads)) == (PEAKS, PEAKS)


def test_an_outcome_that_says_nothing_of_the_whole_attempt_is_a_lower_bound() -> None:
    assert RESOURCE < CUT_SHORT
    assert Outcome.EVICTED in CUT_SHORT
    assert not CUT_SHORT & {Outcome.OK, Outcome.EXCEPTION, Outcome.TIMEOUT, Outcome.STALLED}
    assert {Outcome.CRASHED, Outcome.MEMORY_LIMIT, Outcome.THREAD_LIMIT} == CHARGED & CUT_SHORT


peak = st.one_of(st.none(), st.integers(0, 1000))
attempts = st.lists(st.tuples(peak, peak, st.booleans()), max_size=150)
defaults = st.builds(Space, st.integers(0, 1000), st.integers(1, 1000))


def learned(peaks: Peaks) -> Needs:
    needs = Needs()
    for memory, threads, ok in peaks:
        needs.learn(WORK.kind, memory, threads, ok=ok)
    return needs


@given(attempts, st.tuples(peak, peak), defaults, st.tuples(peak, peak))
def test_a_lower_bound_never_lowers(
    peaks: Peaks, bound: tuple[int | None, int | None], default: Space, declared: tuple[int | None, int | None]
) -> None:
    needs = learned(peaks)
    work = replace(WORK, need_memory_bytes=declared[0], need_threads=declared[1])
    before = needs.expected(work, default).space
    needs.learn(WORK.kind, *bound, ok=False)
    after = needs.expected(work, default).space
    assert after.memory_bytes >= before.memory_bytes
    assert after.threads >= before.threads


@given(attempts, defaults, st.tuples(peak, peak))
def test_a_need_is_what_was_declared_or_seen_or_the_default(
    peaks: Peaks, default: Space, declared: tuple[int | None, int | None]
) -> None:
    work = replace(WORK, need_memory_bytes=declared[0], need_threads=declared[1])
    needs = learned(peaks)
    found = needs.expected(work, default).space
    rows = needs.dirty()
    memory, threads = (rows[0].memory, rows[0].threads) if rows else ((), ())
    for need, least, guess, seen in (
        (found.memory_bytes, declared[0], default.memory_bytes, memory),
        (found.threads, declared[1], default.threads, threads),
    ):
        assert need >= (least or 0)
        assert need in {guess if least is None else least, *(-(-one * 11 // 10) for one in seen if one is not None)}


@given(st.lists(st.integers(0, 1000), min_size=LEARNED_AFTER, max_size=PEAKS), st.integers(0, 1000))
def test_a_need_covers_nearly_all_of_what_was_seen(peaks: list[int], default: int) -> None:
    needs = learned([(one, one, True) for one in peaks])
    found = needs.expected(WORK, Space(default, default)).space
    covered = sum(one <= found.memory_bytes for one in peaks)
    assert covered >= 0.95 * len(peaks)
    assert found.threads == found.memory_bytes <= -(-max(peaks) * 11 // 10)


@given(attempts, defaults)
def test_what_is_taken_over_is_expected_as_before(peaks: Peaks, default: Space) -> None:
    needs = learned(peaks)
    assert Needs(needs.dirty()).expected(WORK, default) == needs.expected(WORK, default)
