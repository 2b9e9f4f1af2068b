"""One step at a time: what goes wrong with one request ends that request, and leaves nothing behind for the others."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mp13 import LLM, SamplingParams
from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.request import ErrorEvent, Event, FinishEvent, RequestOutput, TokenEvent
from mp13.engine.text.chat_template import ChatMessage
from mp13.errors import ConfigError, ContextError, MixError, ModelError
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
PROMPTS = [[5 + i, 6, 7] for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("core")
    tiny_model(folder / "model")
    tiny_adapter(folder / "a", folder / "model", seed=1)
    tiny_adapter(folder / "b", folder / "model", seed=2, rank=3)
    wild = tiny_adapter(folder / "wild", folder / "model", targets=LLAMA_LINEARS, rank=4, alpha=8)
    config = (wild / "adapter_config.json").read_text()
    assert config.count('"lora_alpha": 8') == 1  # as 1e31 it is finite in float32, but what it computes is not
    (wild / "adapter_config.json").write_text(config.replace('"lora_alpha": 8', '"lora_alpha": 1e31'))
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> EngineCore:
    core = EngineCore(
        EngineConfig(str(folder / "model"), dtype="float32", block_size=4, kv_cache_memory="64KiB", max_model_len=64)
    )
    for name in ("a", "b", "wild"):
        core.load_adapter(folder / name)
    return core


@pytest.fixture
def core(whole: EngineCore) -> Iterator[EngineCore]:
    yield whole
    assert not whole.has_work() and not whole._running
    assert whole.pool.num_free == whole.pool.num_blocks
    assert whole.adapters.slots.num_pins == 0 and not +whole.adapters._users


def run(core: EngineCore) -> dict[str, RequestOutput | Exception]:
    """Step until nothing is left; how each request ended."""
    ends: dict[str, RequestOutput | Exception] = {}
    while core.has_work():
        for event in core.step():
            if isinstance(event, FinishEvent):
                ends[event.request_id] = event.output
            elif isinstance(event, ErrorEvent):
                ends[event.request_id] = event.error
    return ends


def answers(core: EngineCore, mix: str | None = None, params: SamplingParams = GREEDY) -> list[list[int]]:
    ids = [core.add(prompt, params, mix) for prompt in PROMPTS]
    ends = run(core)
    return [ends[request_id].token_ids for request_id in ids]  # type: ignore[union-attr]


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_request_whose_numbers_overflow_ends_with_a_sentence_and_the_others_go_on(
    core: EngineCore, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=6, ignore_eos=True, seed=1)
    alone = answers(core, params=params)
    ids = [core.add(prompt, params) for prompt in PROMPTS]
    wild = core.add([9, 8, 7], params, "wild")
    ends = run(core)
    assert [ends[request_id].token_ids for request_id in ids] == alone  # type: ignore[union-attr]
    assert isinstance(ends[wild], ModelError)
    assert "under 'wild' are not finite numbers; lower the weights" in str(ends[wild])


def test_blocks_that_held_no_numbers_do_not_spoil_their_next_owners(core: EngineCore) -> None:
    """Attention masks the end of a block, but NaN times nothing is NaN."""
    before = answers(core)
    for k, v in zip(core.runner.context.k_cache, core.runner.context.v_cache, strict=True):
        k.fill_(math.nan)
        v.fill_(math.nan)
    core.pool._block_of.clear()
    core.pool._hashes_of.clear()
    assert answers(core) == before


def test_a_shorter_sequence_does_not_read_the_blocks_of_a_wild_one(core: EngineCore) -> None:
    """Short rows of a batch are padded with blocks, and these must not be somebody else's."""
    before = answers(core)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    core.add([5, 6] * 20, params, "wild")  # takes the first free blocks
    ids = [core.add(prompt, GREEDY) for prompt in PROMPTS]
    core.add(list(range(3, 40)), GREEDY)  # and one that makes the rows long
    ends = run(core)
    assert [ends[request_id].token_ids for request_id in ids] == before  # type: ignore[union-attr]


def test_an_error_in_a_step_ends_the_requests_of_that_step_alone(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(core)
    monkeypatch.setattr(core.scheduler, "max_num_seqs", 2)
    ids = [core.add(prompt, GREEDY) for prompt in PROMPTS]
    real_run, calls = core.runner.run, []

    def fails_once(batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 3:
            raise RuntimeError("the kernel failed")
        return real_run(batch)

    monkeypatch.setattr(core.runner, "run", fails_once)
    ends = run(core)
    assert [str(ends[request_id]) for request_id in ids[:2]] == ["the kernel failed"] * 2
    assert [ends[request_id].token_ids for request_id in ids[2:]] == expected[2:]  # type: ignore[union-attr]


def test_an_adapter_for_which_the_device_has_no_room_ends_its_request_alone(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(core)
    linear = core.adapters.slots._linears[0]
    core.adapters.slots.evict(core.adapters.infos[1].digest)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(linear, "write", full)
        ids = [core.add(prompt, GREEDY, mix) for prompt, mix in zip(PROMPTS, [None, "b", None, None], strict=True)]
        ends = run(core)
    assert "no memory left" in str(ends.pop(ids[1]))
    assert [ends[i].token_ids for i in (ids[0], ids[2], ids[3])] == [expected[i] for i in (0, 2, 3)]  # type: ignore[union-attr]
    assert answers(core, "b") != expected


def test_an_answer_that_cannot_be_read_ends_alone(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(core)
    ids = [core.add(prompt, GREEDY) for prompt in PROMPTS]

    def broken(*_: Any, **__: Any) -> Any:
        raise OverflowError("no such token")

    monkeypatch.setattr(core._running[ids[2]].answer, "add", broken)
    ends = run(core)
    assert str(ends.pop(ids[2])) == "no such token"
    assert [ends[i].token_ids for i in (ids[0], ids[1], ids[3])] == [expected[i] for i in (0, 1, 3)]  # type: ignore[union-attr]


def test_an_error_reaches_the_caller_of_llm_and_leaves_it_usable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(folder / "model", dtype="float32", kv_cache_memory="64KiB")
    before = [output.token_ids for output in llm.generate(PROMPTS, GREEDY)]

    def fails(batch: Any) -> Any:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr(llm._core.runner, "run", fails)
        llm.generate(PROMPTS, GREEDY)

    def interrupted(index: int, token_id: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, GREEDY, on_token=interrupted)
    with pytest.raises(MixError):
        llm.generate(PROMPTS, GREEDY, [None, None, None, "nobody"])
    assert not llm._core.has_work()
    assert [output.token_ids for output in llm.generate(PROMPTS, GREEDY)] == before


def test_logprobs_are_the_models_own_whatever_shapes_the_choice(folder: Path) -> None:
    llm = LLM(folder / "model", dtype="float32", kv_cache_memory="64KiB")
    llm.load_adapter(folder / "a")
    shaped = {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.5, "frequency_penalty": 1, "min_tokens": 4}
    asked = [
        SamplingParams(max_tokens=6, seed=3, logprobs=2, **shaped),
        SamplingParams(max_tokens=6, seed=3, **shaped),
        SamplingParams(max_tokens=6, temperature=0, logprobs=0),
    ]
    seen: list[int] = []
    outputs = llm.generate([PROMPTS[0]] * 3, asked, "a", on_token=lambda index, token_id, text: seen.append(index))
    assert outputs[0].token_ids == outputs[1].token_ids and outputs[1].logprobs is None
    for output, count in ((outputs[0], 2), (outputs[2], 0)):
        assert output.logprobs is not None
        assert [entry.token_id for entry in output.logprobs] == output.token_ids
        [scores] = llm.score([PROMPTS[0] + output.token_ids], "a")
        assert [entry.logprob for entry in output.logprobs] == pytest.approx(scores[len(PROMPTS[0]) :], abs=1e-4)
        assert all(len(entry.top) == count for entry in output.logprobs)
    [details] = llm.score_details([PROMPTS[0] + outputs[0].token_ids], ["a"], len(PROMPTS[0]))
    assert [entry.top[0][0] for entry in outputs[0].logprobs or ()] == [score.best_id for score in details[0]]


def test_the_logprob_of_a_token_comes_with_its_event(core: EngineCore) -> None:
    core.add(PROMPTS[0], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=1))
    core.add(PROMPTS[1], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True), request_id="silent")
    events: list[Event] = []
    while core.has_work():
        events += core.step()
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    [output] = [e.output for e in events if isinstance(e, FinishEvent) and e.request_id != "silent"]
    assert tuple(token.logprob for token in tokens if token.request_id != "silent") == output.logprobs
    assert all(token.logprob is None for token in tokens if token.request_id == "silent")


def test_a_penalty_on_repetition_shapes_an_answer(core: EngineCore) -> None:
    """A strong one makes every token of prompt and answer a new one, as long as there are new ones."""
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, repetition_penalty=100)
    core.add([9, 8, 7], params)
    [output] = run(core).values()
    assert isinstance(output, RequestOutput) and len({9, 8, 7, *output.token_ids}) == 23


def test_an_aborted_request_gives_what_it_had(core: EngineCore) -> None:
    request_id = core.add(PROMPTS[0], GREEDY, "a", "mine")
    assert request_id == "mine"
    events: list[Event] = [*core.step(), *core.step()]
    assert [type(event) for event in events] == [TokenEvent, TokenEvent]
    [end] = core.abort("mine")
    assert isinstance(end, FinishEvent)
    assert (end.output.finish_reason, len(end.output.token_ids), end.output.adapters) == ("abort", 2, "a")
    assert core.abort("mine") == [] == core.abort("nobody")


def test_a_request_may_be_aborted_before_it_starts(core: EngineCore) -> None:
    request_id = core.add(PROMPTS[0], GREEDY, "a")
    [end] = core.abort(request_id)
    assert isinstance(end, FinishEvent) and end.output.token_ids == []


@pytest.mark.parametrize(
    ("prompt", "error", "sentence"),
    [
        ([], ConfigError, "is empty"), ("", ConfigError, "is empty"), ([5, 320], ConfigError, "token id 320"),
        ([-1], ConfigError, "token id -1"), (["x"], ConfigError, "token id 'x'"), ([5.0], ConfigError, "token id 5.0"),
        ([5] * 64, ContextError, "has 64 tokens, but the context holds 64"),
        ("word " * 500, ContextError, "but the context holds 64 including the answer; shorten it"),
        ([ChatMessage("user", "x " * 100)], ContextError, "but the context holds 64"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_run_is_refused_at_once(
    core: EngineCore, prompt: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        core.add(prompt, GREEDY, "a")
    assert not core.has_work()


def test_a_prompt_of_all_but_one_token_of_the_context_gets_one_token(core: EngineCore) -> None:
    request_id = core.add([5] * 63, GREEDY)
    output = run(core)[request_id]
    assert isinstance(output, RequestOutput)
    assert (len(output.token_ids), output.finish_reason) == (1, "length")


def test_a_request_id_in_use_is_refused(core: EngineCore) -> None:
    core.add(PROMPTS[0], GREEDY, request_id="mine")
    with pytest.raises(ConfigError, match="'mine' is already running"):
        core.add(PROMPTS[0], GREEDY, request_id="mine")
    run(core)
    core.add(PROMPTS[0], GREEDY, request_id="mine")
    run(core)


@pytest.mark.parametrize("size", ["4096TiB", "9000000TiB"])
def test_a_cache_larger_than_the_machine_is_refused_in_a_sentence(folder: Path, size: str) -> None:
    with pytest.raises(
        ConfigError, match=r"does not fit: cpu has .* left .*; at most kv_cache_memory = '[\d.]+GiB' does"
    ):
        LLM(folder / "model", kv_cache_memory=size)


def test_a_seed_repeats_an_answer_and_without_one_each_is_another(core: EngineCore) -> None:
    def draw(seed: int | None) -> list[int]:
        request_id = core.add([5, 6, 7], SamplingParams(temperature=5.0, max_tokens=12, seed=seed))
        output = run(core)[request_id]
        assert isinstance(output, RequestOutput)
        return output.token_ids

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert draw(None) != draw(None)
