"""Training data as a whole: what is there twice, what evaluation must not ask, how long it is, and writing it anew."""

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp13.engine.training.sample import Message, Sample
from mp13.errors import ConfigError
from mp13.library.data import check as checking
from mp13.library.data.check import Tokenizer, check
from mp13.library.data.duplicates import Duplicates, near_key
from mp13.library.data.histogram import Bin, histogram
from mp13.library.data.problem import DataError, Problem
from mp13.library.data.reading import DataSet
from mp13.library.data.writing import write_messages


def talk(*said: str, system: str | None = None, line: int = 1) -> Sample:
    messages = [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(said)]
    return Sample("a", line, tuple(messages if system is None else [Message("system", system), *messages]))


def data_of(*samples: Sample | Problem) -> DataSet:
    return DataSet("a", samples=lambda: iter(samples))


class TestDuplicates:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("Hello!", "hello"), ("a  b\n", "a b"), ("It's", "Its"), ("Yes.", "yes"), ("ﬁne", "fine"), ("Ａ", "a"),
            ("“quoted”", '"quoted"'), ("one, two", "one two"), ("STRASSE", "straße"),
        ],
    )  # fmt: skip
    def test_samples_are_nearly_the_same_that_differ_in_case_spaces_and_marks(self, first: str, second: str) -> None:
        assert near_key(talk("q", first)) == near_key(talk("q", second))

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("2+2", "2-2"), ("1.5", "15"), ("1,000", "1000"), ("a > b", "a < b"), ("👍", "👎"), ("!", "?"),
            ("ab", "a b"), ("naïve", "naive"), ("x*y", "x/y"),
        ],
    )  # fmt: skip
    def test_what_means_something_else_is_another_sample(self, first: str, second: str) -> None:
        assert near_key(talk("q", first)) != near_key(talk("q", second))

    def test_who_said_it_counts_and_where_the_parts_end(self) -> None:
        keys = [near_key(talk("a b", "c")), near_key(talk("a", "b c")), near_key(talk("a", "b", "c", "d")),
                near_key(talk("a b", "c", system="")), near_key(Sample("a", 1, prompt="a b", text="c")),
                near_key(Sample("a", 1, text="a b c"))]  # fmt: skip
        assert len(set(keys)) == len(keys)

    def test_the_first_one_is_named_and_both_kinds_are_counted(self) -> None:
        found = Duplicates()
        told = [found.add(talk(*said, line=line)) for line, said in enumerate((("a", "b"), ("a", "b"), ("A", "b")), 1)]
        assert [problem and str(problem) for problem in told] == [
            None,
            "a:2: is the same as a:1; learn it once",
            "a:3: is nearly the same as a:1; learn one of them",
        ]
        assert (found.exact, found.near) == (1, 1)


class TestLeakage:
    def leaked(self, learned: Sample, asked: Sample) -> bool:
        found = Duplicates()
        found.add(learned)
        return found.leaked(asked) is not None

    def test_an_answer_that_is_learned_tells_nothing_whatever_the_system_prompt(self) -> None:
        assert self.leaked(talk("q", "a"), talk("Q?", "A.", system="be brief"))

    def test_so_does_one_in_the_middle_of_a_conversation(self) -> None:
        assert self.leaked(talk("q", "a", "r", "b"), talk("q", "a"))

    def test_the_same_question_with_another_answer_may_be_asked_and_a_longer_conversation_too(self) -> None:
        assert not self.leaked(talk("q", "a"), talk("q", "b"))
        assert not self.leaked(talk("q", "a"), talk("q", "a", "r", "b"))
        assert not self.leaked(talk("x", "y", "q", "a"), talk("q", "a"))

    def test_texts_and_prompts_leak_like_messages(self) -> None:
        assert self.leaked(Sample("a", 1, text="Some text."), Sample("b", 1, text="some  text"))
        assert self.leaked(talk("q", "a"), Sample("b", 1, prompt="q", text=" a"))
        assert not self.leaked(Sample("a", 1, text="Some text."), Sample("b", 1, text="Some other text."))


class TestHistogram:
    def test_bins_double_and_hold_every_length(self) -> None:
        found = histogram([1, 2, 3, 4, 5, 8, 9, 100])
        assert found.bins == (
            Bin(1, 1, 1), Bin(2, 2, 1), Bin(3, 4, 2), Bin(5, 8, 2), Bin(9, 16, 1), Bin(17, 32, 0), Bin(33, 64, 0),
            Bin(65, 128, 1),
        )  # fmt: skip
        assert (found.count, found.total, found.shortest, found.longest) == (8, 132, 1, 100)

    @given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
    def test_whatever_the_lengths(self, lengths: list[int]) -> None:
        found = histogram(lengths)
        for bin in found.bins:
            assert bin.count == sum(bin.least <= length <= bin.most for length in lengths)
        assert sum(bin.count for bin in found.bins) == len(lengths)
        assert sum(length <= found.median for length in lengths) * 2 >= len(lengths)
        assert sum(length <= found.p95 for length in lengths) * 20 >= 19 * len(lengths)
        assert {found.median, found.p95, found.shortest, found.longest} <= set(lengths)


class TestCheck:
    def test_it_stops_after_twenty_errors_and_reads_no_further_source(self) -> None:
        read = []

        def broken() -> Iterator[Problem]:
            for line in range(100):
                read.append(line)
                yield Problem("a", line, "is bad", "mend it")

        report = check([DataSet("a", samples=broken), DataSet("b", samples=broken)])
        assert [problem.line for problem in report.errors] == list(range(20))
        assert len(read) == 20

    def test_what_cannot_be_used_raises_its_first_error_and_says_how_many_more(self) -> None:
        problems = [Problem("a", line, "is bad", "mend it") for line in (4, 5, 6)]
        with pytest.raises(DataError, match=r"^a:4: is bad; mend it \(2 more: `mp13 data check`\)$"):
            check([data_of(*problems)]).raise_errors()
        check([data_of(talk("a", "b"))]).raise_errors()

    def test_without_need_no_model_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking.StagedSamples, "render", None)
        report = check([data_of(talk("a", "b"), Problem("a", 2, "is bad", "mend it"))], tokenizer=Tokenizer("m"))
        assert len(report.errors) == 1
        assert check([data_of(talk("a", "b"))]).tokens is None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
ANSWER = st.tuples(TEXT, TEXT, st.booleans())


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    exchanges = draw(st.lists(ANSWER, min_size=1, max_size=4))
    last = draw(st.integers(0, len(exchanges) - 1))  # one of them is learned
    messages = [Message("system", draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))]
    for place, (asked, answered, is_learned) in enumerate(exchanges):
        messages += [Message("user", asked), Message("assistant", answered, is_learned or place == last)]
    return tuple(messages[draw(st.integers(0, 1)) :])


class TestWriting:
    @given(st.lists(conversations(), min_size=1, max_size=5))
    def test_messages_that_are_written_are_read_again_as_they_were(
        self, tmp_path_factory: pytest.TempPathFactory, talks: list[tuple[Message, ...]]
    ) -> None:
        out = tmp_path_factory.getbasetemp() / "talks.jsonl"
        written = write_messages((Sample("a", n, talk) for n, talk in enumerate(talks)), out, replace=True)
        again = list(DataSet(str(out)).samples())
        assert [sample.messages for sample in again] == talks
        assert [sample.line for sample in again] == list(range(1, written + 1))

    @given(st.data(), st.sampled_from(["sharegpt", "alpaca", "prompt-completion", "text"]))
    def test_what_is_converted_says_the_same_and_stays_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, format: str
    ) -> None:
        folder = tmp_path_factory.getbasetemp()
        records = [data.draw(RECORDS[format]) for _ in range(data.draw(st.integers(1, 4)))]
        (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        read = list(DataSet(str(folder / "a.jsonl"), format).samples())
        write_messages(iter(read), folder / "b.jsonl", replace=True)
        again = list(DataSet(str(folder / "b.jsonl")).samples())
        assert [said(sample) for sample in again] == [said(sample) for sample in read]
        write_messages(iter(again), folder / "c.jsonl", replace=True)
        assert (folder / "c.jsonl").read_bytes() == (folder / "b.jsonl").read_bytes()

    def test_the_file_is_its_owners_alone_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        write_messages([talk("a", "b")], tmp_path / "out.jsonl")
        assert (tmp_path / "out.jsonl").stat().st_mode & 0o077 == 0
        assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]

    def test_what_goes_wrong_on_the_way_leaves_nothing(self, tmp_path: Path) -> None:
        def failing() -> Iterator[Sample]:
            yield talk("a", "b")
            raise ConfigError("no more")

        with pytest.raises(ConfigError, match="no more"):
            write_messages(failing(), tmp_path / "out.jsonl")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_came_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        def slow() -> Iterator[Sample]:
            yield talk("a", "b")
            (tmp_path / "out.jsonl").write_text("mine")

        with pytest.raises(ConfigError, match="exists"):
            write_messages(slow(), tmp_path / "out.jsonl")
        assert (tmp_path / "out.jsonl").read_text() == "mine"
        assert len(list(tmp_path.iterdir())) == 1


RECORDS = {
    "sharegpt": st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(
        lambda pairs: {
            "conversations": [
                {"from": speaker, "value": value}
                for pair in pairs
                for speaker, value in zip(("human", "gpt"), pair, strict=True)
            ]
        }
    ),
    "alpaca": st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}, optional={"input": TEXT, "system": TEXT}),
    "prompt-completion": st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}),
    "text": st.fixed_dictionaries({"text": TEXT}),
}


def said(sample: Sample) -> list[str]:
    return [m.content for m in sample.messages] or [text for text in (sample.prompt, sample.text) if text]


def test_a_random_file_of_bytes_is_never_a_defect(tmp_path: Path) -> None:
    """Whatever is in it, a sentence comes of it."""
    draw = random.Random(0)
    alphabet = [*string.printable, '{"messages": [', '"role": "user"', '"content": ', "},", "]}", "\n", "é", "\x00"]
    for _ in range(300):
        name = draw.choice(["a.jsonl", "a.json", "a.csv"])
        text = "".join(draw.choice(alphabet) for _ in range(draw.randrange(60))).encode()
        (tmp_path / name).write_bytes(text + bytes(draw.randrange(256) for _ in range(draw.randrange(3))))
        report = check([DataSet(str(tmp_path / name))])
        assert report.errors or report.train[0].samples
        for problem in report.errors:
            assert str(problem).startswith(str(tmp_path / name))
