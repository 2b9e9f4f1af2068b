"""Random schedules of add, abort, switch, mix, load and unload over small caches: every answer is the one it would be
alone, and nothing leaks. 200 schedules in `test`, 2,000 in `soak`."""

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
from transformers import PreTrainedModel

from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.request import ErrorEvent, FinishEvent, RequestOutput, SamplingParams
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.scheduler import Scheduler
from mp13.engine.scheduling.sequence import AdapterWeights
from tests.engine.tiny_models import LLAMA_LINEARS, assert_greedy_matches, reference_model, tiny_adapter, tiny_model

BLOCK_SIZE = 4
NUM_ADAPTERS = 4
MIXES = ["base", "{0}", "{1}", "{2}", "{0}:0.5+{1}", "{2}:-0.5", "{0}:0"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> "World":
    return World(tmp_path_factory.mktemp("schedules"))


class World:
    """One model, four adapters, one engine that all schedules share, and answers as each request gives alone."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_model(folder / "model", "llama")
        self.paths = [
            tiny_adapter(folder / f"adapter-{i}", self.model, rank=(2, 5, 3, 8)[i], targets=LLAMA_LINEARS[i:], seed=i)
            for i in range(NUM_ADAPTERS)
        ]
        self.core = EngineCore(
            EngineConfig(str(self.model), dtype="float32", block_size=BLOCK_SIZE, kv_cache_memory="1MiB", max_loras=2)
        )
        self.digest_to_path = {}
        for i, path in enumerate(self.paths):
            self.digest_to_path[self.core.load_adapter(path, f"n{i}").digest] = path
            self.core.unload_adapter(f"n{i}")
        self._references: dict[AdapterWeights, PreTrainedModel] = {}
        self._right: set[tuple[AdapterWeights, tuple[int, ...], tuple[int, ...]]] = set()  # answers seen and checked

    def small_cache(self, num_blocks: int, max_num_seqs: int, budget: int) -> None:
        """Give the idle engine a smaller cache and other limits, without loading the model anew."""
        core = self.core
        assert not core.has_work()
        core.pool = BlockPool(num_blocks, BLOCK_SIZE)
        core.scheduler = Scheduler(
            core.pool, core.adapters.slots, max_num_seqs=max_num_seqs, max_num_batched_tokens=budget
        )
        core.max_model_len = num_blocks * BLOCK_SIZE

    def check(self, adapters: AdapterWeights, prompt: list[int], output: RequestOutput) -> None:
        answer = (adapters, tuple(prompt), tuple(output.token_ids))
        if answer in self._right:
            return
        if adapters not in self._references:
            self._references[adapters] = reference_model(
                self.model, [(self.digest_to_path[digest], weight) for digest, weight in adapters]
            )
        assert_greedy_matches(self._references[adapters], prompt, output.token_ids)
        self._right.add(answer)


class Schedules(RuleBasedStateMachine):
    world: World

    @initialize(num_blocks=st.integers(6, 16), max_num_seqs=st.integers(1, 5), budget=st.integers(3, 24))
    def start(self, num_blocks: int, max_num_seqs: int, budget: int) -> None:
        self.core = self.world.core
        self.world.small_cache(num_blocks, max_num_seqs, budget)
        self.running: dict[str, tuple[list[int], AdapterWeights, int]] = {}
        self.loaded: set[str] = set()
        self.prefixes = [[3 + (5 * i + 17 * k) % 300 for i in range(12)] for k in range(3)]

    @rule(name=st.integers(0, 2), content=st.integers(0, NUM_ADAPTERS - 1))
    def load_or_replace(self, name: int, content: int) -> None:
        self.core.load_adapter(self.world.paths[content], f"n{name}")
        self.loaded.add(f"n{name}")

    @precondition(lambda self: self.loaded)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.loaded)))
        self.core.unload_adapter(name)
        self.loaded.remove(name)

    @rule(mix=st.sampled_from(MIXES), prefix=st.integers(0, 2), length=st.integers(1, 12), num_tokens=st.integers(1, 6))
    def add(self, mix: str, prefix: int, length: int, num_tokens: int) -> None:
        mix = mix.format("n0", "n1", "n2")
        if not all(name in self.loaded for name in ("n0", "n1", "n2") if name in mix):
            mix = "base"
        prompt = self.prefixes[prefix][:length]
        params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        request_id = self.core.add(prompt, params, mix)
        self.running[request_id] = (prompt, self.core._running[request_id].seq.adapters, num_tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.running)))
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
            if isinstance(event, FinishEvent):
                prompt, adapters, num_tokens = self.running.pop(event.request_id)
                if event.output.token_ids:
                    self.world.check(adapters, prompt, event.output)
                if event.output.finish_reason != "abort":
                    assert len(event.output.token_ids) == num_tokens

    @invariant()
    def blocks_and_pins_belong_to_running_requests(self) -> None:
        if not hasattr(self, "core"):
            return
        held = {block for seq in self.core.scheduler.running for block in seq.block_table}
        assert len(held) + self.core.pool.num_free == self.core.pool.num_blocks
        pins = sum(sum(w != 0 for _, w in seq.adapters) for seq in self.core.scheduler.running)
        assert self.core.adapters.slots.num_pins == pins
        assert len(self.core.adapters.slots.resident) <= self.core.adapters.slots.max_slots

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        while self.core.has_work():
            self.take(self.core.step())
        assert not self.running
        assert self.core.pool.num_free == self.core.pool.num_blocks
        assert self.core.adapters.slots.num_pins == 0
        for name in self.loaded:
            self.core.unload_adapter(name)
        assert not self.core.adapters.slots.resident
        assert not self.core.adapters._by_digest


def test_random_schedules_answer_as_alone_and_leak_nothing(world: World) -> None:
    run_state_machine_as_test(type("Run", (Schedules,), {"world": world}), settings=_settings(200))


@pytest.mark.soak
def test_two_thousand_random_schedules(world: World) -> None:
    run_state_machine_as_test(type("Run", (Schedules,), {"world": world}), settings=_settings(2000))


def _settings(count: int) -> settings:
    return settings(max_examples=count, stateful_step_count=25, deadline=None)
