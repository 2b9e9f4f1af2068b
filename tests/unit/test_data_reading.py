"""Training data of every format and kind of file becomes the same samples, each with the line where it stood."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mp13.engine.training.sample import Message, Sample
from mp13.errors import ConfigError, UnsupportedError
from mp13.library.data import json_file
from mp13.library.data.problem import DataError, Problem
from mp13.library.data.reading import DataSet
from mp13.library.data.tables import HubDataSet, hub_data_set

ASKED, ANSWERED = Message("user", "ask"), Message("assistant", "an answer")
TALK = (ASKED, ANSWERED)
MESSAGES = {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "an answer"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "an answer"}]}
ALPACA = {"instruction": "ask", "input": "", "output": "an answer"}
PROMPT = {"prompt": "Once", "completion": " upon a time"}
TEXT = {"text": "Once upon a time"}


def written(folder: Path, text: str | bytes, name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read(source: str, format: str | None = None) -> list[Any]:
    """What each sample says, without its place."""
    samples = list(DataSet(source, format).samples())
    assert [(s.source, s.line) for s in samples] == [(source, s.line) for s in samples]
    return [s.messages or ((s.prompt, s.text) if s.prompt else s.text) for s in samples]


@pytest.mark.parametrize(
    ("record", "name", "said"),
    [
        (MESSAGES, "messages", TALK),
        (SHAREGPT, "sharegpt", TALK),
        (ALPACA, "alpaca", TALK),
        (PROMPT, "prompt-completion", ("Once", " upon a time")),
        (TEXT, "text", "Once upon a time"),
    ],
)
def test_the_format_is_found_out(record: object, name: str, said: object, tmp_path: Path) -> None:
    source = written(tmp_path, lines(record, record))
    data = DataSet(source)
    assert [sample.line for sample in data.samples()] == [1, 2]
    assert data.format is not None and data.format.name == name
    assert read(source) == read(source, name) == [said, said]


class TestMessages:
    def of(self, tmp_path: Path, *messages: dict[str, Any]) -> tuple[Message, ...]:
        (said,) = read(written(tmp_path, lines({"messages": messages})))
        return said  # type: ignore[no-any-return]

    def test_a_system_prompt_comes_first_and_may_be_the_developers(self, tmp_path: Path) -> None:
        for role in ("system", "developer"):
            said = self.of(tmp_path, {"role": role, "content": "be brief"}, *MESSAGES["messages"])
            assert said == (Message("system", "be brief"), *TALK)

    def test_an_answer_of_weight_0_is_read_but_not_learned(self, tmp_path: Path) -> None:
        ask, answer = MESSAGES["messages"]
        said = self.of(tmp_path, ask, answer | {"weight": 0}, ask, answer | {"weight": 1})
        assert [m.is_learned for m in said if m.role == "assistant"] == [False, True]

    def test_what_is_null_or_empty_in_a_table_counts_as_not_there(self, tmp_path: Path) -> None:
        rows = [message | {"tool_calls": None, "weight": None, "name": None} for message in MESSAGES["messages"]]
        assert self.of(tmp_path, *rows) == TALK
        assert read(written(tmp_path, lines(MESSAGES | {"tools": [], "images": None}))) == [TALK]

    def test_white_space_is_kept(self, tmp_path: Path) -> None:
        said = self.of(tmp_path, {"role": "user", "content": " a\n\tb "}, {"role": "assistant", "content": "\n c"})
        assert [m.content for m in said] == [" a\n\tb ", "\n c"]


class TestShareGPT:
    def test_all_its_names_of_speakers_are_known(self, tmp_path: Path) -> None:
        pairs = (("human", "gpt"), ("user", "assistant"), ("human", "chatgpt"), ("user", "model"), ("human", "bing"))
        for asks, answers in pairs:
            record = {"conversations": [{"from": asks, "value": "ask"}, {"from": answers, "value": "an answer"}]}
            assert read(written(tmp_path, lines(record))) == [TALK]

    def test_the_system_prompt_may_stand_beside_the_conversation(self, tmp_path: Path) -> None:
        inside = [{"from": "system", "value": "be brief"}, *SHAREGPT["conversations"]]
        for record in (SHAREGPT | {"system": "be brief"}, {"conversations": inside}):
            assert read(written(tmp_path, lines(record))) == [(Message("system", "be brief"), *TALK)]


class TestAlpaca:
    def test_the_input_goes_under_the_instruction(self, tmp_path: Path) -> None:
        (said,) = read(written(tmp_path, lines(ALPACA | {"input": "some text"})))
        assert said == (Message("user", "ask\n\nsome text"), ANSWERED)

    def test_it_may_have_a_system_prompt_and_no_input(self, tmp_path: Path) -> None:
        record = {"instruction": "ask", "output": "an answer", "system": "be brief"}
        assert read(written(tmp_path, lines(record))) == [(Message("system", "be brief"), *TALK)]


def test_of_prompt_and_completion_as_messages_only_the_completion_is_learned(tmp_path: Path) -> None:
    ask, answer = MESSAGES["messages"]
    (said,) = read(written(tmp_path, lines({"prompt": [ask, answer, ask], "completion": [answer]})))
    assert said == (ASKED, Message("assistant", "an answer", False), *TALK)


class TestKeys:
    def test_what_is_not_read_is_named_once(self, tmp_path: Path) -> None:
        data = DataSet(written(tmp_path, lines(MESSAGES | {"id": 1, "prompt": "x"}, MESSAGES | {"source": "web"})))
        assert len(list(data.samples())) == 2
        assert list(data.passed_over) == ["id", "prompt", "source"]

    def test_of_several_formats_a_record_is_of_the_richest(self, tmp_path: Path) -> None:
        assert read(written(tmp_path, lines(MESSAGES | PROMPT | TEXT))) == [TALK]
        assert read(written(tmp_path, lines(ALPACA | TEXT))) == [TALK]

    def test_a_format_can_be_forced(self, tmp_path: Path) -> None:
        source = written(tmp_path, lines(MESSAGES | PROMPT | TEXT))
        assert read(source, "text") == ["Once upon a time"]
        with pytest.raises(ConfigError, match="format = 'csv' is not known; give one of messages, sharegpt"):
            DataSet(source, "csv")


class TestJSON:
    @pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.JSON"])
    @pytest.mark.parametrize("indent", [None, 2])
    def test_a_list_is_read_whatever_it_is_called(self, name: str, indent: int | None, tmp_path: Path) -> None:
        source = written(tmp_path, json.dumps([MESSAGES, MESSAGES, MESSAGES], indent=indent), name)
        assert read(source) == [TALK] * 3
        at = [sample.line for sample in DataSet(source).samples()]
        height = len(json.dumps(MESSAGES, indent=indent).splitlines())
        assert at == ([1, 1, 1] if indent is None else [2, 2 + height, 2 + 2 * height])

    def test_lines_are_read_whatever_they_are_called(self, tmp_path: Path) -> None:
        source = written(tmp_path, "\n\n" + lines(MESSAGES) + "  \r\n" + lines(MESSAGES).strip(), "a.json")
        assert [sample.line for sample in DataSet(source).samples()] == [3, 5]

    def test_the_mark_of_utf8_that_editors_write_is_passed_over(self, tmp_path: Path) -> None:
        for text in (lines(TEXT), json.dumps([TEXT])):
            assert read(written(tmp_path, b"\xef\xbb\xbf" + text.encode())) == ["Once upon a time"]

    def test_a_list_is_read_in_pieces_of_any_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even one that cuts characters, escapes and numbers in two."""
        records = [{"text": f'日本 "é\\ {n} 👩' * (n % 5 + 1), "n": [n, -1.5e3, True, None]} for n in range(40)]
        source = written(tmp_path, json.dumps(records, ensure_ascii=False, indent=1))
        expected = [record["text"] for record in records]
        for size in (1, 2, 3, 7, 64, 1000):
            monkeypatch.setattr(json_file, "_PIECE", size)
            assert read(source) == expected

    def test_it_does_not_read_ahead(self, tmp_path: Path) -> None:
        source = written(tmp_path, lines(TEXT) + '{"text": \n')
        samples = iter(DataSet(source))
        assert isinstance(next(samples), Sample)
        assert isinstance(next(samples), Problem)


class TestCSV:
    def test_the_first_line_names_the_columns(self, tmp_path: Path) -> None:
        text = 'instruction,output,note\r\nask,an answer,x\r\n\r\n"ask","an answer",\r\n'
        data = DataSet(written(tmp_path, text, "a.csv"))
        assert [(sample.messages, sample.line) for sample in data.samples()] == [(TALK, 2), (TALK, 4)]
        assert list(data.passed_over) == ["note"]

    def test_a_cell_may_hold_lines_quotes_and_commas_and_the_line_is_that_of_its_row(self, tmp_path: Path) -> None:
        source = written(tmp_path, 'text\n"a\n""b"", c"\nd\n', "a.csv")
        assert [(sample.text, sample.line) for sample in DataSet(source).samples()] == [('a\n"b", c', 2), ("d", 4)]

    def test_messages_in_a_cell_are_json(self, tmp_path: Path) -> None:
        cell = json.dumps(MESSAGES["messages"]).replace('"', '""')
        assert read(written(tmp_path, f'messages\n"{cell}"\n', "a.csv")) == [TALK]

    def test_a_cell_may_be_long(self, tmp_path: Path) -> None:
        assert read(written(tmp_path, "text\n" + "x" * 300_000 + "\n", "a.csv")) == ["x" * 300_000]


class TestParquet:
    def test_rows_are_counted_from_1(self, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pyarrow.Table.from_pylist([MESSAGES | {"id": n} for n in range(600)])
        parquet.write_table(table, tmp_path / "a.parquet")
        samples = list(DataSet(str(tmp_path / "a.parquet")).samples())
        assert [sample.line for sample in samples] == list(range(1, 601))
        assert {sample.messages for sample in samples} == {TALK}

    def test_a_damaged_file_is_told(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        source = written(tmp_path, b"PAR1 and no more", "a.parquet")
        with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
            read(source)

    def test_without_pyarrow_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UnsupportedError, match=r'need pyarrow.* pip install "mp13\[datasets\]"'):
            read(written(tmp_path, b"PAR1", "a.parquet"))


class FakeDatasets(ModuleType):
    """datasets, as far as it is used. `answer` is what loading gives or raises."""

    def __init__(self, answer: Any) -> None:
        super().__init__("datasets")
        self.answer, self.asked = answer, []

    def disable_progress_bars(self) -> None: ...

    def load_dataset(self, repo: str, config: str | None, **options: Any) -> Any:
        self.asked.append((repo, config, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class TestHub:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("org/name", HubDataSet("org/name", None, None, "train")),
            ("org/name:test", HubDataSet("org/name", None, None, "test")),
            ("org/name/en", HubDataSet("org/name", "en", None, "train")),
            ("o-g/n.m/en@v1:validation", HubDataSet("o-g/n.m", "en", "v1", "validation")),
            ("org/name@refs/convert/parquet", HubDataSet("org/name", None, "refs/convert/parquet", "train")),
            ("name", None), ("../org/name", None), ("org/name:", None), ("org//name", None),
        ],
    )  # fmt: skip
    def test_an_id_may_name_configuration_revision_and_split(self, text: str, wanted: HubDataSet | None) -> None:
        assert hub_data_set(text) == wanted

    def test_its_rows_are_read_as_they_come(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeDatasets([MESSAGES, MESSAGES])
        monkeypatch.setitem(sys.modules, "datasets", fake)
        samples = list(DataSet("org/name/en:test").samples())
        assert [(sample.place, sample.messages) for sample in samples] == [
            ("org/name/en:test:1", TALK),
            ("org/name/en:test:2", TALK),
        ]
        assert fake.asked == [("org/name", "en", {"split": "test", "revision": None, "streaming": True})]

    @pytest.mark.parametrize(
        ("error", "sentence"),
        [
            (ValueError("Unknown split \"x\". Should be one of ['train']."), "no such split .*; give org/name:SPLIT"),
            (
                ValueError("Config name is missing.\nPlease pick one among ['a']"),
                "one of its configurations .*; give org/name/CONFIG",
            ),
            (
                type("DatasetNotFoundError", (OSError,), {})("…"),
                "no such data set, or it is private or gated.; check the id",
            ),
            (type("GatedRepoError", (OSError,), {})("…"), "it is gated.; accept its licence"),
            (type("DatasetGenerationCastError", (ValueError,), {})("…"), "rows whose columns are not those"),
            (RuntimeError(), "RuntimeError: no reason given"),
        ],
    )
    def test_what_the_hub_refuses_is_a_sentence(
        self, error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "datasets", FakeDatasets(error))
        with pytest.raises(DataError, match=f"^org/name: .*{sentence}"):
            read("org/name")

    def test_without_datasets_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(UnsupportedError, match=r'need datasets.* pip install "mp13\[datasets\]"'):
            read("org/name")

    def test_the_real_one_says_that_it_may_not_ask(self) -> None:
        """The tests turn the Hub off."""
        pytest.importorskip("datasets")
        with pytest.raises(DataError, match="org/name-that-is-not-here"):
            read("org/name-that-is-not-here")
