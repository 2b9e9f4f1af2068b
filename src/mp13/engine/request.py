"""What goes into the engine and what comes out: sampling parameters, events, outputs. Plain data, no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mp13.errors import ConfigError

FinishReason = Literal["stop", "length", "abort"]
KVPolicy = Literal["exact", "keep"]
OnProgress = Callable[[str, float | None], None]  # (stage, how much of it is done if that is known)
NO_EFFECT = 1e-6  # an adapter whose `AdapterInfo.effect` is below changes nothing measurable


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen and when an answer ends.

    `temperature` 0 is greedy. `top_k` 0 keeps every token. Filters apply in the order temperature, top_k,
    top_p, min_p. `stop` strings end the answer and are left out of its text; `stop_token_ids` end it like EOS.
    Until `min_tokens` tokens are out, neither EOS nor a stop ends it. With a `seed`, the answer depends on
    nothing but the prompt, the weights and these parameters. Where an answer goes on that was cut off, `max_tokens`
    counts the new tokens, and everything else the whole answer.

    Penalties come before all that: `repetition_penalty` divides what speaks for a token that stands in the prompt or
    the answer (Keskar et al. 2019); `presence_penalty` is taken off once, `frequency_penalty` for each time that it
    stands in the answer. `logprobs` n asks for each token's log-probability in the model's own distribution, before
    penalties and temperature, and for those of the n likeliest tokens there.

    Raises:
        ConfigError: a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 256
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        for name, (kind, fits, allowed) in _RULES.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not fits(value):
                raise ConfigError(f"{name} = {value!r} cannot be used; give {allowed}")
        if self.min_tokens > self.max_tokens:
            raise ConfigError(f"min_tokens = {self.min_tokens} is more than max_tokens = {self.max_tokens}; give less")


_NUMBER = (int, float)
_RULES: dict[str, tuple[type | tuple[type, ...], Callable[[Any], bool], str]] = {
    "temperature": (_NUMBER, lambda t: 0 <= t < math.inf, "a number, 0 (greedy) or more"),
    "top_p": (_NUMBER, lambda p: 0 < p <= 1, "a number above 0, at most 1"),
    "top_k": (int, lambda k: k >= 0, "a whole number, 0 (all tokens) or more"),
    "min_p": (_NUMBER, lambda p: 0 <= p <= 1, "a number from 0 to 1"),
    "repetition_penalty": (_NUMBER, lambda p: 0.01 <= p <= 100, "a number from 0.01 to 100; 1 is neutral"),
    "presence_penalty": (_NUMBER, lambda p: -2 <= p <= 2, "a number from -2 to 2; 0 is neutral"),
    "frequency_penalty": (_NUMBER, lambda p: -2 <= p <= 2, "a number from -2 to 2; 0 is neutral"),
    "max_tokens": (int, lambda n: n >= 1, "a whole number, 1 or more"),
    "min_tokens": (int, lambda n: n >= 0, "a whole number from 0 to max_tokens"),
    "stop": (tuple, lambda stop: all(isinstance(s, str) and s for s in stop), "strings that are not empty"),
    "stop_token_ids": (tuple, lambda ids: all(isinstance(i, int) and i >= 0 for i in ids), "whole numbers, 0 or more"),
    "seed": ((int, type(None)), lambda s: s is None or 0 <= s < 2**63, "none or a whole number from 0 to 2^63-1"),
    "logprobs": ((int, type(None)), lambda n: n is None or 0 <= n <= 20, "none or a whole number from 0 to 20"),
}


@dataclass(frozen=True)
class Metrics:
    """What a request cost: token counts, seconds to the first token, tokens per second after it."""

    prompt_tokens: int  # all that were given, those of an answer that goes on included
    cached_tokens: int  # prompt tokens whose KV entries were found in the cache
    generated_tokens: int
    ttft_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class Activity:
    """How many requests an engine computes now, and how many wait for their turn."""

    running: int
    waiting: int


@dataclass(frozen=True)
class CountReport:
    """How long a prompt is. It must be shorter than the context, which holds prompt and answer."""

    prompt_tokens: int
    context_limit: int


@dataclass(frozen=True)
class TokenLogprob:
    """A sampled token's natural-log probability in the model's raw distribution, and the likeliest tokens' there."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token id, log-probability), likeliest first


@dataclass(frozen=True)
class TokenScore:
    """How a mix judges one token of a given text. Log-probabilities are natural, from raw float32 logits."""

    token_id: int
    logprob: float
    best_id: int  # the token this mix finds likeliest there
    best_logprob: float
    kl: float  # KL(first mix of the comparison ‖ this mix) over the vocabulary, in nats; 0 for the first


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer's tokens as several mixes judge them; every tuple inside has one entry a token."""

    token_ids: tuple[int, ...]
    texts: tuple[str, ...]  # pieces that join to the answer's text; "" where a character goes on, or nothing is shown
    scores: tuple[tuple[TokenScore, ...], ...]  # of each mix
    best_texts: tuple[tuple[str, ...], ...]  # of each mix: what it would have said there


@dataclass(frozen=True)
class RequestOutput:
    """A finished (or aborted) answer. `token_ids` includes the EOS that ended it; `text` does not."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    adapters: str  # canonical mix
    metrics: Metrics
    seed: int  # what sampling depended on, drawn by the engine where the parameters name none
    members: tuple[tuple[str, str, float], ...] = ()  # the mix as it was loaded then: (name, digest, weight)
    logprobs: tuple[TokenLogprob, ...] | None = None  # one a generated token, if the parameters ask for them
    kv_policy: KVPolicy = "exact"
    prompting: "Prompting | None" = None  # None where the prompt was not messages
    continued_at: int = 0  # so many of the tokens were given with the request: an answer that went on


@dataclass(frozen=True)
class Prompting:
    """What turned messages into the prompt. `template_from` and `system_from` name the adapter that brought its own
    chat template or system prompt; None is the model's template, and the conversation's system prompt or none."""

    template_digest: str
    template_from: str | None = None
    system_from: str | None = None


@dataclass(frozen=True)
class TokenEvent:
    """One new token of a running answer, and the text now certain with it: often empty, never half a character."""

    request_id: str
    token_id: int
    text: str
    logprob: TokenLogprob | None = None  # where the parameters ask for it


@dataclass(frozen=True)
class FinishEvent:
    """The last event of a request. The token events before it carry all of its text, unless it was aborted."""

    request_id: str
    output: RequestOutput


@dataclass(frozen=True)
class ErrorEvent:
    """A request died of an error inside the engine; the engine itself goes on."""

    request_id: str
    error: Exception


@dataclass(frozen=True)
class ScoreEvent:
    """The last event of a text that was to be judged: each mix's scores, of every token from the start on."""

    request_id: str
    scores: tuple[tuple[TokenScore, ...], ...]


Event = TokenEvent | FinishEvent | ErrorEvent | ScoreEvent


@dataclass(frozen=True)
class AdapterInfo:
    """A loaded adapter: its name, the SHA-256 of its content, what it changes, and where it is now."""

    name: str
    digest: str
    kind: str  # "lora", "rslora", "dora", "alora"
    rank: int  # the largest rank in it
    target_modules: tuple[str, ...]
    size_bytes: int
    warnings: tuple[str, ...] = ()
    path: str = ""  # the folder it was read from
    base_model: str | None = None  # as its training recorded it
    state: Literal["slot", "memory", "disk"] = "memory"
    effect: float | None = None  # mean KL(adapter ‖ base) on a probe prompt, in nats; None until measured
    brings: tuple[str, ...] = ()  # of "template", "tokens", "system prompt": what it carries beside weights
