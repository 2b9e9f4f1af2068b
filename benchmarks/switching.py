"""How long a person waits for the first token of the next answer when the adapter is switched in a conversation.

A round has a fresh conversation that adapter A has read. Each measurement sends it with a new message of
`MESSAGE` tokens, and ends with the first token of the answer:

- stay: under A again; all of the conversation is cached.
- cold: under a mix that was never used; all of the conversation has to be read. PEFT: `set_adapter`, then the same.
- warm return: under A, after the turn under the mix; the conversation is cached still.
- return and catch up: under A, with the turn that was made under the mix in the conversation: A has not read it yet.
"""

import time
from collections.abc import Callable

from contestants import Ours, Peft
from report import Bar, Series
from workload import Prompts

MESSAGE = 20
A, B = "adapter-0", "adapter-1"
_STAY, _COLD, _WARM, _CATCH_UP, _PEFT = (
    "first token, ours, staying",
    "first token, ours, cold mix",
    "first token, ours, warm return",
    "first token, ours, return and catch up",
    "first token, PEFT set_adapter",
)
SWITCH_BARS = [Bar(_WARM, _STAY, 1.2, at_least=False), Bar(_COLD, _PEFT, 1.0, at_least=False)]


def measure_switches(peft: Peft, ours: Ours, prompts: Prompts, history_tokens: int, rounds: int) -> list[Series]:
    names = (_STAY, _COLD, _WARM, _CATCH_UP, _PEFT)
    values: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-1, rounds):  # round -1 warms up
        times = _one_round(peft, ours, prompts, history_tokens, mix=f"{A}:0.3+{B}:0.{round_ + 2:03}")
        if round_ < 0:
            continue
        for name in names:
            values[name].append(times[name])
            print(f"round {round_ + 1}  {times[name]:8.1f} ms     {name}", flush=True)
    return [Series(name, "ms", tuple(v)) for name, v in values.items()]


def _one_round(peft: Peft, ours: Ours, prompts: Prompts, history_tokens: int, mix: str) -> dict[str, float]:
    history = prompts.make(history_tokens)
    ours.generate([history], 1, A)
    turn = history + prompts.make(MESSAGE)  # the turn under the mix: message and answer
    times = {
        _STAY: _ms(lambda: ours.generate([history + prompts.make(MESSAGE)], 1, A)),
        _COLD: _ms(lambda: turn.extend(ours.generate([turn], 1, mix)[0])),
    }
    turn += prompts.make(MESSAGE)  # the rest of its answer
    times[_WARM] = _ms(lambda: ours.generate([history + prompts.make(MESSAGE)], 1, A))
    times[_CATCH_UP] = _ms(lambda: ours.generate([turn + prompts.make(MESSAGE)], 1, A))
    times[_PEFT] = _ms(lambda: peft.generate_with([history + prompts.make(MESSAGE)], 1, B))
    peft.model.set_adapter(A)  # so that the next round switches again
    return times


def _ms(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e3
