"""What is asked of making tokens of samples, and what comes of it. Plain data, no torch: the library hands it to a
process of its own."""

from dataclasses import dataclass
from typing import Literal

Loss = Literal["assistant", "all"]
MOST_PROBLEMS = 20  # after so many, no further sample is looked at


@dataclass(frozen=True)
class RenderRequest:
    """Make tokens of the samples in the file `rows`, a line each as `Sample.to_line` writes it.

    Args:
        model: a folder, a GGUF file or a Hub id, of which no weights are read.
        loss: what carries loss: what the assistant wrote, or all.
        with_tokens: report the tokens themselves, and not only how many.
    """

    model: str
    rows: str
    loss: Loss = "assistant"
    with_tokens: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Rendered:
    """Token ids as the model is to read them. `mask[i]` says whether token i is to be predicted from those before it;
    the first never is. `texts` (where they are asked for) are what each token shows, joined the whole."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    texts: tuple[str, ...] = ()

    @property
    def num_learned(self) -> int:
        return sum(self.mask)


@dataclass(frozen=True)
class RenderedSample:
    """Of one sample: how long its sequences are, and how many of their tokens carry loss. Most have one sequence; each
    answer is one of its own where the template shows it in another way once the conversation goes on."""

    lengths: tuple[int, ...]
    num_learned: int
    sequences: tuple[Rendered, ...] = ()


@dataclass(frozen=True)
class RenderProblem:
    """Why the sample of this number, counted from 0, cannot be rendered: a sentence with what to do."""

    sample: int
    sentence: str


@dataclass(frozen=True)
class RenderReport:
    """One entry in `samples` for each, in their order; with `problems` there may be fewer.

    `max_position` is the model's context in tokens; `notes` are for a person to read.
    """

    samples: tuple[RenderedSample, ...]
    problems: tuple[RenderProblem, ...]
    max_position: int
    template_digest: str
    notes: tuple[str, ...] = ()
