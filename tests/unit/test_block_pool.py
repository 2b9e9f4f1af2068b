"""KV-cache blocks as numbers: who holds them, what can be found again, and what goes first when space runs out."""

import dataclasses
from typing import Any

import pytest

from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.sequence import NEVER, AdapterWeights, Sequence, last_invocation

A, B = "a1" * 32, "b2" * 32  # content digests


def sequence(tokens: list[int] | range, adapters: AdapterWeights = (), **fields: Any) -> Sequence:
    return Sequence("r", list(tokens), SamplingParams(), adapters, **fields)


def keeping(tokens: list[int] | range, adapters: AdapterWeights = ()) -> Sequence:
    return sequence(tokens, adapters, kv_policy="keep")


def computed(pool: BlockPool, seq: Sequence) -> Sequence:
    """`seq` after it found its prefix, took its blocks, ran, and published them."""
    prefix = pool.find_prefix(seq)
    assert pool.allocate(seq, seq.num_tokens, prefix)
    seq.num_published_blocks = len(prefix)
    seq.num_computed_tokens = seq.num_tokens
    pool.publish(seq)
    return seq


def hashes(tokens: range, adapters: AdapterWeights = (), salt: bytes = b"") -> list[bytes]:
    return sequence(tokens, adapters).block_hashes(len(tokens) // 4, 4, salt)


def test_a_sequence_takes_as_many_blocks_as_its_tokens_fill() -> None:
    pool = BlockPool(8, 4)
    seq = sequence(range(9))
    assert pool.allocate(seq, 4) and len(seq.block_table) == 1
    assert pool.allocate(seq, 5) and len(seq.block_table) == 2
    assert pool.allocate(seq, 8) and len(seq.block_table) == 2
    assert pool.allocate(seq, 9) and len(set(seq.block_table)) == 3
    assert pool.num_free == 5


def test_too_few_free_blocks_change_nothing() -> None:
    pool = BlockPool(3, 4)
    holder, seq = computed(pool, sequence(range(8))), sequence(range(100, 108))
    assert not pool.allocate(seq, 8)
    assert (seq.block_table, pool.num_free, len(holder.block_table)) == ([], 1, 2)


def test_a_prefix_that_nobody_holds_counts_as_taken_when_space_is_reckoned() -> None:
    pool = BlockPool(3, 4)
    pool.release(computed(pool, sequence(range(8))))
    seq = sequence(range(16))
    prefix = pool.find_prefix(seq)
    assert len(prefix) == 2 and pool.num_free == 3
    assert not pool.allocate(seq, 16, prefix)  # 2 revived + 2 new > 3 free
    assert pool.num_free == 3 and seq.block_table == []
    assert pool.allocate(seq, 12, prefix)
    assert seq.block_table[:2] == prefix and pool.num_free == 0


def test_sequences_share_the_blocks_of_a_common_prefix() -> None:
    pool = BlockPool(16, 4)
    first, second = computed(pool, sequence(range(12))), sequence([*range(8), 99, 98, 97, 96])
    prefix = pool.find_prefix(second)
    assert prefix == first.block_table[:2]
    assert pool.allocate(second, 12, prefix)
    assert pool.num_free == 16 - 3 - 1
    pool.release(first)
    assert pool.num_free == 16 - 3  # the shared two stay held
    pool.release(second)
    assert pool.num_free == 16


def test_at_least_one_token_is_left_to_compute() -> None:
    pool = BlockPool(16, 4)
    computed(pool, sequence(range(8)))
    assert len(pool.find_prefix(sequence(range(8)))) == 1
    assert len(pool.find_prefix(sequence(range(9)))) == 2


def test_only_full_and_computed_blocks_are_published() -> None:
    pool = BlockPool(16, 4)
    seq = sequence(range(10))
    assert pool.allocate(seq, 10)
    pool.publish(seq)
    assert pool.find_prefix(sequence(range(20))) == []
    seq.num_computed_tokens = 7
    pool.publish(seq)
    assert pool.find_prefix(sequence(range(20))) == seq.block_table[:1]
    seq.num_computed_tokens = 10
    pool.publish(seq)
    assert pool.find_prefix(sequence(range(20))) == seq.block_table[:2]


def test_a_content_computed_twice_is_published_once_and_both_copies_come_free() -> None:
    pool = BlockPool(16, 4)
    twins = [sequence(range(8)), sequence(range(8))]
    for twin in twins:
        assert pool.allocate(twin, 8)
        twin.num_computed_tokens = 8
        pool.publish(twin)
    assert pool.find_prefix(sequence(range(9))) == twins[0].block_table
    pool.release(twins[0])
    assert pool.find_prefix(sequence(range(9)))
    pool.release(twins[1])
    assert pool.num_free == 16


def test_released_blocks_stay_findable_until_they_are_needed() -> None:
    pool = BlockPool(4, 4)
    pool.release(computed(pool, sequence(range(8))))
    assert len(pool.find_prefix(sequence(range(9)))) == 2
    assert pool.allocate(sequence(range(100, 116)), 16)
    assert pool.find_prefix(sequence(range(9))) == []


def test_the_block_released_longest_ago_goes_first() -> None:
    pool = BlockPool(6, 4)
    old, young = (computed(pool, sequence(range(start, start + 8))) for start in (0, 100))
    pool.release(old)
    pool.release(young)
    assert pool.allocate(sequence(range(200, 212)), 12)  # the two untouched blocks, and one more
    assert len(pool.find_prefix(sequence(range(9)))) == 1
    assert len(pool.find_prefix(sequence(range(100, 109)))) == 2


def test_using_a_prefix_again_makes_it_young() -> None:
    pool = BlockPool(4, 4)
    for start in (0, 100):
        pool.release(computed(pool, sequence(range(start, start + 8))))
    again = sequence(range(9))
    assert pool.allocate(again, 8, pool.find_prefix(again))
    pool.release(again)
    assert pool.allocate(sequence(range(200, 208)), 8)
    assert len(pool.find_prefix(sequence(range(9)))) == 2
    assert pool.find_prefix(sequence(range(100, 109))) == []


def test_the_end_of_a_sequence_goes_before_its_beginning() -> None:
    pool = BlockPool(3, 4)
    pool.release(computed(pool, sequence(range(12))))
    assert pool.allocate(sequence(range(100, 104)), 4)
    assert len(pool.find_prefix(sequence(range(13)))) == 2


def test_blocks_without_findable_content_go_before_all_others() -> None:
    pool = BlockPool(4, 4)
    pool.release(computed(pool, sequence(range(8))))
    partial = sequence(range(100, 103))
    assert pool.allocate(partial, 3)
    pool.release(partial)  # released last, but its content is lost anyway
    assert pool.allocate(sequence(range(200, 208)), 8)
    assert len(pool.find_prefix(sequence(range(9)))) == 2


def test_a_block_in_use_is_never_given_away() -> None:
    pool = BlockPool(4, 4)
    holder, other = computed(pool, sequence(range(8))), sequence(range(100, 112))
    assert not pool.allocate(other, 12)
    assert pool.allocate(other, 8)
    assert not set(holder.block_table) & set(other.block_table)


def test_without_prefix_caching_nothing_is_found() -> None:
    pool = BlockPool(16, 4, enable_prefix_caching=False)
    computed(pool, sequence(range(8)))
    assert pool.find_prefix(sequence(range(9))) == []


def test_a_pool_finds_only_what_has_its_salt() -> None:
    pools = [BlockPool(16, 4, salt=salt) for salt in (b"exact", b"keep")]
    published = [sequence(range(8)).block_hashes(2, 4, pool.salt) for pool in pools]
    assert not set(published[0]) & set(published[1])
    computed(pools[0], sequence(range(8)))
    assert len(pools[0].find_prefix(sequence(range(9)))) == 2


@pytest.mark.parametrize(
    "other",
    [
        hashes(range(8), ((B, 1.0),)),  # content
        hashes(range(8), ((A, 0.5),)),  # weight
        hashes(range(8), ((A, -1.0),)),  # sign
        hashes(range(8), ((A, 1.0), (B, 1.0))),  # another member
        hashes(range(8)),  # the base
        hashes(range(1, 9), ((A, 1.0),)),  # tokens
        hashes(range(8), ((A, 1.0),), b"salt"),
    ],
    ids=["content", "weight", "sign", "member", "base", "tokens", "salt"],
)
def test_a_block_is_keyed_by_everything_that_its_content_depends_on(other: list[bytes]) -> None:
    assert not set(hashes(range(8), ((A, 1.0),))) & set(other)


def test_one_that_keeps_the_cache_finds_what_any_mix_computed() -> None:
    pool = BlockPool(16, 4)
    base, kept = computed(pool, sequence(range(12))), keeping(range(20), ((A, 1.0),))
    assert pool.find_prefix(kept) == base.block_table
    assert pool.find_prefix(sequence(range(20), ((A, 1.0),))) == []
    computed(pool, kept)  # on top of the base's past
    assert pool.find_prefix(keeping(range(21), ((B, 1.0),))) == kept.block_table


def test_what_was_kept_across_mixes_is_never_found_by_an_exact_one() -> None:
    pool = BlockPool(32, 4)
    computed(pool, sequence(range(8)))
    computed(pool, keeping(range(16), ((A, 1.0),)))
    computed(pool, keeping(range(100, 116), ((A, 1.0),)))
    assert pool.find_prefix(sequence(range(17), ((A, 1.0),))) == []
    assert pool.find_prefix(sequence(range(100, 117), ((A, 1.0),))) == []
    assert len(pool.find_prefix(sequence(range(17)))) == 2  # the base's own


def test_one_that_keeps_the_cache_takes_its_own_mix_blocks_before_others() -> None:
    pool = BlockPool(16, 4)
    computed(pool, sequence(range(8)))
    own = computed(pool, sequence(range(8), ((A, 1.0),)))
    assert pool.find_prefix(keeping(range(9), ((A, 1.0),))) == own.block_table


def test_a_block_taken_for_something_else_loses_both_its_names() -> None:
    pool = BlockPool(2, 4)
    pool.release(computed(pool, sequence(range(8), ((A, 1.0),))))
    pool.release(computed(pool, sequence(range(100, 108))))
    for seq in (sequence(range(9), ((A, 1.0),)), keeping(range(9))):
        assert pool.find_prefix(seq) == []
    assert len(pool._block_of) == 4 and pool.num_free == 2


def test_what_stands_before_an_activated_adapter_is_the_bases() -> None:
    before, both, after = sequence(range(12), ((A, 1.0),), active_from=6).block_hashes(3, 4)
    assert before == hashes(range(12))[0]
    assert not {both, after} & {*hashes(range(12)), *hashes(range(12), ((A, 1.0),))}
    assert sequence(range(12), ((A, 1.0),), active_from=8).block_hashes(3, 4)[:2] == hashes(range(8))
    assert sequence(range(12), ((A, 1.0),), active_from=NEVER).block_hashes(3, 4) == hashes(range(12))


def test_where_an_adapter_was_activated_is_part_of_the_key() -> None:
    """The second block's tokens and mix agree; what was computed does not."""
    early, late = (sequence(range(8), ((A, 1.0),), active_from=start).block_hashes(2, 4) for start in (5, 6))
    assert early[0] == late[0] and early[1] != late[1]


def test_an_adapter_is_activated_by_its_last_invocation() -> None:
    assert last_invocation([1, 7, 8, 2, 7, 8, 3], (7, 8)) == 4
    assert last_invocation([1, 7, 8], (7, 8)) == 1
    assert last_invocation([7, 7, 7], (7, 7)) == 1
    assert last_invocation([1, 7], (7, 8)) == NEVER
    assert last_invocation([7], (7, 8)) == NEVER
    assert last_invocation([], (7,)) == NEVER


def test_the_same_tokens_after_another_beginning_are_another_block() -> None:
    left, right = sequence([1, 1, 1, 1, 5, 6, 7, 8]), sequence([2, 2, 2, 2, 5, 6, 7, 8])
    assert left.block_hashes(2, 4)[1] != right.block_hashes(2, 4)[1]


def test_names_and_requests_leave_no_trace_in_the_key() -> None:
    one = Sequence("r1", list(range(8)), SamplingParams(seed=1), ((A, 0.5),), seed=1, max_len=9)
    two = Sequence("r2", list(range(8)), SamplingParams(temperature=0), ((A, 0.5),), seed=2)
    assert one.block_hashes(2, 4) == two.block_hashes(2, 4)
    assert not {"name", "names", "mix"} & {field.name for field in dataclasses.fields(Sequence)}


def test_a_member_of_weight_zero_shares_the_blocks_of_the_base() -> None:
    assert hashes(range(8), ((A, 0.0),)) == hashes(range(8), ((A, -0.0),)) == hashes(range(8))
    assert hashes(range(8), ((A, 0.0), (B, 1.0))) == hashes(range(8), ((B, 1.0),))


def test_key_tokens_and_salt_cannot_pass_for_each_other() -> None:
    """A salt made of the bytes that an adapter key or tokens would add gives other hashes."""
    keyed = sequence(range(4), ((A, 1.0),))
    salted = sequence(range(4)).block_hashes(1, 4, keyed._key)
    assert keyed.block_hashes(1, 4) != salted


def test_a_block_that_fills_while_generating_hashes_as_if_it_had_been_prompted() -> None:
    seq = sequence(range(6))
    seq.block_hashes(1, 4)
    seq.token_ids += [6, 7]
    assert seq.block_hashes(2, 4) == sequence(range(8)).block_hashes(2, 4)
