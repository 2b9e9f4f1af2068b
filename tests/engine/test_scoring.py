"""How mixes judge a text: the numbers are the reference's, whatever is cached, chunked, packed or running beside."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mp13 import LLM, SamplingParams
from mp13.engine import scoring
from mp13.engine.core import EngineCore
from mp13.engine.request import ErrorEvent, Event, FinishEvent, ScoreEvent, TokenEvent, TokenScore
from mp13.engine.scheduling.batch import Batch
from mp13.errors import AdapterError, ConfigError, ContextError, MixError, ModelError, Mp13Error
from tests.engine.tiny_models import (
    HAS_ALORA,
    LLAMA_LINEARS,
    reference_logits,
    reference_model,
    tiny_adapter,
    tiny_model,
)

NAMES = ("a", "b", "c", "d")
OPTIONS: dict[str, Any] = {"dtype": "float32", "block_size": 4, "kv_cache_memory": "512KiB", "max_model_len": 128}
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
TEXT = [(7 * i * i + 11 * i) % 300 + 3 for i in range(60)]
MIXES = ["base", "a", "a:0.5+b:-0.3", "b:0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    tiny_model(folder / "model")
    for seed, name in enumerate(NAMES):
        tiny_adapter(folder / name, folder / "model", targets=LLAMA_LINEARS, seed=seed, rank=2 + seed)
    return folder


def load(folder: Path, **options: Any) -> LLM:
    llm = LLM(folder / "model", **{**OPTIONS, **options})
    for name in NAMES if llm._core.config.max_loras else ():
        llm.load_adapter(folder / name)
    return llm


@pytest.fixture(scope="module")
def shared(folder: Path) -> LLM:
    return load(folder)


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    forget_cache(shared)
    yield shared
    assert_nothing_left(shared._core)


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[torch.Tensor]:
    """Log-probabilities of what follows each token of TEXT, under each of MIXES: (60, vocab_size)"""
    mixes = [[], [("a", 1.0)], [("a", 0.5), ("b", -0.3)], []]
    models = [reference_model(folder / "model", [(folder / name, w) for name, w in mix]) for mix in mixes]
    return [reference_logits(model, TEXT).log_softmax(-1) for model in models]


def forget_cache(llm: LLM) -> None:
    pool = llm._core.pool
    assert pool.num_free == pool.num_blocks
    while pool.num_free:
        pool._take()
    pool._ref_counts = [0] * pool.num_blocks
    pool._free.update(dict.fromkeys(range(pool.num_blocks)))


def assert_nothing_left(core: EngineCore) -> None:
    assert not core.has_work() and not core._running
    assert core.pool.num_free == core.pool.num_blocks
    assert core.adapters.slots.num_pins == 0 and not +core.adapters._users


@contextmanager
def watched(core: EngineCore) -> Iterator[list[Batch]]:
    """The passes that score, as they run."""
    passes: list[Batch] = []
    real = core.runner.logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.runner, "logits", lambda batch: (passes.append(batch), real(batch))[1])
        yield passes


def assert_scores(found: list[TokenScore], log_probs: torch.Tensor, base: torch.Tensor, start: int) -> None:
    """`found` is what the reference's distributions of this mix and of the first say of TEXT from `start` on."""
    rows, first = log_probs[start - 1 : -1], base[start - 1 : -1]
    assert [score.token_id for score in found] == TEXT[start:]
    assert [score.best_id for score in found] == rows.argmax(-1).tolist()
    expected = {
        "logprob": rows.gather(1, torch.tensor(TEXT[start:])[:, None])[:, 0],
        "best_logprob": rows.amax(-1),
        "kl": (first.exp() * (first - rows)).sum(-1),
    }
    for name, values in expected.items():
        torch.testing.assert_close(torch.tensor([getattr(s, name) for s in found]), values, atol=1e-4, rtol=1e-4)


def assert_text_scores(details: list[list[TokenScore]], reference: list[torch.Tensor], start: int = 1) -> None:
    assert len(details) == len(reference)
    for found, log_probs in zip(details, reference, strict=True):
        assert_scores(found, log_probs, reference[0], start)


@pytest.mark.parametrize("family", ["smollm", "qwen3", "gemma2", "gpt2"])
def test_a_score_is_the_log_softmax_of_the_reference(family: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", family)
    targets = ("c_attn", "c_proj") if family == "gpt2" else ("q_proj", "v_proj", "down_proj")
    llm = LLM(model, dtype="float32", kv_cache_memory="4MiB")
    if family != "gpt2":  # whose Conv1D layers take no adapters here
        llm.load_adapter(tiny_adapter(tmp_path / "a", model, targets=targets))
    mixes = [None, "base"] if family == "gpt2" else [None, "a", "a:-0.5"]
    texts = [TEXT[:40], TEXT[3:9], TEXT[20:50]][: len(mixes)]
    for ids, mix, row in zip(texts, mixes, llm.score(texts, mixes), strict=True):
        weight = {"a": 1.0, "a:-0.5": -0.5}.get(mix or "base")
        model_there = reference_model(model, [(tmp_path / "a", weight)] if weight else [])
        expected = reference_logits(model_there, ids).log_softmax(-1)
        assert row[0] is None and len(row) == len(ids)
        for position in range(1, len(ids)):
            assert row[position] == pytest.approx(float(expected[position - 1, ids[position]]), abs=1e-4)


def test_all_mixes_judge_every_token_and_are_compared_with_the_first(llm: LLM, reference: list[torch.Tensor]) -> None:
    [details] = llm.score_details([TEXT], MIXES)
    assert_text_scores(details, reference)
    assert details[3] == details[0]  # weight 0 is the base, to the last bit
    assert all(score.kl == 0 for score in details[0])


def test_judgement_begins_where_it_is_asked_to(llm: LLM, reference: list[torch.Tensor]) -> None:
    details = llm.score_details([TEXT] * 4, MIXES[:2], start=[1, 23, 59, 60])
    for found, start in zip(details, [1, 23, 59, 60], strict=True):
        assert_text_scores(found, reference[:2], start)
    assert llm.score_details([TEXT], MIXES[:2], start=60) == [[[], []]]


def test_a_text_of_one_token_has_nothing_to_judge(llm: LLM) -> None:
    assert llm.score([[5], [5, 6]], "a")[0] == [None]
    assert llm.score([]) == []


@pytest.mark.parametrize("max_tokens", [1, 5, 16])
@pytest.mark.parametrize("max_rows", [1, 7])
def test_a_long_text_goes_in_pieces_that_fit(
    llm: LLM, reference: list[torch.Tensor], max_tokens: int, max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm._core.scheduler, "max_num_batched_tokens", max_tokens)
    monkeypatch.setattr(llm._core.scoring, "_max_rows", max_rows)
    with watched(llm._core) as passes:
        [details] = llm.score_details([TEXT], MIXES[:3], start=20)
    assert_text_scores(details, reference[:3], 20)
    assert all(batch.num_tokens <= max(max_tokens, 3) for batch in passes)  # a token of each mix at least
    assert all(sum(row.num_judged for row in batch.rows) <= max(max_rows, 3) for batch in passes)


def test_no_more_logits_are_made_at_once_than_fit() -> None:
    assert scoring.MAX_LOGITS // 49152 == 682  # 128 MiB in float32
    sizes = [scoring.Scoring(None, None, vocab_size)._max_rows for vocab_size in (320, 262144, 2**26)]  # type: ignore[arg-type]
    assert sizes == [2**25 // 320, 128, 1]


def test_what_stands_before_the_start_comes_from_the_cache(llm: LLM, reference: list[torch.Tensor]) -> None:
    llm.generate([TEXT[:50]], GREEDY)  # the base's cache is warm, a's is not
    with watched(llm._core) as passes:
        for _ in range(2):
            [details] = llm.score_details([TEXT], MIXES[:2], start=42)
            assert_text_scores(details, reference[:2], 42)
    assert [batch.num_tokens for batch in passes] == [59 + (59 - 40), 2 * (59 - 40)]


def test_what_was_judged_is_cached_for_answers(llm: LLM) -> None:
    expected = llm.generate([TEXT], GREEDY, "a")[0]
    forget_cache(llm)
    llm.score([TEXT], "a")
    answer = llm.generate([TEXT], GREEDY, "a")[0]
    assert answer.token_ids == expected.token_ids
    assert (expected.metrics.cached_tokens, answer.metrics.cached_tokens) == (0, 56)
    assert llm.generate([TEXT], GREEDY, "b")[0].metrics.cached_tokens == 0


def test_several_texts_share_a_pass(llm: LLM, reference: list[torch.Tensor]) -> None:
    with watched(llm._core) as passes:
        alone = [llm.score_details([TEXT[i : i + 9]], MIXES)[0] for i in range(4)]
        together = llm.score_details([TEXT[i : i + 9] for i in range(4)], MIXES)
    assert [len(batch.rows) for batch in passes] == [4, 4, 4, 4, 16]
    for one, other in zip(alone, together, strict=True):
        for left, right in zip(one, other, strict=True):
            assert [s.logprob for s in left] == pytest.approx([s.logprob for s in right], abs=1e-5)


def test_more_adapters_than_slots_take_several_passes(folder: Path, llm: LLM) -> None:
    mixes = ["a", "b", "base", "c", "a+b", "d"]
    expected = llm.score_details([TEXT], mixes, 5)
    few = load(folder, max_loras=2, max_cpu_loras=4)
    with watched(few._core) as passes:
        found = few.score_details([TEXT], mixes, 5)
    assert [len(batch.rows) for batch in passes] == [4, 2, 2]  # a with b, base and a+b; then with c; then with d
    for left, right in zip(expected[0], found[0], strict=True):
        assert [s.token_id for s in left] == [s.token_id for s in right] == TEXT[5:]
        for name in ("logprob", "best_logprob", "kl"):
            assert [getattr(s, name) for s in left] == pytest.approx([getattr(s, name) for s in right], abs=1e-4)
    with pytest.raises(MixError, match="a comparison of 4 adapters needs them all at once; raise max_loras = 2"):
        few.score_details([TEXT], ["a+b", "c+d"])
    assert_nothing_left(few._core)


def test_more_mixes_than_the_cache_holds_take_several_passes(
    folder: Path, llm: LLM, reference: list[torch.Tensor]
) -> None:
    narrow = load(folder, kv_cache_memory=30 * 4 * 512, max_model_len=118)  # 30 blocks; TEXT needs 15
    assert narrow._core.pool.num_blocks == 30
    with watched(narrow._core) as passes:
        [details] = narrow.score_details([TEXT], MIXES)
    assert_text_scores(details, reference)
    assert [len(batch.rows) for batch in passes] == [2, 2, 2]
    narrow.score([TEXT + TEXT[:50]])
    with pytest.raises(ContextError, match=r"110 tokens under 2 mixes at once do not fit the KV cache of 120 tokens"):
        narrow.score_details([TEXT + TEXT[:50]], ["base", "a"])
    assert_nothing_left(narrow._core)


@pytest.mark.parametrize(
    ("ids", "mixes", "start", "error", "sentence"),
    [
        ([5, 6], ["nobody"], 1, MixError, "'nobody', which is not loaded"),
        ([5, 6], [], 1, MixError, "no mix to judge"),
        ([], ["base"], 1, ConfigError, "the text has no tokens"),
        ([5, 320], ["base"], 1, ConfigError, "token id 320 is not in the vocabulary"),
        ([5, 6], ["base"], 0, ConfigError, "start = 0 cannot be used; give 1 to 2"),
        ([5, 6], ["base"], 3, ConfigError, "start = 3 cannot be used; give 1 to 2"),
        ([5] * 129, ["base"], 1, ContextError, "129 tokens are over max_model_len = 128"),
    ],
)
def test_a_text_that_cannot_be_judged_is_refused_at_once(
    llm: LLM, ids: list[int], mixes: list[str], start: int, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        llm.score_details([TEXT, ids], mixes, [1, start])


def test_a_text_may_fill_the_whole_context(llm: LLM) -> None:
    assert len(llm.score([[5, 6] * 64], "a")[0]) == 128


def steps(core: EngineCore, count: int = 10**6) -> list[Event]:
    events: list[Event] = []
    while core.has_work() and count:
        events += core.step()
        count -= 1
    return events


def test_answers_and_scores_take_turns(llm: LLM, reference: list[torch.Tensor]) -> None:
    core = llm._core
    alone = llm.generate([TEXT[:9]], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True), "b")[0].token_ids
    answer = core.add(TEXT[:9], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True), "b")
    core.scheduler.max_num_batched_tokens, whole = 12, core.scheduler.max_num_batched_tokens
    try:
        scored = core.score(TEXT, MIXES[:2])
        early = steps(core, 20)
        assert sum(isinstance(event, TokenEvent) for event in early) == 10
        assert any(event.request_id == scored for event in early)  # 20 passes of 6 tokens, in every other step
        rest = steps(core)
    finally:
        core.scheduler.max_num_batched_tokens = whole
    [end] = [event for event in early if isinstance(event, ScoreEvent)]
    assert_text_scores([list(scores) for scores in end.scores], reference[:2])
    [finish] = [event for event in rest if isinstance(event, FinishEvent)]
    assert finish.request_id == answer and finish.output.token_ids == alone


def test_a_long_text_keeps_no_answer_waiting_for_long(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_SHARED_TOKENS", 10)
    core = llm._core
    core.add(TEXT[:9], GREEDY, "b")
    core.score(TEXT, ["base", "a"])
    with watched(core) as passes:
        steps(core)
    assert max(batch.num_tokens for batch in passes[:8]) == 10
    assert passes[-1].num_tokens > 10  # once the answer is out


@pytest.fixture
def short_of_bytes(folder: Path) -> EngineCore:
    """As on a GPU: slots for four adapters, and room in bytes for the two largest of them."""
    core = load(folder, max_loras=4)._core
    core.adapters._max_bytes = core.adapters.slots._max_bytes = sum(
        core.adapters._by_name[name].device_bytes for name in "cd"
    )
    return core


def test_adapters_that_are_too_large_together_are_judged_in_several_passes(
    short_of_bytes: EngineCore, reference: list[torch.Tensor]
) -> None:
    core = short_of_bytes
    core.score(TEXT, ["base", "a", "b", "c", "d"])
    answer = core.add(TEXT[:9], GREEDY, "a")
    with watched(core) as passes:
        (scored,) = [event for event in steps(core) if isinstance(event, ScoreEvent)]
    assert len({frozenset(row.seq.adapters for row in batch.rows) for batch in passes}) > 1
    assert_text_scores([list(scores) for scores in scored.scores[:2]], reference[:2])
    assert answer and len(scored.scores) == 5
    assert_nothing_left(core)


def test_a_comparison_that_never_fits_by_bytes_is_refused_and_keeps_nobody_waiting(short_of_bytes: EngineCore) -> None:
    core = short_of_bytes
    with pytest.raises(MixError, match=r"a comparison of 3 adapters, all at once, takes .* kept for max_loras = 4"):
        core.score(TEXT, ["d", "a", "b+c"])
    core.add(TEXT[:9], GREEDY, "a")
    assert any(isinstance(event, FinishEvent) for event in steps(core))
    assert_nothing_left(core)


def test_scores_that_wait_for_a_slot_get_it_however_many_requests_come(folder: Path) -> None:
    core = load(folder, max_loras=1, max_cpu_loras=4)._core
    core.add(TEXT[:3], GREEDY, "a")
    core.step()
    scored = core.score(TEXT[:9], ["b"])
    for turn in range(100):
        core.add(TEXT[: 2 + turn % 7], GREEDY, "a")  # the slot is never free by itself
        if any(event.request_id == scored for event in core.step()):
            break
    else:
        pytest.fail("the score starved")
    assert sum(isinstance(event, FinishEvent) for event in steps(core)) > 0
    assert_nothing_left(core)


def test_a_request_that_waits_for_a_slot_gets_it_however_many_scores_come(folder: Path) -> None:
    core = load(folder, max_loras=1, max_cpu_loras=4, max_num_batched_tokens=25)._core
    core.score(TEXT, ["b"])
    core.step()
    answer = core.add(TEXT[:9], GREEDY, "a")
    for _ in range(100):
        core.score(TEXT, ["b"])  # 59 tokens: one begins in the pass in which another ends
        if any(event.request_id == answer and isinstance(event, FinishEvent) for event in core.step()):
            break
    else:
        pytest.fail("the request starved")
    assert sum(isinstance(event, ScoreEvent) for event in steps(core)) > 0
    assert_nothing_left(core)


def test_requests_and_scores_that_fill_the_cache_all_come_to_an_end(folder: Path) -> None:
    core = load(folder, kv_cache_memory=24 * 4 * 512, max_model_len=90)._core
    expected = {mix: steps_of(core, mix) for mix in ("a", "b")}
    ids = {}
    for i in range(6):
        ids[core.add(TEXT[:20], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True), "ab"[i % 2])] = "ab"[
            i % 2
        ]
        core.score(TEXT[i : i + 40], ["a", "b"], 3 + i)
    events = steps(core)
    assert sum(isinstance(event, ScoreEvent) for event in events) == 6
    for event in events:
        assert not isinstance(event, ErrorEvent)
        if isinstance(event, FinishEvent):
            assert event.output.token_ids == expected[ids.pop(event.request_id)]
    assert not ids
    assert_nothing_left(core)


def steps_of(core: EngineCore, mix: str) -> list[int]:
    core.add(TEXT[:20], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True), mix)
    [output] = [event.output for event in steps(core) if isinstance(event, FinishEvent)]
    return output.token_ids


def test_aborted_groups_leave_nothing_behind(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    core = llm._core
    monkeypatch.setattr(core.scheduler, "max_num_batched_tokens", 6)
    first, second = core.score(TEXT, ["a", "b"]), core.score(TEXT, ["a"])
    core.step()
    assert core.pool.num_free < core.pool.num_blocks
    for request_id in (second, first):
        [end] = core.abort(request_id)
        assert isinstance(end, ErrorEvent) and "aborted" in str(end.error) and isinstance(end.error, Mp13Error)
        assert core.abort(request_id) == []


def test_an_adapter_unloaded_meanwhile_judges_to_the_end(
    folder: Path, llm: LLM, reference: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = llm._core
    monkeypatch.setattr(core.scheduler, "max_num_batched_tokens", 6)
    core.score(TEXT, ["base", "a"])
    core.step()
    llm.unload_adapter("a")
    [end] = [event for event in steps(core) if isinstance(event, ScoreEvent)]
    assert_text_scores([list(scores) for scores in end.scores], reference[:2])
    llm.load_adapter(folder / "a")


def test_an_error_ends_the_groups_of_its_pass_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    core = llm._core
    expected = llm.generate([TEXT[:9]], GREEDY, "b")[0].token_ids
    answer = core.add(TEXT[:9], GREEDY, "b")
    scored = core.score(TEXT, ["base", "a"])

    def fails(batch: Batch) -> torch.Tensor:
        raise RuntimeError("the kernel failed")

    with monkeypatch.context() as patch:
        patch.setattr(core.runner, "logits", fails)
        events = core.step()
        assert [(type(e), e.request_id) for e in events] == [(ErrorEvent, scored)]
    [finish] = [event for event in steps(core) if isinstance(event, FinishEvent)]
    assert finish.request_id == answer and finish.output.token_ids == expected
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the kernel failed"):
        patch.setattr(core.runner, "logits", fails)
        llm.score([TEXT, TEXT])


def test_a_mix_whose_numbers_overflow_ends_its_group_alone(
    folder: Path, tmp_path: Path, llm: LLM, reference: list[torch.Tensor]
) -> None:
    wild = tiny_adapter(tmp_path / "wild", folder / "model", targets=LLAMA_LINEARS, rank=4, alpha=8)
    config = (wild / "adapter_config.json").read_text()
    (wild / "adapter_config.json").write_text(config.replace('"lora_alpha": 8', '"lora_alpha": 1e31'))
    llm.load_adapter(wild)
    core = llm._core
    bad, good = core.score(TEXT, ["base", "wild"]), core.score(TEXT, ["base", "a"])
    ends = {event.request_id: event for event in steps(core)}
    error, end = ends[bad], ends[good]
    assert isinstance(error, ErrorEvent) and isinstance(end, ScoreEvent)
    assert isinstance(error.error, ModelError) and "not finite numbers; lower the weights" in str(error.error)
    assert_text_scores([list(scores) for scores in end.scores], reference[:2])
    llm.unload_adapter("wild")


def test_an_adapter_that_cannot_be_brought_in_ends_its_group_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    core, slots = llm._core, llm._core.adapters.slots
    real, lost = slots.acquire, {info.name: info.digest for info in llm.adapters}["b"]

    def acquire(adapters: Any) -> bool:
        if any(digest == lost for digest, _ in adapters):
            raise AdapterError("'b' is gone from disk")
        return real(adapters)

    bad, good = core.score(TEXT, ["a", "b"]), core.score(TEXT, ["a"])
    with monkeypatch.context() as patch:
        patch.setattr(slots, "acquire", acquire)
        ends = {event.request_id: event for event in steps(core)}
    error = ends[bad]
    assert isinstance(error, ErrorEvent) and isinstance(error.error, AdapterError)
    assert isinstance(ends[good], ScoreEvent)


@pytest.mark.skipif(not HAS_ALORA, reason="this PEFT knows no activated LoRA")
def test_an_activated_lora_judges_as_it_answers_and_before_its_invocation_as_the_base(
    folder: Path, tmp_path: Path, llm: LLM
) -> None:
    invocation = [7, 8]
    llm.load_adapter(
        tiny_adapter(tmp_path / "active", folder / "model", targets=LLAMA_LINEARS, alora_invocation_tokens=invocation)
    )
    prompt = [*TEXT[:21], *invocation, 9, 10]
    output = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=8, logprobs=0, ignore_eos=True), "active")
    answer = output[0].token_ids
    for start in (1, len(prompt)):
        [[base, active]] = llm.score_details([prompt + answer], ["base", "active"], start)
        said = [entry.logprob for entry in output[0].logprobs or ()]
        assert [score.logprob for score in active[-8:]] == pytest.approx(said, abs=1e-4)
        assert [score.logprob for score in base[-8:]] != pytest.approx(said, abs=0.1)
        if start == 1:  # judging begins at the second token: number 20 is the last before the invocation
            assert [s.logprob for s in active[:21]] == pytest.approx([s.logprob for s in base[:21]], abs=1e-5)
    assert llm.score_details([TEXT], ["base", "active"], 5)[0][1][3].kl == pytest.approx(0, abs=1e-6)  # never invoked
    llm.unload_adapter("active")


def test_a_divergence_is_that_of_the_definition_where_tokens_are_impossible() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]).log()
    q = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]).log()
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2), math.inf]
    assert scoring.kl_divergence(p, q).tolist() == pytest.approx(expected)


def test_without_prefix_caching_the_numbers_are_the_same(folder: Path, reference: list[torch.Tensor]) -> None:
    llm = load(folder, enable_prefix_caching=False)
    for _ in range(2):
        [details] = llm.score_details([TEXT], MIXES, 30)
        assert_text_scores(details, reference, 30)
    assert_nothing_left(llm._core)
