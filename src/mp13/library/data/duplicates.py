"""Samples that are there twice: the same to the letter, nearly the same, or in training and evaluation both."""

import json
import re
import unicodedata
from collections.abc import Iterator
from hashlib import blake2b

from mp13.engine.training.sample import Sample
from mp13.library.data.problem import Problem

_SPACE = re.compile(r"\s+")
_MARKS = re.compile(r"""(?<!\d)[.,]|[.,](?!\d)|[;:!?"'‘’“”…]""")  # those of numbers and of code stay


class Duplicates:
    """Remembers eight bytes of each sample, not the sample: of a million, two that differ are taken for the same with
    a chance of 1 in 30 millions."""

    def __init__(self) -> None:
        self.exact = self.near = 0
        self._whole: dict[int, str] = {}  # what was said -> where first
        self._normal: dict[int, str] = {}
        self._learned: dict[int, str] = {}  # each answer with the questions and answers before it

    def add(self, sample: Sample) -> Problem | None:
        """What to say of it if there was one like it."""
        whole, normal = _key(json.dumps(sample.row())), near_key(sample)
        first, alike = self._whole.get(whole), self._normal.get(normal)
        if first is None:
            self._whole[whole] = sample.place
        if alike is None:
            self._normal[normal] = sample.place
        for key in _answers(sample):
            self._learned.setdefault(key, sample.place)
        self.exact += first is not None
        self.near += first is None and alike is not None
        if first is not None:
            return Problem(sample.source, sample.line, f"is the same as {first}", "learn it once")
        if alike is not None:
            return Problem(sample.source, sample.line, f"is nearly the same as {alike}", "learn one of them")
        return None

    def leaked(self, sample: Sample) -> Problem | None:
        """What to say of a sample for evaluation whose answer is learned, whatever the system prompts."""
        place = next((self._learned[key] for key in list(_answers(sample))[-1:] if key in self._learned), None)
        if place is None:
            return None
        what = f"is in the training data, too ({place})"
        return Problem(sample.source, sample.line, what, "take it out of one of them")


def near_key(sample: Sample) -> int:
    """The same for samples that differ in case, spaces and the marks of a sentence alone."""
    parts = [(m.role, _normal(m.content)) for m in sample.messages]
    return _key(json.dumps(parts or [_normal(sample.prompt), _normal(sample.text)]))


def _answers(sample: Sample) -> Iterator[int]:
    said = []
    for message in sample.messages:
        if message.role != "system":
            said.append(_normal(message.content))
        if message.role == "assistant":
            yield _key(json.dumps(said))
    if not sample.messages:
        yield _key(json.dumps([_normal(sample.prompt), _normal(sample.text)]))


def _normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return _SPACE.sub(" ", _MARKS.sub("", text)).strip() or text.strip()


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
