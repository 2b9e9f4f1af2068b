"""A request on its way in: mix, prompt and parameters become a sequence to schedule and an answer to fill.

What runs, and what became of it, is the core's.
"""

import random
import time
from dataclasses import dataclass, replace
from typing import get_args

from mp13.engine.adapters.manager import AdapterManager, merge_members
from mp13.engine.config import EngineConfig
from mp13.engine.prompts import Prompt, PromptReader
from mp13.engine.request import CountReport, FinishReason, KVPolicy, Prompting, RequestOutput, SamplingParams
from mp13.engine.scheduling.sequence import Sequence
from mp13.engine.text.answer import Answer
from mp13.errors import ConfigError


@dataclass
class Running:
    """A request that waits or runs."""

    seq: Sequence
    answer: Answer
    members: tuple[tuple[str, str, float], ...]  # name, digest, weight
    prompting: Prompting | None

    def output(self, reason: FinishReason) -> RequestOutput:
        return replace(self.answer.output(self.seq, reason), members=self.members, prompting=self.prompting)


class Admission:
    """`max_model_len` and `eos_token_ids` are the model's as it came up."""

    def __init__(
        self,
        config: EngineConfig,
        adapters: AdapterManager,
        prompts: PromptReader,
        max_model_len: int,
        eos_token_ids: frozenset[int],
    ) -> None:
        self._config = config
        self._adapters = adapters
        self._prompts = prompts
        self._max_model_len = max_model_len
        self._eos_token_ids = eos_token_ids
        self._seeds = random.Random(config.seed)

    def next_seed(self) -> int:
        return self._seeds.getrandbits(63)

    def admit(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        mix: str | None,
        kv_policy: KVPolicy | None,
        *,
        generates: bool,
        background: bool,
    ) -> Running:
        """Raises MixError, ContextError or ConfigError for a request that cannot run."""
        resolved, members = self._adapters.resolve(mix or "base")
        text = self._prompts.text_of(members)
        eos_token_ids = frozenset() if params.ignore_eos else self._eos_token_ids | text.eos_token_ids
        ending = eos_token_ids | frozenset(params.stop_token_ids)
        read = self._prompts.read(prompt, text, ending) if generates else self._prompts.read_past(prompt, text)
        read.check_fits(self._max_model_len)
        adapters, num_asked = merge_members(members), len(read.token_ids) - read.num_given
        seq = Sequence(
            request_id,
            read.token_ids,
            params,
            adapters,
            seed=self.next_seed() if params.seed is None else params.seed,
            max_len=self._max_model_len,
            # What was invoked in the past counts no more: the next prompt's own invocation comes behind it.
            active_from=self._adapters.active_from(adapters, [] if read.is_past else read.token_ids[:num_asked]),
            kv_policy=self._policy(kv_policy),
            is_background=background,
            generates=generates,
            num_given_tokens=read.num_given,
            ending=ending,
        )
        given = read.token_ids[num_asked:]
        answer = Answer(text.tokenizer, params, ending, str(resolved), time.perf_counter(), given)
        return Running(seq, answer, members, read.prompting)

    def count(self, prompt: Prompt, mix: str | None) -> CountReport:
        """How long the prompt is that `admit` would make of this, whether it fits or not. Changes nothing, so that any
        thread may ask.

        Raises:
            MixError, ConfigError: the mix or the prompt cannot be used.
        """
        text = self._prompts.text_of(self._adapters.resolve(mix or "base")[1])
        read = self._prompts.read(prompt, text, self._eos_token_ids | text.eos_token_ids)
        return CountReport(len(read.token_ids), self._max_model_len)

    def _policy(self, kv_policy: KVPolicy | None) -> KVPolicy:
        policy = kv_policy or self._config.kv_policy
        if policy not in get_args(KVPolicy):
            raise ConfigError(f"kv_policy = {policy!r} cannot be used; give one of {', '.join(get_args(KVPolicy))}")
        return policy
