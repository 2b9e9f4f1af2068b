"""Random schedules of add, abort, switch, mix, compare, score, prefill, load, replace and unload over small caches,
with fewer slots than adapters and most of these on disk: every answer is the one it would be alone, and nothing leaks.
200 schedules in `test`, 2,000 in `soak`."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.request import ErrorEvent, FinishEvent, KVPolicy, RequestOutput, SamplingParams, ScoreEvent
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.scheduler import Scheduler
from mp13.engine.scheduling.sequence import Sequence
from mp13.engine.scoring import Scoring
from mp13.errors import MixError
from tests.engine.tiny_models import (
    HAS_ALORA,
    LLAMA_LINEARS,
    Activated,
    Reference,
    assert_greedy_matches,
    reference_model,
    tiny_adapter,
    tiny_model,
)

BLOCK_SIZE = 4
RANKS = (2, 5, 3, 8)
NUM_CONTENTS = len(RANKS) + HAS_ALORA
NAMES = ("n0", "n1", "n2", "n3")
MIXES = ["base", "n0", "n1", "n2", "n3", "n0:0.5+n1", "n2:-0.5", "n0:0", "n1+n3:0.25"]
PREFIXES = [[3 + (5 * i + 17 * k) % 300 for i in range(12)] for k in range(3)]
INVOCATION = PREFIXES[0][5:7]  # activates the last content, in the first prefix only
POLICIES = st.sampled_from(["exact", "exact", "exact", "keep"])
mixes, prefixes, lengths, counts = st.sampled_from(MIXES), st.integers(0, 2), st.integers(1, 12), st.integers(1, 6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> "World":
    return World(tmp_path_factory.mktemp("schedules"))


class World:
    """One model, five adapters, one engine that all schedules share, and answers as each request gives alone."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_model(folder / "model", "llama")
        self.paths = [
            tiny_adapter(folder / f"adapter-{i}", self.model, rank=rank, targets=LLAMA_LINEARS[i:], seed=i)
            for i, rank in enumerate(RANKS)
        ]
        if HAS_ALORA:
            self.paths.append(tiny_adapter(folder / "alora", self.model, alora_invocation_tokens=INVOCATION))
        self.core = EngineCore(
            EngineConfig(
                str(self.model), dtype="float32", block_size=BLOCK_SIZE, kv_cache_memory="1MiB", max_loras=2,
                max_cpu_loras=2,
            )
        )  # fmt: skip
        self.digest_to_path = {}
        for path in self.paths:
            self.digest_to_path[self.core.load_adapter(path, "name").digest] = path
        self.core.unload_adapter("name")
        self._base = reference_model(self.model)
        self._references: dict[tuple[object, ...], Reference] = {}
        self._right: set[tuple[object, ...]] = set()  # answers seen and checked

    def start(self, num_blocks: int, max_num_seqs: int, budget: int) -> EngineCore:
        """The engine as if new, with a smaller cache and other limits, without loading the model anew."""
        core = self.core
        while core.has_work():  # left over from a schedule that failed
            core.step()
        for info in core.adapters.infos:
            core.unload_adapter(info.name)
        core.pool = BlockPool(num_blocks, BLOCK_SIZE)
        core.scheduler = Scheduler(
            core.pool, core.adapters.slots, max_num_seqs=max_num_seqs, max_num_batched_tokens=budget
        )
        core.scoring = Scoring(core.runner, core.adapters, core.vocab_size)
        core.max_model_len = num_blocks * BLOCK_SIZE
        return core

    def check(self, seq: Sequence, output: RequestOutput) -> None:
        answer = (seq.adapters, seq.active_from, *seq.token_ids)
        if answer in self._right:
            return
        key = (seq.adapters, seq.active_from)
        if key not in self._references:
            members = [(self.digest_to_path[digest], weight) for digest, weight in seq.adapters]
            adapted = reference_model(self.model, members)
            self._references[key] = Activated(self._base, adapted, seq.active_from) if seq.active_from else adapted
        assert_greedy_matches(self._references[key], seq.token_ids[: seq.num_prompt_tokens], output.token_ids)
        self._right.add(answer)


class Schedules(RuleBasedStateMachine):
    world: World

    @initialize(num_blocks=st.integers(6, 16), max_num_seqs=st.integers(1, 5), budget=st.integers(3, 24))
    def start(self, num_blocks: int, max_num_seqs: int, budget: int) -> None:
        self.core = self.world.start(num_blocks, max_num_seqs, budget)
        self.running: dict[str, tuple[Sequence, int]] = {}  # and how many tokens it wants
        self.scores: dict[str, int] = {}  # number of mixes
        self.loaded: dict[str, str] = {}  # name -> kind

    @rule(name=st.sampled_from(NAMES), content=st.integers(0, NUM_CONTENTS - 1))
    def load_or_replace(self, name: str, content: int) -> None:
        self.loaded[name] = self.core.load_adapter(self.world.paths[content], name).kind

    @precondition(lambda self: self.loaded)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.loaded)))
        self.core.unload_adapter(name)
        del self.loaded[name]

    @rule(mix=mixes, prefix=prefixes, length=lengths, count=counts, policy=POLICIES)
    def add(self, mix: str, prefix: int, length: int, count: int, policy: KVPolicy) -> None:
        prompt = PREFIXES[prefix][:length]
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        self.note(self.core.add(prompt, params, self.possible(mix), kv_policy=policy), count)

    @rule(mix=mixes, prefix=prefixes, length=lengths, background=st.booleans(), policy=POLICIES)
    def prefill(self, mix: str, prefix: int, length: int, background: bool, policy: KVPolicy) -> None:
        prompt = PREFIXES[prefix][:length]
        self.note(self.core.prefill(prompt, self.possible(mix), kv_policy=policy, background=background), 0)

    @rule(some=st.lists(mixes, min_size=2, max_size=3), prefix=prefixes, length=lengths, count=counts)
    def compare(self, some: list[str], prefix: int, length: int, count: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        for request_id in self.core.compare(PREFIXES[prefix][:length], params, map(self.possible, some)):
            self.note(request_id, count)

    @rule(mix=mixes, prefix=prefixes, length=lengths)
    def score(self, mix: str, prefix: int, length: int) -> None:
        mix = self.possible(mix)
        if "+" not in mix:  # beside the base, so that no more than the two slots are needed
            self.scores[self.core.score(PREFIXES[prefix][:length], ["base", mix])] = length

    def possible(self, mix: str) -> str:
        """The mix if its adapters are loaded and may stand together, else the base."""
        names = [name for name in NAMES if name in mix]
        if not all(name in self.loaded for name in names):
            return "base"
        if len(names) > 1 and any(self.loaded[name] == "alora" for name in names):
            with pytest.raises(MixError, match="does not mix"):
                self.core.add([3], SamplingParams(), mix)
            return "base"
        return mix

    def note(self, request_id: str, count: int) -> None:
        self.running[request_id] = (self.core._running[request_id].seq, count)

    @precondition(lambda self: self.running or self.scores)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from([*self.running, *self.scores]))
        if self.scores.pop(request_id, None):
            [event] = self.core.abort(request_id)
            assert isinstance(event, ErrorEvent)
        else:
            self.take(self.core.abort(request_id))
        assert request_id not in self.running

    @rule(steps=st.integers(1, 4))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            if self.core.has_work():
                self.take(self.core.step())

    def take(self, events: list[object]) -> None:
        for event in events:
            assert not isinstance(event, ErrorEvent), event
            if isinstance(event, ScoreEvent):
                length = self.scores.pop(event.request_id)
                assert [len(scores) for scores in event.scores] == [length - 1] * 2
            if isinstance(event, FinishEvent):
                seq, count = self.running.pop(event.request_id)
                if event.output.token_ids and seq.kv_policy == "exact":
                    self.world.check(seq, event.output)
                if event.output.finish_reason != "abort":
                    assert len(event.output.token_ids) == count

    @invariant()
    def blocks_and_pins_belong_to_who_runs(self) -> None:
        if not hasattr(self, "core"):
            return
        core, groups = self.core, self.core.scoring.running
        running = [*core.scheduler.running, *(seq for group in groups for seq in group.active_seqs)]
        held = {block for seq in running for block in seq.block_table}
        assert len(held) + core.pool.num_free == core.pool.num_blocks
        pins = sum(sum(w != 0 for _, w in seq.adapters) for seq in core.scheduler.running)
        pins += sum(len(group.needs(group.active)) for group in groups)
        assert core.adapters.slots.num_pins == pins
        assert len(core.adapters.slots.resident) <= core.adapters.slots.max_slots

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        while self.core.has_work():
            self.take(self.core.step())
        assert not self.running and not self.scores
        assert self.core.pool.num_free == self.core.pool.num_blocks
        assert self.core.adapters.slots.num_pins == 0
        assert len(self.core.adapters._contents.in_memory) <= 2
        for name in self.loaded:
            self.core.unload_adapter(name)
        assert not self.core.adapters.slots.resident
        assert not len(self.core.adapters._contents) and not +self.core.adapters._users


def test_random_schedules_answer_as_alone_and_leak_nothing(world: World) -> None:
    run_state_machine_as_test(type("Run", (Schedules,), {"world": world}), settings=_settings(200))


@pytest.mark.soak
def test_two_thousand_random_schedules(world: World) -> None:
    run_state_machine_as_test(type("Run", (Schedules,), {"world": world}), settings=_settings(2000))


def _settings(count: int) -> settings:
    return settings(max_examples=count, stateful_step_count=25, deadline=None)
