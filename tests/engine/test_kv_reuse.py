"""What of a conversation's cache is used again: prefilled ahead of time, across mixes on request, and around the
invocation of an activated LoRA. Never is a block read that the answer may not rest on."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mp13.engine.async_engine import AsyncEngine
from mp13.engine.llm import LLM
from mp13.engine.request import Event, FinishEvent, Metrics, RequestOutput, SamplingParams
from mp13.errors import ConfigError, ContextError, MixError, ModelError
from tests.engine.tiny_models import (
    HAS_ALORA,
    LLAMA_LINEARS,
    Activated,
    assert_greedy_matches,
    reference_model,
    tiny_adapter,
    tiny_model,
)

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
BLOCK_SIZE = 4
INVOCATION = [40, 41, 42]
WEIGHTS = "adapter_model.safetensors"
LONG = [5 + i % 300 for i in range(500)]
PAST = list(range(100, 122))  # five full blocks and two tokens
needs_alora = pytest.mark.skipif(not HAS_ALORA, reason="this PEFT has no activated LoRA")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kv")
    model = tiny_model(folder / "model")
    tiny_adapter(folder / "a", model, targets=LLAMA_LINEARS)
    tiny_adapter(folder / "b", model, targets=LLAMA_LINEARS, seed=2)
    if HAS_ALORA:
        tiny_adapter(folder / "activated", model, targets=LLAMA_LINEARS, alora_invocation_tokens=INVOCATION)
    return folder


@pytest.fixture(scope="module")
def shared(folder: Path) -> LLM:
    llm = LLM(folder / "model", dtype="float32", block_size=BLOCK_SIZE, kv_cache_memory="1MiB")
    for name in ("a", "b", "activated")[: 2 + HAS_ALORA]:
        llm.load_adapter(folder / name)
    return llm


@pytest.fixture
def llm(shared: LLM) -> LLM:
    """With an empty cache."""
    forget_blocks(shared)
    return shared


def forget_blocks(llm: LLM) -> None:
    llm._core.pool._block_of.clear()
    llm._core.pool._hashes_of.clear()


def ask(llm: LLM, prompt: list[int], mix: str = "base", **options: Any) -> RequestOutput:
    return llm.generate([prompt], GREEDY, mix, **options)[0]


def cached(llm: LLM, prompt: list[int], mix: str = "base", **options: Any) -> int:
    return ask(llm, prompt, mix, **options).metrics.cached_tokens


@pytest.mark.parametrize("mix", ["base", "a", "a:0.5+b:-0.5"])
def test_after_a_prefill_an_answer_finds_everything_but_the_last_block(llm: LLM, mix: str) -> None:
    cold = ask(llm, PAST, mix)
    forget_blocks(llm)
    metrics = llm.prefill(PAST, mix)
    assert (metrics.prompt_tokens, metrics.cached_tokens, metrics.generated_tokens) == (22, 0, 0)
    warm = ask(llm, PAST, mix)
    assert warm.metrics.cached_tokens == 20
    assert warm.token_ids == cold.token_ids
    assert llm.prefill([*PAST, 1, 2, 3], mix).cached_tokens == 20


def test_a_prefill_under_one_mix_serves_no_other(llm: LLM) -> None:
    llm.prefill(PAST, "a")
    assert [cached(llm, PAST, mix) for mix in ("base", "b", "a:0.5", "a+b", "a")] == [0, 0, 0, 0, 20]


def test_a_prefill_ends_with_an_empty_output_and_draws_no_seed(llm: LLM) -> None:
    core = llm._core
    state = core.admission._seeds.getstate()
    request_id = core.prefill(PAST, "a", kv_policy="keep")
    [event] = core.step()
    assert isinstance(event, FinishEvent) and event.request_id == request_id
    output = event.output
    assert (output.text, output.token_ids, output.finish_reason) == ("", [], "length")
    assert (output.adapters, output.kv_policy) == ("a", "keep")
    assert core.admission._seeds.getstate() == state and not core.has_work()


def test_a_prompt_that_cannot_be_prefilled_is_refused_as_a_request_is(llm: LLM) -> None:
    with pytest.raises(MixError, match="'nobody', which is not loaded"):
        llm.prefill(PAST, "nobody")
    with pytest.raises(ConfigError, match="is empty"):
        llm.prefill("")
    with pytest.raises(ContextError):
        llm.prefill([5] * 10_000)
    with pytest.raises(ConfigError, match="kv_policy = 'most' cannot be used; give one of exact, keep"):
        llm.prefill(PAST, kv_policy="most")  # type: ignore[arg-type]


def test_the_past_of_a_conversation_is_what_the_next_prompt_begins_with(llm: LLM) -> None:
    first = [{"role": "user", "content": "hello there"}]
    answer = llm.chat([first], GREEDY, "a")[0]
    past: list[dict[str, Any]] = [*first, {"role": "assistant", "content": answer.text, "token_ids": answer.token_ids}]
    length = llm.prefill(past, "b").prompt_tokens
    following = llm.chat([[*past, {"role": "user", "content": "the lazy dog"}]], GREEDY, "b")[0]
    assert following.metrics.cached_tokens == length // BLOCK_SIZE * BLOCK_SIZE
    assert following.metrics.prompt_tokens > length
    asked = llm.prefill(first, "b").prompt_tokens  # a question is rendered up to where its answer begins
    assert asked == answer.metrics.prompt_tokens


def test_who_keeps_the_cache_reads_what_another_mix_computed(llm: LLM) -> None:
    ask(llm, PAST, "a")
    assert cached(llm, PAST, "b") == 0
    forget_blocks(llm)
    ask(llm, PAST, "a")
    assert cached(llm, PAST, "b", kv_policy="keep") == 20
    assert cached(llm, PAST, "b", kv_policy="keep") == 20


def test_no_exact_answer_rests_on_what_was_kept_across_mixes(llm: LLM) -> None:
    expected = ask(llm, PAST, "b").token_ids
    forget_blocks(llm)
    ask(llm, PAST[:12], "a")
    kept = ask(llm, PAST, "b", kv_policy="keep")
    assert kept.metrics.cached_tokens == 12 and kept.kv_policy == "keep"
    assert cached(llm, PAST[:13], "b") == 0  # computes the very blocks that the kept ones seem to follow
    exact = ask(llm, PAST, "b")
    assert exact.metrics.cached_tokens == 12 and exact.kv_policy == "exact"
    assert exact.token_ids == expected


def test_nobody_reads_what_an_answer_gone_wrong_left_behind(folder: Path, tmp_path: Path) -> None:
    llm = LLM(folder / "model", dtype="float32", block_size=BLOCK_SIZE, kv_cache_memory="1MiB", kv_policy="keep")
    expected = ask(llm, PAST).token_ids
    wild = Path(shutil.copytree(folder / "a", tmp_path / "wild"))
    weights = {name: tensor * 1e18 for name, tensor in load_file(wild / WEIGHTS).items()}
    save_file(weights, wild / WEIGHTS)
    llm.load_adapter(wild)
    for judges in (False, True):
        forget_blocks(llm)
        with pytest.raises(ModelError):
            llm.score([PAST], "wild") if judges else ask(llm, PAST, "wild")
        answer = ask(llm, PAST)
        assert (answer.token_ids, answer.metrics.cached_tokens) == (expected, 0)


def test_the_engines_policy_holds_for_requests_that_name_none(folder: Path) -> None:
    llm = LLM(folder / "model", dtype="float32", block_size=BLOCK_SIZE, kv_cache_memory="1MiB", kv_policy="keep")
    llm.load_adapter(folder / "a")
    ask(llm, PAST)
    assert cached(llm, PAST, "a", kv_policy="exact") == 0
    output = ask(llm, PAST, "a")
    assert (output.kv_policy, output.metrics.cached_tokens) == ("keep", 20)


@needs_alora
def test_an_activated_adapter_reuses_the_bases_cache_and_answers_as_its_oracle(llm: LLM, folder: Path) -> None:
    ask(llm, PAST)
    prompt = [*PAST, *INVOCATION, 50, 51]
    output = ask(llm, prompt, "activated")
    assert output.metrics.cached_tokens == 20
    base = reference_model(folder / "model")
    adapted = reference_model(folder / "model", [(folder / "activated", 1.0)])
    oracle = Activated(base, adapted, len(PAST))
    assert_greedy_matches(oracle, prompt, output.token_ids)
    assert ask(llm, prompt, "activated").token_ids == output.token_ids
    assert ask(llm, prompt, "activated").metrics.cached_tokens == 24
    assert ask(llm, prompt).token_ids != output.token_ids
    half = ask(llm, prompt, "activated:0.5")
    adapted = reference_model(folder / "model", [(folder / "activated", 0.5)])
    assert_greedy_matches(Activated(base, adapted, len(PAST)), prompt, half.token_ids)


@needs_alora
def test_the_base_reuses_what_stood_before_an_activation_and_nothing_behind_it(llm: LLM) -> None:
    prompt = [*PAST, *INVOCATION, *range(50, 60)]
    ask(llm, prompt, "activated")
    assert cached(llm, prompt) == 20


@needs_alora
def test_only_the_last_invocation_counts(llm: LLM, folder: Path) -> None:
    early = [*PAST, *INVOCATION, *range(50, 60)]
    first = ask(llm, early, "activated")
    late = [*early, *INVOCATION, 61]
    output = ask(llm, late, "activated")
    assert output.metrics.cached_tokens == 20  # what the first invocation's adapter computed is of no use
    base = reference_model(folder / "model")
    adapted = reference_model(folder / "model", [(folder / "activated", 1.0)])
    assert_greedy_matches(Activated(base, adapted, len(early)), late, output.token_ids)
    assert_greedy_matches(Activated(base, adapted, len(PAST)), early, first.token_ids)


@needs_alora
def test_without_its_invocation_an_activated_adapter_is_the_base(llm: LLM) -> None:
    expected = ask(llm, PAST)
    output = ask(llm, PAST, "activated")
    assert output.token_ids == expected.token_ids and output.metrics.cached_tokens == 20


@needs_alora
def test_an_activated_adapter_stands_alone(llm: LLM) -> None:
    with pytest.raises(MixError, match="'activated' is an activated LoRA, which does not mix; use it alone"):
        ask(llm, PAST, "a:0.5+activated")


@needs_alora
def test_the_past_prefilled_for_an_activated_adapter_is_the_bases(folder: Path, tmp_path: Path) -> None:
    """Each turn invokes it anew, so its own earlier turns are computed as the base."""
    llm = LLM(folder / "model", dtype="float32", block_size=BLOCK_SIZE, kv_cache_memory="1MiB")
    turn = llm._core.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    path = tiny_adapter(tmp_path / "assistant", folder / "model", alora_invocation_tokens=turn)
    llm.load_adapter(path)
    past = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "the quick brown fox"}]
    length = llm.prefill(past, "assistant").prompt_tokens
    messages = [*past, {"role": "user", "content": "the lazy dog"}]
    for mix in ("base", "assistant"):
        [output] = llm.chat([messages], GREEDY, mix)
        assert output.metrics.cached_tokens >= length // BLOCK_SIZE * BLOCK_SIZE


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(folder / "model", dtype="float32", block_size=BLOCK_SIZE, kv_cache_memory="1MiB", max_loras=1)
    await engine.load_adapter(folder / "a")
    await engine.load_adapter(folder / "b")
    while any(info.effect is None for info in engine.adapters):  # or its steps would come between the tests'
        await asyncio.sleep(0.001)
    yield engine
    await engine.close()
    core = engine._core
    assert not core._running and not core.scheduler.has_work()
    assert core.pool.num_free == core.pool.num_blocks and core.adapters.slots.num_pins == 0


async def finish(engine: AsyncEngine, prompt: Sequence[int], mix: str) -> Metrics:
    events = [event async for event in engine.generate(list(prompt), GREEDY, mix)]
    assert isinstance(events[-1], FinishEvent)
    return events[-1].output.metrics


async def test_a_background_prefill_warms_the_cache(engine: AsyncEngine) -> None:
    output = await engine.prefill(PAST, "a")
    assert (output.token_ids, output.metrics.prompt_tokens) == ([], 22)
    assert (await finish(engine, PAST, "a")).cached_tokens == 20


class Pause:
    """Stops the engine after its next step, until `end` is called."""

    def __init__(self, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._reached, self._ended = threading.Event(), threading.Event()
        self._step = engine._core.step
        monkeypatch.setattr(engine._core, "step", self._pause)
        self.end = self._ended.set

    def _pause(self) -> list[Event]:
        events = self._step()
        self._reached.set()
        assert self._ended.wait(60)
        return events

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 60)


async def test_requests_overtake_a_background_prefill_though_it_has_the_only_slot(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    async def note(name: str, work: Coroutine[Any, Any, object]) -> None:
        await work
        order.append(name)

    pause = Pause(engine, monkeypatch)
    prefill = asyncio.create_task(note("prefill", engine.prefill(LONG, "a")))
    await pause.reached()
    assert [seq.num_computed_tokens for seq in engine._core.scheduler.running] == [128]
    answers = [asyncio.create_task(note("answer", finish(engine, PAST, mix))) for mix in ("b", "base")]
    await asyncio.sleep(0)
    pause.end()
    await asyncio.gather(*answers, prefill)
    assert order == ["answer", "answer", "prefill"]
    assert (await finish(engine, LONG, "a")).cached_tokens == 496


async def test_cancelling_a_prefill_ends_it(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = Pause(engine, monkeypatch)
    prefill = asyncio.create_task(engine.prefill(LONG, "a"))
    await pause.reached()
    prefill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await prefill
    pause.end()
    assert (await finish(engine, PAST, "b")).prompt_tokens == 22
    assert not engine._core._running


async def test_an_aborted_prefill_says_so(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = Pause(engine, monkeypatch)
    prefill = asyncio.create_task(engine.prefill(LONG, "a", request_id="warm"))
    await pause.reached()
    engine.abort("warm")
    pause.end()
    assert (await prefill).finish_reason == "abort"
