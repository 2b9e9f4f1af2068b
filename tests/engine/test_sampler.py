"""The sampler draws what its parameters say, from noise that depends on nothing but the seed and the position."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mp13.engine.execution.sampler import sample, token_logprobs, uniform
from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.sequence import Sequence

VOCAB_SIZE = 40
EOS = 2


def sequence(position: int = 5, **params: Any) -> Sequence:
    """A sequence whose next token stands at `position`, drawn with the seed in `params`."""
    made = SamplingParams(**params)
    return Sequence("r", [0] * position, made, seed=made.seed or 0)


def draw(logits: torch.Tensor, seqs: list[Sequence]) -> list[int | None]:
    return sample(logits.clone(), seqs)


def random_logits(rows: int, seed: int, ties: bool = False) -> torch.Tensor:
    logits = torch.randn(rows, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    return logits.round() if ties else logits


def by_the_book(logits: list[float], params: SamplingParams) -> list[float]:
    """The distribution, written down from the definitions; ties at a border are all kept by top_k, and cut by top_p in
    order of token id."""
    weights = [math.exp((x - max(logits)) / params.temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: (-weights[i], i))
    if params.top_k:
        least = weights[order[min(params.top_k, len(order)) - 1]]
        weights = [w if w >= least else 0.0 for w in weights]
    total, mass, kept = sum(weights), 0.0, set()
    for i in order:
        if mass < params.top_p * total:
            kept.add(i)
        mass += weights[i]
    if params.top_p < 1:
        weights = [w if i in kept else 0.0 for i, w in enumerate(weights)]
    weights = [w if w >= params.min_p * max(weights) else 0.0 for w in weights]
    return [w / sum(weights) for w in weights]


def drawn_by_the_book(distribution: list[float], seed: int, position: int) -> set[int]:
    """The token under the noise; both neighbours where rounding decides."""
    noise, mass, found = uniform(seed, position), 0.0, set()
    for token_id, p in enumerate(distribution):
        if p > 0 and mass - 1e-5 <= noise <= mass + p + 1e-5:
            found.add(token_id)
        mass += p
    return found


random_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 5, 39, 40, 1000]),
    top_p=st.sampled_from([1.0, 0.999, 0.87, 0.51, 0.05, 1e-9]),
    min_p=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=100)
@given(params=random_params, logits_seed=st.integers(0, 10_000), ties=st.booleans(), position=st.integers(1, 4000))
def test_a_token_is_drawn_from_the_distribution_by_the_book(
    params: SamplingParams, logits_seed: int, ties: bool, position: int
) -> None:
    logits = random_logits(1, logits_seed, ties)
    seq = Sequence("r", [0] * position, params, seed=params.seed or 0)
    [token_id] = draw(logits, [seq])
    assert token_id in drawn_by_the_book(by_the_book(logits[0].tolist(), params), seq.seed, position)


def support(logits: torch.Tensor, params: dict[str, Any], count: int = 400) -> dict[int, float]:
    """Which tokens are drawn, and how often, over `count` positions."""
    rows = logits.expand(count, -1)
    drawn = draw(rows, [sequence(position, seed=3, **params) for position in range(1, count + 1)])
    return {token_id: n / count for token_id, n in Counter(drawn).items() if token_id is not None}


@pytest.mark.parametrize("logits_seed", range(6))
@pytest.mark.parametrize(
    "params",
    [{"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.1}, {"temperature": 2.5, "top_k": 9, "top_p": 0.8, "min_p": 0.05}],
    ids=str,
)
def test_the_distribution_is_the_one_of_transformers(params: dict[str, Any], logits_seed: int) -> None:
    logits = random_logits(1, logits_seed)
    scores, ids = logits, torch.zeros(1, 1, dtype=torch.long)
    for name, warper in (
        ("temperature", TemperatureLogitsWarper), ("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper),
        ("min_p", MinPLogitsWarper),
    ):  # fmt: skip
        if name in params:
            scores = warper(params[name])(ids, scores)
    expected = scores.softmax(-1)[0]
    found = support(logits, params)
    assert all(expected[token_id] > 0 for token_id in found)
    likely = {i for i, p in enumerate(expected.tolist()) if p > 0.03}  # never seen in 400 draws: one in 200,000
    assert likely <= found.keys()
    for token_id, share in found.items():
        p = float(expected[token_id])
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 400) + 1e-9


def test_ties_at_the_border_of_top_k_are_all_kept_as_in_transformers() -> None:
    logits = torch.full((1, VOCAB_SIZE), -9.0)
    logits[0, [4, 7, 11, 30]] = torch.tensor([2.0, 1.0, 1.0, 1.0])
    assert support(logits, {"top_k": 2}).keys() == {4, 7, 11, 30}
    assert support(logits, {"top_k": 1}).keys() == {4}


def test_ties_at_the_border_of_top_p_are_cut_in_order_of_token_id() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    assert support(logits, {"top_p": 2.5 / VOCAB_SIZE}).keys() == {0, 1, 2}
    assert support(logits, {"top_p": 1e-12}).keys() == {0}


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 10,000 draws with fixed seeds; 39 degrees of freedom exceed 72.1 once in a thousand times."""
    logits = random_logits(1, 1) / 3
    count, expected = 10_000, logits.double().softmax(-1)[0]
    seqs = [sequence(seed=seed) for seed in range(count)]
    drawn = torch.tensor(draw(logits.expand(count, -1), seqs))
    observed = drawn.bincount(minlength=VOCAB_SIZE).double()
    chi_square = ((observed - count * expected) ** 2 / (count * expected)).sum()
    assert 15 < chi_square < 72.1


def test_neighbouring_seeds_and_positions_draw_independently() -> None:
    noise = torch.tensor(
        [[uniform(seed, position) for position in range(200)] for seed in range(200)], dtype=torch.float64
    )
    assert abs(noise.mean() - 0.5) < 0.01 and noise.min() >= 0 and noise.max() < 1
    for left, right in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise, noise.T)):
        correlation = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1]
        assert abs(correlation) < 0.02 or torch.equal(left, right)
    assert len(noise.unique()) == noise.numel()


def test_the_noise_is_the_same_on_every_machine() -> None:
    assert [uniform(*pair) for pair in ((0, 0), (0, 1), (1, 0), (2**63 - 1, 10**6))] == [
        0.7542787996446465, 0.36572331752750764, 0.9862645497154269, 0.8523223853455768,
    ]  # fmt: skip


mixed_rows = st.lists(st.one_of(random_params, st.just(SamplingParams(temperature=0))), min_size=1, max_size=8)


@settings(max_examples=60)
@given(params=mixed_rows, logits_seed=st.integers(0, 10_000), ties=st.booleans(), data=st.data())
def test_a_row_is_drawn_alone_as_in_any_batch(
    params: list[SamplingParams], logits_seed: int, ties: bool, data: st.DataObject
) -> None:
    logits = random_logits(len(params), logits_seed, ties)
    seqs = [Sequence(str(i), [0] * (i + 3), p, seed=p.seed or 0) for i, p in enumerate(params)]
    together = draw(logits, seqs)
    assert together == [draw(logits[i : i + 1], seqs[i : i + 1])[0] for i in range(len(seqs))]
    order = data.draw(st.permutations(range(len(seqs))))
    assert draw(logits[order], [seqs[i] for i in order]) == [together[i] for i in order]


@pytest.mark.parametrize("company", [{"top_p": 0.5}, {"top_k": 1}, {"min_p": 0.9}, {"temperature": 0}], ids=str)
def test_a_row_without_filters_keeps_its_whole_tail_in_any_company(
    company: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at a mass of 1, top_p would take the unlikeliest tokens away by rounding, and from all rows of its batch."""
    monkeypatch.setattr("mp13.engine.execution.sampler.uniform", lambda seed, position: 1 - 2**-53)
    logits = torch.randn(1, 60_000, generator=torch.Generator().manual_seed(0)).sort(descending=True).values * 3
    assert draw(logits.expand(2, -1), [sequence(), sequence(**company)])[0] == 59_999


@pytest.mark.parametrize("top_p", [1e-9, 1e-300])
def test_the_smallest_top_p_keeps_one_token(top_p: float) -> None:
    logits = random_logits(8, 3)
    assert draw(logits, [sequence(top_p=top_p, seed=i) for i in range(8)]) == logits.argmax(-1).tolist()


def test_greedy_takes_the_likeliest_token_and_of_equals_the_first() -> None:
    logits = random_logits(8, 5, ties=True)
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert draw(logits, [sequence(temperature=0) for _ in range(8)]) == expected
    assert draw(logits, [sequence(top_k=1, top_p=1e-9, seed=i) for i in range(8)]) == expected


def test_greedy_does_not_depend_on_seed_or_filters() -> None:
    logits = random_logits(1, 5)
    seqs = [sequence(temperature=0, seed=seed, top_k=2, top_p=0.1, min_p=0.5) for seed in range(4)]
    assert len({draw(logits, [seq])[0] for seq in seqs}) == 1


@pytest.mark.parametrize("temperature", [1e-30, 5e-324, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_smallest_temperature_is_greedy(temperature: float, dtype: torch.dtype) -> None:
    logits = random_logits(8, 3).to(dtype)
    seqs = [sequence(temperature=temperature, seed=i, top_p=0.9, min_p=0.1) for i in range(8)]
    assert draw(logits, seqs) == logits.float().argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e30, 1e300, 10**400])
def test_the_largest_temperature_makes_all_tokens_alike_but_the_forbidden(temperature: float) -> None:
    logits = random_logits(1, 3)
    logits[0, 7:] = -math.inf
    assert support(logits, {"temperature": temperature}).keys() == set(range(7))


@settings(max_examples=50)
@given(seed=st.integers(0, 2**63 - 1), position=st.integers(1, 500), last=st.booleans())
def test_a_token_of_probability_zero_is_never_drawn(seed: int, position: int, last: bool) -> None:
    logits = torch.full((1, VOCAB_SIZE), -math.inf)
    logits[0, [3, 5] if last else [0, VOCAB_SIZE - 1]] = 1.0
    assert draw(logits, [sequence(position, seed=seed)])[0] in ([3, 5] if last else [0, VOCAB_SIZE - 1])


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-53, 0.5])
@pytest.mark.parametrize("size", [1.0, 0.3, 1e-20, 7.0])
def test_the_ends_of_the_noise_fall_on_tokens(noise: float, size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mp13.engine.execution.sampler.uniform", lambda seed, position: noise)
    logits = torch.full((1, VOCAB_SIZE), -math.inf)
    logits[0, 4:36] = torch.arange(32) * size
    assert draw(logits, [sequence()])[0] in range(4, 36)


def test_noise_stays_below_one_whatever_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ones:
        def __init__(self, data: bytes) -> None: ...

        def digest(self) -> bytes:
            return b"\xff" * 32

    monkeypatch.setattr("hashlib.sha256", Ones)
    assert uniform(1, 1) == 1 - 2**-53


@pytest.mark.parametrize("temperature", [0, 1])
def test_neither_eos_nor_a_stop_token_comes_before_min_tokens(temperature: float) -> None:
    logits = torch.full((1, VOCAB_SIZE), -5.0)
    logits[0, [EOS, 9, 10]] = torch.tensor([90.0, 80.0, 70.0])
    params = SamplingParams(temperature=temperature, min_tokens=2, max_tokens=9)
    seq = Sequence("r", [0], params, ending=frozenset({EOS, 9, 999}))
    for expected in (10, 10, EOS):
        [token_id] = draw(logits, [seq])
        assert token_id == expected
        seq.token_ids.append(10)


def answering(prompt: list[int], answer: list[int], **params: Any) -> Sequence:
    seq = Sequence("r", list(prompt), SamplingParams(**params), seed=7)
    seq.token_ids += answer
    return seq


@pytest.mark.parametrize("penalty", [1.3, 0.7, 100.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_repetition_penalty_is_the_one_of_transformers(penalty: float, dtype: torch.dtype) -> None:
    """It counts prompt and answer, each token once."""
    prompt, answer = [3, 4, 4, 5, 6, 7, 8, 9, 10, 11], [20, 21, 20, 3]
    for seed in range(20):
        logits = random_logits(1, seed).to(dtype)
        processor = RepetitionPenaltyLogitsProcessor(penalty)
        expected = processor(torch.tensor([prompt + answer]), logits.float().clone())
        assert draw(logits, [answering(prompt, answer, temperature=0, repetition_penalty=penalty)]) == [
            int(expected.argmax())
        ]
        random = {"temperature": 0.8, "top_k": 7, "top_p": 0.9}
        assert draw(logits, [answering(prompt, answer, repetition_penalty=penalty, **random)]) == draw(
            expected, [answering(prompt, answer, **random)]
        )


@pytest.mark.parametrize("presence", [0, 0.8, -1.5])
@pytest.mark.parametrize("frequency", [0, 0.5, -0.3, 2])
def test_presence_and_frequency_count_the_answer_alone(presence: float, frequency: float) -> None:
    prompt, answer = [3, 4, 5], [20, 21, 20, 20, 4]
    penalties = {"presence_penalty": presence, "frequency_penalty": frequency}
    for seed in range(20):
        logits = random_logits(1, seed)
        expected = logits.clone()
        for token_id, times in ((20, 3), (21, 1), (4, 1)):
            expected[0, token_id] -= presence + frequency * times
        for random in ({"temperature": 0}, {"temperature": 1.2}):
            assert draw(logits, [answering(prompt, answer, **penalties, **random)]) == draw(
                expected, [answering(prompt, answer, **random)]
            )


def test_all_penalties_act_together_repetition_first() -> None:
    logits = torch.full((1, VOCAB_SIZE), -9.0)
    logits[0, [8, 9, 10]] = torch.tensor([4.0, 1.4, 0.9])
    seq = answering([8], [8, 8], temperature=0, repetition_penalty=2, presence_penalty=0.3, frequency_penalty=0.1)
    assert draw(logits, [seq]) == [8]  # 4 / 2 - 0.3 - 2 * 0.1 = 1.5; the other way round 1.75
    logits[0, 9] = 1.6
    assert draw(logits, [seq]) == [9]


def test_penalties_leave_the_neighbours_alone() -> None:
    logits = random_logits(3, 4)
    plain = [sequence(seed=i) for i in range(3)]
    alone = draw(logits, plain)
    punished = answering([3], list(range(30)), repetition_penalty=5, presence_penalty=2, frequency_penalty=2)
    assert draw(logits, [plain[0], punished, plain[2]])[::2] == alone[::2]


def test_a_penalty_does_not_bring_back_what_min_tokens_forbids() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, EOS] = 90
    favour = {"repetition_penalty": 0.01, "presence_penalty": -2, "frequency_penalty": -2}
    seq = answering([EOS], [EOS], temperature=0, min_tokens=5, **favour)
    seq.ending = frozenset({EOS})
    assert draw(logits, [seq]) != [EOS]


def test_logprobs_are_of_the_token_and_of_the_likeliest_in_order() -> None:
    log_probs = random_logits(3, 9).log_softmax(-1)
    seqs = [answering([3], [4], logprobs=n) for n in (0, 3, 20)]
    nothing, three, none = token_logprobs(log_probs, seqs, [5, 6, None])
    assert none is None and nothing is not None and three is not None
    assert (nothing.token_id, nothing.top) == (5, ()) and nothing.logprob == float(log_probs[0, 5])
    order = log_probs[1].argsort(descending=True)[:3].tolist()
    assert three.top == tuple((token_id, float(log_probs[1, token_id])) for token_id in order)
    assert len(token_logprobs(log_probs[:1, :7], seqs[2:], [1])[0].top) == 7  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_row_that_is_not_finite_gives_no_token_and_leaves_the_others_alone(bad: float, temperature: float) -> None:
    logits = random_logits(4, 2)
    good = draw(logits, [sequence(temperature=temperature, top_p=0.9, seed=i) for i in range(4)])
    logits[1, 7] = bad
    mixed = draw(logits, [sequence(temperature=temperature, top_p=0.9, seed=i) for i in range(4)])
    assert mixed == [good[0], None, good[2], good[3]]


@pytest.mark.parametrize("temperature", [0, 1])
def test_where_every_token_is_forbidden_there_is_none(temperature: float) -> None:
    seqs = [sequence(temperature=temperature, min_tokens=1), sequence(seed=1)]
    seqs[0].ending = frozenset(range(VOCAB_SIZE))
    assert [token_id is None for token_id in draw(random_logits(2, 2), seqs)] == [True, False]
