"""How the memory that is left is shared between the cache and the work of a step, and what is said if it is short."""

import pytest

from mp13.engine.config import EngineConfig
from mp13.engine.execution.cache_size import Room, require_step, share_cache, size_cache
from mp13.engine.execution.step_cost import Line, StepCost, measure_step_cost
from mp13.errors import ConfigError

BLOCK = 16 * 100  # bytes: 16 tokens of 100 bytes


def config(**settings: object) -> EngineConfig:
    return EngineConfig("any", **{"max_num_seqs": 4, **settings})  # type: ignore[arg-type]


def room(left: int, step: int = 0, per_token: int = 0, default: int | None = None) -> Room:
    return Room("cuda:0", left, lambda length: step + per_token * length, default)


def test_the_cache_takes_what_all_sequences_can_fill_and_no_more() -> None:
    assert size_cache(config(max_model_len=64), BLOCK, 1000, room(10**9)) == (16, 64)


def test_the_cache_takes_what_the_step_leaves() -> None:
    assert size_cache(config(), BLOCK, 10_000, room(100_000 + 5000, step=5000)) == (62, 992)


def test_where_long_sequences_make_steps_dearer_both_share_the_room() -> None:
    num_blocks, longest = size_cache(config(), BLOCK, 10_000, room(100_000, per_token=300))
    assert longest * 300 + num_blocks * BLOCK <= 100_000 < (longest + 1) * 300 + (num_blocks + 1) * BLOCK
    assert num_blocks * 16 >= longest


@pytest.mark.parametrize("left", [0, 1000, 50_000, 200_000, 10**6])
@pytest.mark.parametrize("wanted", [None, 64, 777, 5000])
def test_a_length_that_is_refused_names_one_that_fits(left: int, wanted: int | None) -> None:
    settings, beside = config(max_model_len=wanted), room(left, step=700, per_token=30)
    try:
        num_blocks, longest = size_cache(settings, BLOCK, 8000, beside)
    except ConfigError as error:
        named = str(error).partition("at most max_model_len = ")[2].partition(" ")[0]
        fits = share_cache(config(), BLOCK, 8000, beside)[1]
        assert int(named or 0) == (fits if fits >= 2 else 0) < (wanted or 2)
        if named:
            assert size_cache(config(max_model_len=int(named)), BLOCK, 8000, beside)[1] == int(named)
            with pytest.raises(ConfigError):
                size_cache(config(max_model_len=int(named) + 1), BLOCK, 8000, beside)
    else:
        assert longest == (wanted or longest) and num_blocks * BLOCK + 700 + 30 * longest <= left


def test_a_cache_too_small_for_the_length_names_the_size_that_holds_it() -> None:
    wanted = config(max_model_len=1600, kv_cache_memory="100KiB")
    with pytest.raises(ConfigError) as caught:
        size_cache(wanted, BLOCK, 8000, room(10**6))
    assert "at most max_model_len = 1024 fits" in str(caught.value)
    named = str(caught.value).partition("kv_cache_memory = '")[2].partition("'")[0]
    assert size_cache(config(max_model_len=1600, kv_cache_memory=named), BLOCK, 8000, room(10**6))[1] == 1600


def test_a_cache_larger_than_what_is_left_names_the_largest() -> None:
    with pytest.raises(
        ConfigError, match=r"kv_cache_memory = '2MiB' does not fit: cuda:0 has 976\.\dKiB left"
    ) as caught:
        size_cache(config(kv_cache_memory="2MiB"), BLOCK, 8000, room(10**6))
    named = str(caught.value).partition("at most kv_cache_memory = '")[2].partition("'")[0]
    num_blocks, _ = size_cache(config(kv_cache_memory=named), BLOCK, 8000, room(10**6))
    assert 0.99 * 10**6 < num_blocks * BLOCK <= 10**6


def test_a_cache_of_a_named_size_has_that_size_whatever_could_be_filled() -> None:
    assert size_cache(config(max_model_len=64, kv_cache_memory=100 * BLOCK), BLOCK, 1000, room(10**9)) == (100, 64)


def test_what_nobody_names_is_no_more_than_the_default() -> None:
    assert size_cache(config(), BLOCK, 8000, room(10**9, default=10 * BLOCK)) == (10, 160)


def test_a_model_is_not_asked_for_more_than_it_was_made_for() -> None:
    with pytest.raises(ConfigError, match="over the 100 tokens this model was made for"):
        size_cache(config(max_model_len=101), BLOCK, 100, room(10**9))


def test_a_step_that_does_not_fit_names_the_largest_that_does() -> None:
    def cost_of(tokens: int) -> StepCost | None:
        return StepCost(tokens * 100) if tokens <= 1500 else None

    assert require_step(config(max_num_batched_tokens=1000), "cuda:0", 10**6, cost_of).whole == 100_000
    with pytest.raises(ConfigError, match=r"= 2048 does not fit the .* that cuda:0 has left .*= 1500 fits"):
        require_step(config(), "cuda:0", 10**6, cost_of)
    with pytest.raises(ConfigError, match="max_num_batched_tokens = 99 fits"):
        require_step(config(), "cuda:0", 10_000, cost_of)
    with pytest.raises(ConfigError, match="choose a smaller model"):
        require_step(config(), "cuda:0", 50, cost_of)


def test_steps_are_measured_short_and_drawn_on_to_the_longest() -> None:
    def measure(rows: int, new: int, context: int, judged: int) -> int:
        copies = 7 * context * (rows if new == 1 else 1)
        return 1000 * rows * new + copies + 5 * judged

    settings = config(max_num_batched_tokens=100)
    cost = measure_step_cost(measure, settings, longest=5000, vocab_size=2**25 // 50)
    assert cost.at(5000) == max(measure(1, 100, 5000, 1), measure(4, 1, 5000, 1))
    assert cost.at(100) == measure(1, 100, 100, 50)


def test_a_line_that_would_fall_stays_level() -> None:
    assert Line.through((10, 500), (20, 400)).at(1000) == 500
    assert Line.through((10, 500), (10, 500)).at(1000) == 500
