"""Sampling parameters: what is accepted, what is refused, and that a value is never quietly changed."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mp13.engine.request import SamplingParams
from mp13.errors import ConfigError

max_tokens = st.integers(1, 10_000)
valid = max_tokens.flatmap(
    lambda most: st.builds(
        SamplingParams,
        temperature=st.floats(0, 1e300),
        top_p=st.floats(0, 1, exclude_min=True),
        top_k=st.integers(0, 200_000),
        min_p=st.floats(0, 1),
        max_tokens=st.just(most),
        min_tokens=st.integers(0, most),
        stop=st.lists(st.text(min_size=1), max_size=3),
        stop_token_ids=st.lists(st.integers(0, 2**31), max_size=3),
        ignore_eos=st.booleans(),
        seed=st.none() | st.integers(0, 2**63 - 1),
        repetition_penalty=st.floats(0.01, 100),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        logprobs=st.none() | st.integers(0, 20),
    )
)


def test_the_defaults_are_plain_sampling() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (1.0, 1.0, 0, 0.0)
    assert (params.max_tokens, params.min_tokens, params.stop, params.seed) == (256, 0, (), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1), ("temperature", -0.01), ("temperature", math.nan), ("temperature", math.inf),
        ("temperature", "0.5"), ("temperature", None), ("temperature", True),
        ("top_p", 0), ("top_p", 7), ("top_p", 1.0001), ("top_p", -0.1), ("top_p", math.nan),
        ("top_k", -1), ("top_k", 1.5), ("top_k", "all"),
        ("min_p", -0.1), ("min_p", 1.1), ("min_p", math.nan),
        ("max_tokens", 0), ("max_tokens", -3), ("max_tokens", 2.5), ("max_tokens", None), ("max_tokens", True),
        ("min_tokens", -1), ("min_tokens", 257), ("min_tokens", 0.5),
        ("stop", ("",)), ("stop", ("a", "")), ("stop", (5,)),
        ("stop_token_ids", (-1,)), ("stop_token_ids", ("2",)), ("stop_token_ids", (1.0,)),
        ("seed", -1), ("seed", 2**63), ("seed", 1.5), ("seed", "x"),
        ("repetition_penalty", 0), ("repetition_penalty", -1.2), ("repetition_penalty", 1e-300),
        ("repetition_penalty", math.inf), ("repetition_penalty", math.nan), ("repetition_penalty", None),
        ("presence_penalty", 2.1), ("presence_penalty", -2.1), ("presence_penalty", math.nan),
        ("frequency_penalty", 2.1), ("frequency_penalty", -2.1), ("frequency_penalty", "1"),
        ("logprobs", -1), ("logprobs", 21), ("logprobs", 1.0), ("logprobs", True),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_in_one_sentence_with_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        SamplingParams(**{name: value})
    sentence = str(refusal.value)
    assert sentence.startswith(f"{name} = {value!r} ")
    assert "; give " in sentence and "\n" not in sentence


def test_the_neutral_penalties_are_accepted_as_integers_too() -> None:
    assert SamplingParams(repetition_penalty=1, presence_penalty=0, frequency_penalty=0) == SamplingParams()


def test_one_stop_string_stands_for_a_list_of_one() -> None:
    assert SamplingParams(stop="###").stop == ("###",)  # type: ignore[arg-type]


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_no_stops_can_be_said_in_any_way(nothing: Any) -> None:
    assert SamplingParams(stop=nothing, stop_token_ids=nothing) == SamplingParams()


def test_a_callers_list_can_change_later_without_changing_the_parameters() -> None:
    stops, ids = ["a"], [7]
    params = SamplingParams(stop=stops, stop_token_ids=ids)  # type: ignore[arg-type]
    stops.append("b")
    ids.append(8)
    assert params.stop == ("a",) and params.stop_token_ids == (7,)


def test_parameters_cannot_be_changed_after_the_check() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = -1.0  # type: ignore[misc]


@given(valid)
def test_parameters_survive_the_wire_unchanged(params: SamplingParams) -> None:
    wire = TypeAdapter(SamplingParams)
    assert wire.validate_json(wire.dump_json(params)) == params
    assert hash(wire.validate_json(wire.dump_json(params))) == hash(params)


def test_the_wire_refuses_what_the_constructor_refuses() -> None:
    with pytest.raises(ConfigError, match="temperature = -1"):
        TypeAdapter(SamplingParams).validate_json('{"temperature": -1}')
