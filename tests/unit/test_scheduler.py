"""Continuous batching as bookkeeping: who runs in a step, who waits, who gives way, and that nothing is ever lost."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mp13
from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.batch import Batch
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.scheduler import Scheduler
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
BLOCK_SIZE = 4


class Slots:
    """As many adapters at a time as there are slots; counts who holds what."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.pins: Counter[str] = Counter()
        self.gone: set[str] = set()  # digests that cannot be brought in

    @property
    def resident(self) -> set[str]:
        return set(+self.pins)

    def acquire(self, adapters: AdapterWeights) -> bool:
        wanted = {digest for digest, weight in adapters if weight}
        if wanted & self.gone:
            raise FileNotFoundError("gone from disk")
        if len(wanted | set(+self.pins)) > self.num_slots:
            return False
        self.pins.update(wanted)
        return True

    def release(self, adapters: AdapterWeights) -> None:
        self.pins.subtract(digest for digest, weight in adapters if weight)
        assert min(self.pins.values(), default=0) >= 0, "released more often than acquired"


class Engine:
    """A scheduler whose model says 7 to everything. Remembers each step's batch."""

    def __init__(self, *, blocks: int = 64, slots: int = 8, seqs: int = 8, budget: int = 64, caching: bool = True):
        self.pool = BlockPool(blocks, BLOCK_SIZE, caching)
        self.slots = Slots(slots)
        self.scheduler = Scheduler(self.pool, self.slots, max_num_seqs=seqs, max_num_batched_tokens=budget)
        self.answers: dict[str, int] = {}  # tokens still wanted
        self.finished: list[str] = []

    def add(
        self, name: str, prompt: list[int] | range, answer: int = 3, adapters: AdapterWeights = (), **fields: Any
    ) -> Sequence:
        """`answer` 0 is a prefill."""
        seq = Sequence(name, list(prompt), SamplingParams(), adapters, generates=answer > 0, **fields)
        self.answers[name] = answer
        self.scheduler.add(seq)
        return seq

    def step(self) -> dict[str, int]:
        """Run a step; the number of tokens it computed of each request, in batch order."""
        batch = self.scheduler.schedule()
        self.check(batch)
        sampled, ended = batch.sampled, [*batch.prefilled, *(seq for seq, _ in batch.refused)]
        self.scheduler.computed(batch)
        for seq in ended:
            self.scheduler.remove(seq)
            self.finished.append(seq.request_id)
        for seq in sampled:
            seq.token_ids.append(7)
            self.answers[seq.request_id] -= 1
            if self.answers[seq.request_id] == 0:
                self.scheduler.remove(seq)
                self.finished.append(seq.request_id)
        return {row.seq.request_id: row.num_new_tokens for row in batch.rows}

    def check(self, batch: Batch) -> None:
        assert batch.num_tokens <= self.scheduler.max_num_batched_tokens
        assert len(self.scheduler.running) <= self.scheduler.max_num_seqs
        assert len({row.seq.request_id for row in batch.rows}) == len(batch.rows)
        for row in batch.rows:
            assert 0 < row.num_new_tokens <= row.seq.num_tokens - row.seq.num_computed_tokens
            assert len(row.seq.block_table) * BLOCK_SIZE >= row.seq.num_computed_tokens + row.num_new_tokens
        lengths = [row.num_new_tokens > 1 for row in batch.rows]
        assert lengths == sorted(lengths), "decodes stand before prefills"

    def run(self, limit: int = 1000) -> list[str]:
        for _ in range(limit):
            if not self.scheduler.has_work():
                return self.finished
            assert self.step(), "a step computed nothing although there was work"
        raise AssertionError("the requests never finished")


def test_scheduling_leaves_torch_out_of_the_process() -> None:
    script = (
        "import json, sys, mp13.engine.scheduling.scheduler, mp13.engine.scheduling.batch\n"
        "print(json.dumps([m for m in sys.modules if m.partition('.')[0] in ('torch', 'numpy', 'transformers')]))"
    )
    folder = Path(mp13.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60)
    assert json.loads(result.stdout) == [], result.stderr


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks() -> None:
    engine = Engine(budget=10)
    engine.add("long", range(25), answer=2)
    assert [engine.step() for _ in range(4)] == [{"long": 10}, {"long": 10}, {"long": 5}, {"long": 1}]
    assert engine.finished == ["long"]


def test_running_answers_go_on_while_a_new_prompt_is_chunked() -> None:
    engine = Engine(budget=10)
    engine.add("talks", range(4), answer=9)
    engine.step()
    engine.add("long", range(100, 125))
    assert [engine.step() for _ in range(3)] == [
        {"talks": 1, "long": 9},
        {"talks": 1, "long": 9},
        {"talks": 1, "long": 7},
    ]


def test_requests_start_in_order_of_arrival_while_budget_and_rows_last() -> None:
    engine = Engine(budget=12, seqs=3)
    for i in range(5):
        engine.add(str(i), range(100 * i, 100 * i + 5), answer=2)
    assert engine.step() == {"0": 5, "1": 5, "2": 2}
    assert engine.step() == {"0": 1, "1": 1, "2": 3}
    assert engine.step() == {"2": 1, "3": 5, "4": 5}
    assert engine.run() == ["0", "1", "2", "3", "4"]


def test_a_cached_prefix_is_not_computed_again_and_is_counted_once() -> None:
    engine = Engine()
    engine.add("first", range(12), answer=1)
    engine.step()
    second = engine.add("second", [*range(12), 50, 51], answer=2)
    assert engine.step() == {"second": 2}
    assert second.num_cached_tokens == 12


def test_two_requests_of_one_step_do_not_read_what_is_not_computed_yet() -> None:
    engine = Engine()
    engine.add("first", range(12))
    second = engine.add("second", range(12))
    assert engine.step() == {"first": 12, "second": 12}
    assert second.num_cached_tokens == 0


def test_a_sequence_starts_no_second_step_before_a_free_row() -> None:
    engine = Engine(seqs=1)
    engine.add("a", range(4), answer=2)
    engine.add("b", range(100, 104), answer=1)
    assert [list(engine.step()) for _ in range(3)] == [["a"], ["a"], ["b"]]


def test_when_blocks_run_out_the_youngest_gives_way_and_comes_back_first() -> None:
    engine = Engine(blocks=6, caching=False)
    old, young = engine.add("old", range(8), answer=8), engine.add("young", range(100, 108), answer=8)
    engine.add("new", range(200, 204), answer=1)
    assert list(engine.step()) == ["old", "young", "new"]
    assert engine.finished == ["new"]
    for _ in range(4):
        assert list(engine.step()) == ["old", "young"]
    engine.add("late", range(300, 304), answer=1)
    assert list(engine.step()) == ["old"]  # both needed a fourth block
    assert engine.scheduler.num_preemptions == 1
    assert engine.scheduler.waiting[0] is young and young.num_computed_tokens == 0 == len(young.block_table)
    while "young" not in (rows := list(engine.step())):
        assert "late" not in rows
    engine.run()
    assert old.num_generated_tokens == young.num_generated_tokens == 8
    assert engine.pool.num_free == 6


def test_preempted_work_is_found_in_the_cache_if_nobody_took_its_blocks() -> None:
    engine = Engine(blocks=7)
    engine.add("old", range(8), answer=9)
    young = engine.add("young", range(100, 108), answer=9)
    while engine.scheduler.num_preemptions == 0:
        engine.step()
    while engine.step().keys() == {"old"}:
        pass
    assert young.num_cached_tokens == 0  # of its prompt, when it first came; what it finds now is its own
    assert engine.run() == ["old", "young"]


def test_nobody_is_admitted_in_a_step_that_preempted() -> None:
    engine = Engine(blocks=6, budget=6, caching=False)
    engine.add("old", range(8), answer=8)
    engine.add("young", range(100, 108), answer=8)
    while engine.scheduler.num_preemptions == 0:
        rows = engine.step()
    assert rows == {"old": 1}  # a chunk of "young" would have fitted, only to be thrown away again
    assert engine.run() == ["old", "young"]


def test_several_preempted_requests_keep_their_order() -> None:
    engine = Engine(blocks=9, caching=False, budget=100)
    for name in "abc":
        engine.add(name, range(11), answer=20 if name == "a" else 3)
    engine.step()
    seqs = {seq.request_id: seq for seq in engine.scheduler.running}
    seqs["a"].token_ids += range(9)  # as if it had said much at once: needs 3 more blocks
    engine.step()
    assert [seq.request_id for seq in engine.scheduler.running] == ["a", "b"]
    seqs["a"].token_ids += range(12)
    engine.step()
    assert [seq.request_id for seq in engine.scheduler.waiting] == ["b", "c"]


def test_while_one_waits_for_a_slot_those_that_need_none_go_before_it() -> None:
    engine = Engine(slots=1)
    engine.add("a", range(4), answer=3, adapters=((A, 1.0),))
    engine.add("b", range(4), answer=2, adapters=((B, 1.0),))
    engine.add("c", range(4), answer=1, adapters=((C, 1.0),))
    engine.add("a again", range(4), answer=1, adapters=((A, 1.0),))
    engine.add("base", range(4), answer=1)
    engine.add("weightless", range(4), answer=1, adapters=((B, 0.0),))
    order = [list(engine.step()) for _ in range(6)]
    assert order == [["a", "a again", "base", "weightless"], ["a"], ["a"], ["b"], ["b"], ["c"]]
    assert +engine.slots.pins == Counter()


def test_no_more_than_sixteen_overtake_one_that_waits_for_a_slot() -> None:
    """However many requests of the same adapter keep coming, the slot comes free."""
    engine = Engine(slots=1)
    engine.add("a", range(4), answer=3, adapters=((A, 1.0),))
    waits = engine.add("b", range(4), answer=1, adapters=((B, 1.0),))
    for i in range(100):
        engine.add(f"again{i}", range(4), answer=3, adapters=((A, 1.0),))
        engine.step()
        if "b" in engine.finished:
            break
    assert waits.num_overtaken == 16
    assert engine.finished == ["a", *(f"again{i}" for i in range(16)), "b"]
    assert len(engine.run()) == i + 3


def test_nobody_takes_the_slots_that_one_waits_for() -> None:
    engine = Engine(slots=2)
    engine.add("a", range(4), answer=2, adapters=((A, 1.0),))
    engine.add("mix", range(4), answer=1, adapters=((B, 1.0), (C, 1.0)))
    engine.add("c", range(4), answer=1, adapters=((C, 1.0),))
    assert [list(engine.step()) for _ in range(3)] == [["a"], ["a"], ["mix", "c"]]


def test_what_cannot_be_brought_in_ends_that_request_alone_and_in_the_same_step() -> None:
    engine = Engine()
    engine.slots.gone = {B}
    engine.add("a", range(4), answer=2, adapters=((A, 1.0),))
    engine.add("b", range(4), answer=2, adapters=((B, 1.0),))
    engine.add("base", range(4), answer=2)
    assert list(engine.step()) == ["a", "base"]
    assert engine.finished == ["b"]
    assert engine.run() == ["b", "a", "base"] and +engine.slots.pins == Counter()


def test_a_prefill_computes_everything_and_samples_nothing() -> None:
    engine = Engine(budget=5)
    engine.add("warm", range(12), answer=0)
    assert [engine.step() for _ in range(3)] == [{"warm": 5}, {"warm": 5}, {"warm": 2}]
    assert engine.finished == ["warm"]
    seq = engine.add("asks", [*range(12), 99], answer=1)
    assert engine.step() == {"asks": 1}
    assert seq.num_cached_tokens == 12


def test_the_background_runs_only_while_nothing_else_does_and_in_small_steps() -> None:
    engine = Engine(blocks=256, budget=1000)
    engine.add("warm", range(300), answer=0, is_background=True)
    engine.add("asks", range(1000, 1004), answer=2)
    assert [engine.step() for _ in range(5)] == [{"asks": 4}, {"asks": 1}, {"warm": 128}, {"warm": 128}, {"warm": 44}]
    assert engine.finished == ["asks", "warm"]


def test_the_background_gives_back_everything_at_once_and_goes_on_where_it_was() -> None:
    engine = Engine(blocks=64, slots=1)
    warm = engine.add("warm", range(200), answer=0, adapters=((A, 1.0),), is_background=True)
    assert engine.step() == {"warm": 64}
    engine.add("asks", range(1000, 1004), answer=2, adapters=((B, 1.0),))
    assert engine.step() == {"asks": 4}
    assert not warm.block_table and set(+engine.slots.pins) == {B}
    assert [engine.step() for _ in range(4)] == [{"asks": 1}, {"warm": 64}, {"warm": 64}, {"warm": 8}]
    assert warm.num_cached_tokens == 0  # found nothing of others', when it first came
    assert engine.pool.num_free == 64 and +engine.slots.pins == Counter()


def test_an_aborted_background_request_is_gone_whether_it_waits_or_runs() -> None:
    engine = Engine()
    runs, waits = (engine.add(name, range(200), answer=0, is_background=True) for name in ("runs", "waits"))
    engine.step()
    engine.scheduler.remove(waits)
    engine.scheduler.remove(runs)
    assert not engine.scheduler.has_work() and engine.pool.num_free == 64


def test_requests_of_one_adapter_share_its_slot() -> None:
    engine = Engine(slots=1)
    for name in "xyz":
        engine.add(name, range(4), answer=1, adapters=((A, 1.0),))
    assert list(engine.step()) == ["x", "y", "z"]


def test_a_slot_is_not_kept_by_a_request_for_which_there_are_no_blocks() -> None:
    engine = Engine(blocks=4, slots=2)
    engine.add("base", range(12), answer=4)
    engine.add("a", range(100, 112), answer=1, adapters=((A, 1.0),))
    assert list(engine.step()) == ["base"]
    assert +engine.slots.pins == Counter()
    assert engine.run() == ["base", "a"]


def test_a_mix_pins_all_its_members_until_it_ends() -> None:
    engine = Engine(slots=2)
    seq = engine.add("mix", range(4), answer=2, adapters=((A, 0.5), (B, 0.5)))
    engine.add("c", range(4), answer=1, adapters=((C, 1.0),))
    engine.step()
    assert set(+engine.slots.pins) == {A, B}
    engine.scheduler.remove(seq)
    assert +engine.slots.pins == Counter()
    assert list(engine.step()) == ["c"]


def test_an_aborted_request_is_gone_whether_it_waits_or_runs() -> None:
    engine = Engine(seqs=1)
    runs, waits = engine.add("runs", range(9), adapters=((A, 1.0),)), engine.add("waits", range(9))
    engine.step()
    engine.scheduler.remove(waits)
    engine.scheduler.remove(runs)
    assert not engine.scheduler.has_work()
    assert engine.pool.num_free == 64 and +engine.slots.pins == Counter()


def test_removing_what_is_not_there_is_an_error() -> None:
    engine = Engine()
    seq = engine.add("a", range(4))
    engine.scheduler.remove(seq)
    with pytest.raises(ValueError):
        engine.scheduler.remove(seq)


def test_an_old_request_finishes_however_many_come_after_it() -> None:
    engine = Engine(blocks=8, budget=6, seqs=3, slots=2)
    engine.add("old", range(9), answer=12, adapters=((A, 1.0), (B, 1.0)))
    for i in range(60):
        engine.add(f"new{i}", range(100 * i, 100 * i + 9), answer=5, adapters=((C, 1.0),) if i % 2 else ())
        engine.step()
        if "old" in engine.finished:
            break
    assert "old" in engine.finished
    assert "new0" in engine.run()


class Schedules(RuleBasedStateMachine):
    """Add, step, abort in any order. Each block is free, or held exactly as often as its reference count says."""

    @initialize(
        blocks=st.integers(5, 14), slots=st.integers(2, 3), seqs=st.integers(1, 4), budget=st.integers(1, 20),
        caching=st.booleans(),
    )  # fmt: skip
    def start(self, blocks: int, slots: int, seqs: int, budget: int, caching: bool) -> None:
        self.engine = Engine(blocks=blocks, slots=slots, seqs=seqs, budget=budget, caching=caching)
        self.seqs: dict[str, Sequence] = {}

    @rule(
        beginning=st.integers(0, 2), length=st.integers(1, 14), answer=st.integers(0, 6),
        members=st.sets(st.sampled_from([A, B, C]), max_size=2), background=st.booleans(),
        policy=st.sampled_from(["exact", "keep"]),
    )  # fmt: skip
    def add(self, beginning: int, length: int, answer: int, members: set[str], background: bool, policy: str) -> None:
        name = str(len(self.engine.answers))
        prompt = range(50 * beginning, 50 * beginning + length)
        adapters = tuple((digest, 1.0) for digest in sorted(members))
        fields = {"is_background": background, "kv_policy": policy}
        self.seqs[name] = self.engine.add(name, prompt, answer, adapters, **fields)

    @rule()
    def step(self) -> None:
        if self.engine.scheduler.has_work():
            assert self.engine.step()
            for name in self.engine.finished:
                self.seqs.pop(name, None)

    @precondition(lambda self: self.seqs)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.engine.scheduler.remove(self.seqs.pop(data.draw(st.sampled_from(sorted(self.seqs)))))

    @invariant()
    def blocks_and_pins_belong_to_those_who_run(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler, pool = self.engine.scheduler, self.engine.pool
        held = Counter(block for seq in scheduler.running for block in seq.block_table)
        assert [held[block] for block in range(pool.num_blocks)] == pool._ref_counts
        assert set(pool._free) == set(range(pool.num_blocks)) - held.keys()
        named = {(name, block) for block, names in pool._hashes_of.items() for name in names}
        assert named == set(pool._block_of.items())
        for seq in scheduler.running:  # where a sequence still writes, nobody else reads or writes
            assert all(held[block] == 1 for block in seq.block_table[seq.num_computed_tokens // BLOCK_SIZE :])
        waiting = {*scheduler.waiting, *scheduler.background}
        assert not any(seq.block_table for seq in waiting)
        assert set(self.seqs.values()) == {*scheduler.running, *waiting}
        assert len({seq.is_background for seq in scheduler.running}) <= 1, "the background runs alone"
        pins = Counter(digest for seq in scheduler.running for digest, _ in seq.adapters)
        assert +self.engine.slots.pins == pins

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.run()
            assert self.engine.pool.num_free == self.engine.pool.num_blocks
            assert +self.engine.slots.pins == Counter()


TestRandomSchedules = Schedules.TestCase
TestRandomSchedules.settings = settings(stateful_step_count=25)
