"""Many callers, one engine: the answers are those of `LLM`, and whoever leaves takes everything along that was his."""

import asyncio
import gc
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mp13 import LLM, AsyncEngine, SamplingParams
from mp13.engine.request import Activity, FinishEvent, RequestOutput, TokenEvent
from mp13.errors import AdapterError, ConfigError, ContextError, MixError, ModelError, Mp13Error
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

OPTIONS: dict[str, Any] = {"dtype": "float32", "kv_cache_memory": "256KiB", "block_size": 4, "max_model_len": 300}
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=250, ignore_eos=True)
PROMPTS = [[5 + i, 6, 7, 8, 9] for i in range(6)]
MIXES = ["base", "a", "b", "a:0.5+b:0.5", "a", "base"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("async")
    tiny_model(folder / "model")
    for seed, name in enumerate("ab"):
        tiny_adapter(folder / name, folder / "model", targets=LLAMA_LINEARS, seed=seed, rank=3 + seed)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    llm = LLM(folder / "model", **OPTIONS)
    for name in "ab":
        llm.load_adapter(folder / name)
    return [llm.generate([p], GREEDY, mix)[0].token_ids for p, mix in zip(PROMPTS, MIXES, strict=True)]


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(folder / "model", **OPTIONS)
    for name in "ab":
        await engine.load_adapter(folder / name)
    yield engine
    await until_idle(engine)
    await engine.close()
    core = engine._core
    assert core.pool.num_free == core.pool.num_blocks and core.adapters.slots.num_pins == 0
    assert not core._running and not engine._thread._deliver and not +core.adapters._users


async def until_idle(engine: AsyncEngine) -> None:
    async with asyncio.timeout(20):
        while engine._core.has_work() or not engine._thread._jobs.empty():
            await asyncio.sleep(0.005)
        await engine._thread.call(lambda: None)  # the engine's thread may still be in the middle of its last job


async def answer(
    engine: AsyncEngine, prompt: Any, params: SamplingParams = GREEDY, mix: str | None = None
) -> RequestOutput:
    """The output; what was streamed before must add up to it, but for half a character of an aborted one."""
    ids, text = [], ""
    async for event in engine.generate(prompt, params, mix):
        if isinstance(event, FinishEvent):
            output = event.output
            assert ids == output.token_ids and (text == output.text or output.finish_reason == "abort")
            return output
        ids.append(event.token_id)
        text += event.text
    raise AssertionError("the iterator ended without a FinishEvent")


async def test_concurrent_answers_are_those_of_llm(engine: AsyncEngine, expected: list[list[int]]) -> None:
    outputs = await asyncio.gather(*(answer(engine, p, GREEDY, mix) for p, mix in zip(PROMPTS, MIXES, strict=True)))
    assert [output.token_ids for output in outputs] == expected
    assert [output.adapters for output in outputs] == MIXES


async def test_a_text_and_a_conversation_are_prompts_too(engine: AsyncEngine, folder: Path) -> None:
    llm = LLM(folder / "model", **OPTIONS)
    messages = [{"role": "user", "content": "hello"}]
    assert (await answer(engine, messages)).token_ids == llm.chat([messages], GREEDY)[0].token_ids
    assert (await answer(engine, "hello")).token_ids == llm.generate(["hello"], GREEDY)[0].token_ids


async def test_callers_on_several_event_loops_share_the_engine(engine: AsyncEngine, expected: list[list[int]]) -> None:
    def elsewhere(index: int) -> list[int]:
        return asyncio.run(answer(engine, PROMPTS[index], GREEDY, MIXES[index])).token_ids

    found = await asyncio.gather(*(asyncio.to_thread(elsewhere, index) for index in range(3)))
    assert found == expected[:3]


async def test_leaving_the_iterator_aborts_the_request(engine: AsyncEngine) -> None:
    async with aclosing(engine.generate(PROMPTS[0], LONG, "a")) as events:
        async for _ in events:
            break
    await until_idle(engine)
    assert engine._core.pool.num_free == engine._core.pool.num_blocks


async def test_dropping_the_iterator_aborts_the_request(engine: AsyncEngine) -> None:
    events = engine.generate(PROMPTS[0], LONG, "a")
    await anext(events)
    del events
    gc.collect()
    await asyncio.sleep(0)
    await until_idle(engine)
    assert engine._core.adapters.slots.num_pins == 0


async def test_a_cancelled_caller_aborts_his_request_and_no_other(
    engine: AsyncEngine, expected: list[list[int]]
) -> None:
    started = asyncio.Event()

    async def listen() -> None:
        async for _ in engine.generate(PROMPTS[0], LONG, "a"):
            started.set()

    task = asyncio.create_task(listen())
    await started.wait()
    other = asyncio.create_task(answer(engine, PROMPTS[1], GREEDY, MIXES[1]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await other).token_ids == expected[1]


async def compared(
    engine: AsyncEngine, prompt: Any, params: SamplingParams, mixes: list[str]
) -> tuple[list[RequestOutput], list[int]]:
    """The outputs in the order of the mixes, and which answer each of the tokens belonged to as they came."""
    outputs: dict[int, RequestOutput] = {}
    order: list[int] = []
    ids: dict[int, list[int]] = {}
    async for index, event in engine.compare(prompt, params, mixes):
        if isinstance(event, FinishEvent):
            outputs[index] = event.output
        else:
            order.append(index)
            ids.setdefault(index, []).append(event.token_id)
    assert all(outputs[index].token_ids == ids[index] for index in outputs)
    return [outputs[index] for index in range(len(mixes))], order


async def test_mixes_are_compared_in_the_same_steps_each_as_it_answers_alone(engine: AsyncEngine) -> None:
    mixes = ["base", "a", "b", "a:0.5+b:0.5"]
    alone = [(await answer(engine, PROMPTS[0], GREEDY, mix)).token_ids for mix in mixes]
    outputs, order = await compared(engine, PROMPTS[0], GREEDY, mixes)
    assert [output.token_ids for output in outputs] == alone
    assert [output.adapters for output in outputs] == mixes
    assert order == [0, 1, 2, 3] * 8  # in lockstep: one packed pass makes a token of each


async def test_compared_answers_share_their_noise(engine: AsyncEngine) -> None:
    random = SamplingParams(temperature=1.5, max_tokens=12, ignore_eos=True)
    first, _ = await compared(engine, PROMPTS[0], random, ["base", "a:0", "a"])
    assert len({output.seed for output in first}) == 1
    assert first[0].token_ids == first[1].token_ids != first[2].token_ids
    second, _ = await compared(engine, PROMPTS[0], random, ["base"])
    assert second[0].seed != first[0].seed


async def test_leaving_a_comparison_aborts_all_of_it(engine: AsyncEngine) -> None:
    async with aclosing(engine.compare(PROMPTS[0], LONG, ["base", "a", "b"])) as events:
        await anext(events)
    await until_idle(engine)
    assert not engine._core._running


async def test_an_answer_aborted_in_a_comparison_leaves_the_others_running(engine: AsyncEngine) -> None:
    outputs = []
    async for index, event in engine.compare(PROMPTS[0], LONG, ["base", "a"]):
        if isinstance(event, FinishEvent):
            outputs.append((index, event.output.finish_reason))
        elif index == 1:
            engine.abort(event.request_id)
    assert outputs == [(1, "abort"), (0, "length")]


@pytest.mark.parametrize("mixes", [["base", "nobody"], ["nobody", "base"]])
async def test_a_comparison_with_a_mix_that_cannot_run_does_not_begin(engine: AsyncEngine, mixes: list[str]) -> None:
    with pytest.raises(MixError, match="nobody"):
        await anext(engine.compare(PROMPTS[0], LONG, mixes))
    assert not engine._core._running


async def test_an_error_of_one_ends_the_whole_comparison(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine._core._append

    def append(seq: Any, sampled: Any) -> Any:
        if seq.adapters and seq.num_generated_tokens == 3:
            raise OverflowError("no such token")
        return real(seq, sampled)

    monkeypatch.setattr(engine._core, "_append", append)
    with pytest.raises(OverflowError, match="no such token"):
        await compared(engine, PROMPTS[0], LONG, ["base", "a"])
    await until_idle(engine)
    assert not engine._core._running


async def test_a_running_answer_can_be_looked_at(engine: AsyncEngine) -> None:
    async with aclosing(engine.generate(PROMPTS[0], LONG, "a", "mine")) as events:
        event = await anext(events)
        seen = engine.output_so_far(event.request_id)
        assert seen is not None and seen.adapters == "a" and seen.members[0][0] == "a"
        assert seen.finish_reason == "abort" and seen.token_ids[0] == event.token_id
    assert engine.output_so_far("nobody") is None


async def test_an_answer_is_judged_as_it_was_said(engine: AsyncEngine) -> None:
    params = SamplingParams(temperature=1, max_tokens=12, ignore_eos=True, seed=5, logprobs=1)
    for prompt in (PROMPTS[0], "hello", [{"role": "user", "content": "hello there"}]):
        output = await answer(engine, prompt, params, "a")
        scored = await engine.score_details(prompt, output.token_ids, ["a", "base"])
        assert scored.token_ids == tuple(output.token_ids) and "".join(scored.texts) == output.text
        assert output.logprobs is not None
        said, base = scored.scores
        assert [score.logprob for score in said] == pytest.approx([e.logprob for e in output.logprobs], abs=1e-4)
        assert [score.best_id for score in said] == [entry.top[0][0] for entry in output.logprobs]
        assert all(score.kl > 0 for score in base) and not any(score.kl for score in said)
        assert [len(texts) for texts in scored.best_texts] == [12, 12]
        decode = engine._core.tokenizer.decode
        assert scored.best_texts[1] == tuple(decode([score.best_id]) for score in base)


async def test_a_text_can_be_judged_behind_a_prompt_or_alone(engine: AsyncEngine) -> None:
    def ids(text: str) -> list[int]:
        return engine._core.tokenizer(text)["input_ids"]  # type: ignore[no-any-return]

    alone = await engine.score_details(None, "the quick brown fox", ["base"])
    assert alone.token_ids == tuple(ids("the quick brown fox")[1:])
    behind = await engine.score_details("the quick", " brown<|im_end|> fox", ["base", "a"])
    assert "".join(behind.texts) == " brown<|im_end|> fox"  # special tokens that a text spells are text
    assert behind.token_ids[: len(ids(" brown"))] == tuple(ids(" brown"))
    assert 2 not in behind.token_ids
    same = await engine.score_details(ids("the quick"), ids(" brown"), ["base", "a"])
    assert same.scores[0][0].logprob == pytest.approx(behind.scores[0][0].logprob, abs=1e-4)
    shown = await engine.score_details("the", [2], ["base"])
    assert shown.token_ids == (2,) and shown.texts == ("",)


@pytest.mark.parametrize(
    ("answer_to_judge", "mixes", "error", "sentence"),
    [
        ("", ["base"], ConfigError, "the answer is empty"),
        ([], ["base"], ConfigError, "the answer is empty"),
        ("fox", [], MixError, "no mix to judge"),
        ("fox", ["base", "nobody"], MixError, "nobody"),
        ([5] * 400, ["base"], ContextError, "over max_model_len"),
        ([9999], ["base"], ConfigError, "token id 9999"),
    ],
)
async def test_what_cannot_be_judged_is_refused(
    engine: AsyncEngine, answer_to_judge: Any, mixes: list[str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        await engine.score_details("hello", answer_to_judge, mixes)


async def test_a_cancelled_judgement_leaves_nothing_behind(engine: AsyncEngine) -> None:
    with held(engine):
        task = asyncio.create_task(engine.score_details(None, [5] * 250, ["base", "a"]))
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    running = asyncio.create_task(engine.score_details(None, [5] * 250, ["base", "a"]))
    await asyncio.sleep(0.02)
    running.cancel()
    await until_idle(engine)


async def test_closing_ends_a_judgement(folder: Path) -> None:
    engine = AsyncEngine(folder / "model", **OPTIONS)
    with held(engine):
        task = asyncio.create_task(engine.score_details(None, [5] * 250, ["base"]))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        await closing
        with pytest.raises(Mp13Error, match=r"aborted|closed"):
            await task
    assert not engine._core.has_work() and engine._core.pool.num_free == engine._core.pool.num_blocks


@contextmanager
def held(engine: AsyncEngine) -> Iterator[None]:
    """Keep the engine's thread busy meanwhile."""
    release = threading.Event()
    engine._thread._jobs.put(lambda: (release.wait(20), None)[1])
    try:
        yield
    finally:
        release.set()


async def test_a_prompt_is_counted_while_the_engine_is_in_the_middle_of_a_step(engine: AsyncEngine) -> None:
    messages = [{"role": "user", "content": "hello"}]
    with held(engine):
        async with asyncio.timeout(10):
            report = await engine.count(messages, "a")
    assert report.prompt_tokens == (await answer(engine, messages)).metrics.prompt_tokens
    with pytest.raises(MixError, match="'nobody', which is not loaded"):
        await engine.count(messages, "nobody")


async def test_an_answer_that_goes_on_streams_what_is_new_and_ends_whole(engine: AsyncEngine) -> None:
    messages = [{"role": "user", "content": "hello"}]
    whole = await answer(engine, messages, SamplingParams(seed=3, max_tokens=12, ignore_eos=True))
    begun = {"role": "assistant", "content": "", "token_ids": whole.token_ids[:5]}
    params, new, so_far = SamplingParams(seed=3, max_tokens=7, ignore_eos=True), [], None
    async for event in engine.generate([*messages, begun], params):
        if isinstance(event, TokenEvent):
            new.append(event.token_id)
            so_far = so_far or engine.output_so_far(event.request_id)
    assert isinstance(event, FinishEvent)
    assert (new, event.output.token_ids, event.output.text) == (whole.token_ids[5:], whole.token_ids, whole.text)
    assert so_far is None or so_far.continued_at == 5  # None where it had ended before we looked


async def test_a_step_that_breaks_the_engines_own_rules_ends_all_requests_and_the_next_are_answered(
    engine: AsyncEngine, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> Any:
        raise AssertionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(engine._core.scheduler, "schedule", broken)
        asked = [answer(engine, prompt) for prompt in PROMPTS]
        async with asyncio.timeout(20):
            ends = await asyncio.gather(*asked, engine.score_details([5], [6], ["base"]), return_exceptions=True)
        assert all(isinstance(end, AssertionError) for end in ends[: len(PROMPTS)])
    assert (await answer(engine, PROMPTS[0])).token_ids == expected[0]


async def test_it_tells_how_many_requests_run_and_wait(folder: Path) -> None:
    heard: list[Activity] = []
    engine = AsyncEngine(folder / "model", **{**OPTIONS, "max_num_seqs": 2}, on_activity=heard.append)
    with held(engine):
        asked = [asyncio.create_task(answer(engine, PROMPTS[0])) for _ in range(3)]
        await asyncio.sleep(0.01)
    await asyncio.gather(*asked)
    await engine.prefill([5, 6, 7], background=True)
    await until_idle(engine)
    await engine.close()
    assert heard[:2] == [Activity(0, 3), Activity(2, 1)]
    assert heard[-1] == Activity(0, 0)
    assert heard.count(Activity(0, 0)) == 1  # what is done in the background is not activity


async def test_a_caller_cancelled_before_his_request_was_added_leaves_none(engine: AsyncEngine) -> None:
    with held(engine):
        task = asyncio.create_task(answer(engine, PROMPTS[0], LONG))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until_idle(engine)
    assert not engine._thread._deliver


async def test_a_caller_who_stops_waiting_for_a_load_does_not_end_the_engine(
    engine: AsyncEngine, folder: Path, expected: list[list[int]]
) -> None:
    with held(engine):
        waiting = [asyncio.create_task(engine.load_adapter(folder / "a", "late")) for _ in range(2)]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(20):
        assert (await answer(engine, PROMPTS[0])).token_ids == expected[0]
    assert "late" not in [info.name for info in engine.adapters]


async def test_abort_by_id_gives_the_iterator_its_end(engine: AsyncEngine) -> None:
    tokens = 0
    async for event in engine.generate(PROMPTS[0], LONG, "a", request_id="mine"):
        if isinstance(event, TokenEvent):
            tokens += 1
            if tokens == 3:
                engine.abort("mine")
        else:
            assert event.output.finish_reason == "abort"
            assert tokens == len(event.output.token_ids) < 250
            break
    engine.abort("mine")
    engine.abort("nobody")
    await until_idle(engine)


async def test_an_id_can_be_used_again_once_its_answer_is_there(engine: AsyncEngine) -> None:
    """Though the iterator of the first answer has not been left, and is thrown away only now."""
    first = engine.generate(PROMPTS[0], GREEDY, request_id="mine")
    async for event in first:
        if isinstance(event, FinishEvent):
            break
    second = engine.generate(PROMPTS[0], LONG, request_id="mine")
    await anext(second)
    await first.aclose()
    await asyncio.sleep(0.02)
    reasons = [event.output.finish_reason async for event in second if isinstance(event, FinishEvent)]
    assert reasons == ["length"]


async def test_an_id_that_is_running_is_refused_and_the_running_one_goes_on(engine: AsyncEngine) -> None:
    events = engine.generate(PROMPTS[0], LONG, request_id="mine")
    await anext(events)
    with pytest.raises(ConfigError, match="'mine' is already running"):
        await anext(engine.generate(PROMPTS[1], GREEDY, request_id="mine"))
    assert [type(event) async for event in events][-1] is FinishEvent


@pytest.mark.parametrize(
    ("prompt", "mix", "error"),
    [
        ([5], "nobody", MixError), ([5], "a+", MixError), ([5] * 300, None, ContextError), ([9999], None, ConfigError),
        ("", None, ConfigError), ([], None, ConfigError), ([{"role": "user"}], None, ConfigError),
    ],
)  # fmt: skip
async def test_a_request_that_cannot_run_raises_from_the_iterator(
    engine: AsyncEngine, prompt: Any, mix: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await anext(engine.generate(prompt, GREEDY, mix))


async def test_an_error_in_a_step_ends_the_requests_of_its_batch_and_the_engine_goes_on(
    engine: AsyncEngine, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_run = engine._core.runner.run
    failed = threading.Event()

    def fails_once(batch: Any) -> Any:
        if batch.num_tokens == 2 and not failed.is_set():  # both requests decode
            failed.set()
            raise RuntimeError("the device is gone")
        return real_run(batch)

    monkeypatch.setattr(engine._core.runner, "run", fails_once)
    ends = await asyncio.gather(*(answer(engine, PROMPTS[0], LONG, mix) for mix in "ab"), return_exceptions=True)
    assert failed.is_set() and [str(end) for end in ends] == ["the device is gone"] * 2
    assert (await answer(engine, PROMPTS[2], GREEDY, MIXES[2])).token_ids == expected[2]


async def test_an_adapter_can_be_replaced_under_a_running_answer_which_keeps_its_weights(
    engine: AsyncEngine, folder: Path, expected: list[list[int]]
) -> None:
    before = (await answer(engine, PROMPTS[1], LONG, "a")).token_ids
    digest = engine.adapters[0].digest
    events = engine.generate(PROMPTS[1], LONG, "a")
    await anext(events)
    await engine.load_adapter(folder / "b", "a")
    after_load = await answer(engine, PROMPTS[2], GREEDY, "a")
    assert after_load.token_ids == expected[2]  # b's, under its new name
    [output] = [event.output async for event in events if isinstance(event, FinishEvent)]
    assert output.token_ids == before
    assert digest not in engine._core.adapters._contents


async def test_an_adapter_can_be_unloaded_under_a_running_answer(engine: AsyncEngine) -> None:
    before = (await answer(engine, PROMPTS[1], LONG, "a")).token_ids
    events = engine.generate(PROMPTS[1], LONG, "a")
    await anext(events)
    await engine.unload_adapter("a")
    with pytest.raises(MixError, match="'a', which is not loaded; loaded are: b"):
        await answer(engine, PROMPTS[1], GREEDY, "a")
    with pytest.raises(AdapterError, match="no adapter 'a' is loaded"):
        await engine.unload_adapter("a")
    [output] = [event.output async for event in events if isinstance(event, FinishEvent)]
    assert output.token_ids == before
    assert len(engine._core.adapters.slots.resident) <= 1


async def test_a_refused_adapter_is_the_callers_error(
    engine: AsyncEngine, folder: Path, expected: list[list[int]]
) -> None:
    broken = Path(shutil.copytree(folder / "a", folder / "broken", dirs_exist_ok=True))
    (broken / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match="damaged"):
        await engine.load_adapter(broken, "a")
    assert [info.name for info in engine.adapters] == ["a", "b"]
    assert (await answer(engine, PROMPTS[1], GREEDY, "a")).token_ids == expected[1]


async def test_closing_ends_running_answers_and_refuses_new_ones(folder: Path) -> None:
    engine = AsyncEngine(folder / "model", **OPTIONS)
    events = [engine.generate(prompt, LONG) for prompt in PROMPTS]
    for one in events:
        await anext(one)
    await engine.close()
    async with asyncio.timeout(20):
        for one in events:
            *_, last = [event async for event in one]
            assert isinstance(last, FinishEvent) and last.output.finish_reason == "abort"
    assert not engine._thread.is_alive
    assert engine._core.pool.num_free == engine._core.pool.num_blocks
    async with asyncio.timeout(20):
        with pytest.raises(Mp13Error, match="the engine is closed"):
            await anext(engine.generate(PROMPTS[0]))
        with pytest.raises(Mp13Error, match="the engine is closed"):
            await engine.load_adapter(folder / "a")
        await engine.close()


async def test_requests_handed_in_while_it_closes_all_get_an_end(folder: Path) -> None:
    engine = AsyncEngine(folder / "model", **OPTIONS)
    with held(engine):
        tasks = [asyncio.create_task(answer(engine, prompt, LONG)) for prompt in PROMPTS]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(answer(engine, prompt, LONG)) for prompt in PROMPTS]
    async with asyncio.timeout(20):
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
    assert [isinstance(end, RequestOutput) for end in ends] == [True] * 6 + [False] * 6
    assert all(isinstance(end, Mp13Error) for end in ends[6:])


async def test_a_caller_whose_loop_is_gone_does_not_keep_the_engine(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Any] = []
    real_step, steps = engine._core.step, []
    monkeypatch.setattr(engine._core, "step", lambda: (steps.append(1), real_step())[1])

    def start_and_leave() -> None:
        loop = asyncio.new_event_loop()
        left.append(engine.generate(PROMPTS[0], LONG, "a"))
        loop.run_until_complete(anext(left[0]))
        loop.close()  # without a word to the generator

    await asyncio.to_thread(start_and_leave)
    await until_idle(engine)
    assert len(steps) < 200  # of the 250 that the answer would have taken


def test_progress_and_errors_of_loading_reach_the_caller(folder: Path) -> None:
    stages: list[tuple[str, float | None]] = []
    engine = AsyncEngine(
        folder / "model", on_progress=lambda stage, fraction: stages.append((stage, fraction)), **OPTIONS
    )
    assert engine.info.model_type == "llama" and engine.info.kv_cache_tokens >= 300
    fractions = [fraction for stage, fraction in stages if stage == "reading weights" and fraction is not None]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    asyncio.run(engine.close())
    with pytest.raises(ModelError, match="nowhere"):
        AsyncEngine(folder / "nowhere")
    with pytest.raises(ConfigError, match="unknown option 'modle'"):
        AsyncEngine(folder / "model", modle=1)
