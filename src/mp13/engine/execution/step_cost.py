"""What a full step needs beside weights and cache, measured on the GPU by running such steps.

Some attention backends copy what they read, so that a step costs more the longer its sequences are: a straight line,
measured at two short lengths and drawn on to the longest.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mp13.engine.config import EngineConfig
from mp13.engine.models.footprint import MAX_LOGITS

MeasureStep = Callable[[int, int, int, int], int]  # (rows, new tokens each, context of each, judged of each) -> bytes
_DECODE_LENGTHS = (256, 512)  # tokens


@dataclass(frozen=True)
class Line:
    """Bytes by the length of the longest sequence."""

    start: float
    per_token: float

    @classmethod
    def through(cls, first: tuple[int, int], second: tuple[int, int]) -> "Line":
        (x0, y0), (x1, y1) = first, second
        slope = max(0.0, (y1 - y0) / (x1 - x0)) if x1 > x0 else 0.0
        return cls(max(y0, y1) - slope * x1, slope)

    def at(self, length: int) -> int:
        return int(self.start + self.per_token * length)


@dataclass(frozen=True)
class StepCost:
    """`whole` is a step of new prompts alone or of judged ones, `chunk` a part of a long prompt with all before it in
    the cache, `decode` one token of every sequence."""

    whole: int
    chunk: Line = Line(0, 0)
    decode: Line = Line(0, 0)

    def at(self, length: int) -> int:
        """Bytes, where no sequence is longer than `length`."""
        return max(self.whole, self.chunk.at(length), self.decode.at(length))


def measure_step_cost(measure: MeasureStep, config: EngineConfig, longest: int, vocab_size: int) -> StepCost:
    """Runs steps as large as they can become. What `measure` raises comes through."""
    tokens = min(config.max_num_batched_tokens, longest)
    rows = min(config.max_num_seqs, config.max_num_batched_tokens)
    chunk_at = [min(longest, times * tokens) for times in (2, 3)]
    decode_at = [min(longest, length) for length in _DECODE_LENGTHS]
    chunk = [(length, measure(1, tokens, length, 1)) for length in chunk_at]
    decode = [(length, measure(rows, 1, length, 1)) for length in decode_at]
    whole = measure(1, tokens, tokens, min(tokens, max(1, MAX_LOGITS // vocab_size)))
    return StepCost(whole, Line.through(*chunk), Line.through(*decode))
