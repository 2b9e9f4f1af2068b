"""One answer as it grows: its text, when it ends and why, and what it cost."""

from collections.abc import Collection, Iterable
from typing import Any

from mp13.engine.request import FinishReason, Metrics, RequestOutput, SamplingParams, TokenLogprob
from mp13.engine.scheduling.sequence import Sequence
from mp13.engine.text.detokenizer import Detokenizer, StopStrings


class Answer:
    """`ending` are the tokens that end it. `started` and every `now` are seconds of one monotonic clock.

    `given` are the tokens of an answer that was cut off and goes on. Its text and tokens are then whole; what is shown
    token by token begins with what was not certain before.
    """

    def __init__(
        self,
        tokenizer: Any,
        params: SamplingParams,
        ending: Collection[int],
        mix: str,
        started: float,
        given: Iterable[int] = (),
    ) -> None:
        self._params = params
        self._ending = ending
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_strings = StopStrings(params.stop)
        self.mix = mix
        self._started = started
        self._first = self._last = started
        self._num_tokens = 0  # of the whole answer
        self._num_given = 0
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._take_up(given)

    def add(
        self, token_id: int, *, full: bool, now: float, logprob: TokenLogprob | None = None
    ) -> tuple[str, FinishReason | None]:
        """Take the next token. Returns the text to show now and, when this token ends the answer, the reason.

        Args:
            full: no further token fits into the context.
            logprob: of the token, where the parameters ask for it.
        """
        if logprob is not None:
            self._logprobs.append(logprob)
        self._num_tokens += 1
        self._first = now if self._num_new == 1 else self._first
        self._last = now
        enough = self._num_tokens >= self._params.min_tokens
        if token_id in self._ending and enough:
            return self._show(self._flush()), "stop"
        text, stopped = self._watch(self._detokenizer.add(token_id), enough)
        if stopped:
            return self._show(text), "stop"
        if full or self._num_new >= self._params.max_tokens:
            return self._show(text + self._flush()), "length"
        return self._show(text), None

    def output(self, seq: Sequence, reason: FinishReason) -> RequestOutput:
        if reason == "abort":
            self._show(self._flush())
        seconds = self._last - self._first
        return RequestOutput(
            text=self._text,
            token_ids=seq.token_ids[seq.num_prompt_tokens :],
            finish_reason=reason,
            adapters=self.mix,
            seed=seq.seed,
            kv_policy=seq.kv_policy,
            continued_at=seq.num_given_tokens,
            logprobs=None if self._params.logprobs is None else tuple(self._logprobs),
            metrics=Metrics(
                prompt_tokens=seq.num_prompt_tokens + seq.num_given_tokens,
                cached_tokens=seq.num_cached_tokens or 0,
                generated_tokens=self._num_new,
                ttft_s=self._first - self._started,
                tokens_per_s=(self._num_new - 1) / seconds if seconds > 0 else 0.0,
            ),
        )

    @property
    def _num_new(self) -> int:
        return self._num_tokens - self._num_given

    def _take_up(self, given: Iterable[int]) -> None:
        watched = ""  # what stop strings are looked for in
        for token_id in given:
            self._num_tokens += 1
            text = self._show(self._detokenizer.add(token_id))
            watched += text if self._num_tokens >= self._params.min_tokens else ""
        self._num_given = self._num_tokens
        self._text = self._text.removesuffix(self._stop_strings.go_on_behind(watched))

    def _watch(self, text: str, enough: bool) -> tuple[str, bool]:
        return self._stop_strings.add(text) if enough else (text, False)

    def _flush(self) -> str:
        """Everything held back. An incomplete character may complete a stop string; it no longer matters which."""
        text, stopped = self._stop_strings.add(self._detokenizer.flush())
        return text if stopped else text + self._stop_strings.flush()

    def _show(self, text: str) -> str:
        self._text += text
        return text
