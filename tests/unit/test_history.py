"""Conversations leave and come back: exactly in our own JSON, as messages from elsewhere, or not at all."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.chat.history.export import export, markdown, numbers, samples, text_of
from mp13.chat.history.importing import import_file
from mp13.errors import ConfigError, Mp13Error
from mp13.library.data.check import check
from mp13.library.data.reading import DataSet
from tests.unit.test_store import METRICS, PROVENANCE

HOSTILE = "\x1b]0;x\x07 <b>[/] \u202e مرحبا 你好 👩‍👩‍👧\r\n\ttab \x00 ```"


@pytest.fixture
def store() -> Iterator[ConversationStore]:
    with ConversationStore() as opened:
        yield opened


def fill(store: ConversationStore, id: str = "c" * 32) -> list[Turn]:
    """A tree with everything that there is: two answers, an edited prompt, a cut-off answer, pins, a title, a system
    prompt, characters of every kind."""
    one = Turn("user", f"ask {HOSTILE}", "a:-0.5", system="be brief\nand kind", created_at=1.25, id=f"{id}-1")
    turns = [
        one,
        Turn("assistant", f"said {HOSTILE}", "a:-0.5", one.id, None, (5, 6), "stop", PROVENANCE, METRICS, id=f"{id}-2"),
        Turn("assistant", "half", "base", one.id, None, (7,), "abort", PROVENANCE, id=f"{id}-3"),
    ]
    turns.append(Turn("user", "next", "base", turns[1].id, skipped=1, id=f"{id}-4"))
    turns.append(Turn("user", "edited", "base", turns[1].id, id=f"{id}-5"))
    turns.append(Turn("assistant", "long", "base", turns[4].id, token_ids=(), finish_reason="length", id=f"{id}-6"))
    turns.append(Turn("user", "and so", "base", turns[5].id, id=f"{id}-7"))
    turns.append(Turn("assistant", "it ends", "base", turns[6].id, finish_reason="stop", id=f"{id}-8"))
    store.add_all(id, turns, head=turns[-1].id, title="A title")
    store.pin(turns[1].id, "a:0.5")
    store.archive(id, True)
    return turns


class TestOurJson:
    def test_a_whole_tree_comes_back_exactly(self, store: ConversationStore, tmp_path: Path) -> None:
        fill(store)
        before = store.whole("c" * 32)
        export([before], tmp_path / "all.json", "json")
        with ConversationStore(tmp_path / "other.db") as other:
            imported = import_file(tmp_path / "all.json", other)
            assert str(imported) == "1 conversation imported"
            assert other.whole("c" * 32) == before
            assert len(before.turns) == 8
            assert [hit.turn_id for hit in other.search("edited")] == [before.turns[4].id]

    def test_what_is_here_already_is_left_as_it_is_unless_copies_are_wanted(
        self, store: ConversationStore, tmp_path: Path
    ) -> None:
        fill(store)
        export([store.whole("c" * 32)], tmp_path / "all.json", "json")
        store.rename("c" * 32, "Another title")
        told = import_file(tmp_path / "all.json", store)
        assert (told.ids, told.known, store.whole("c" * 32).title) == ((), 1, "Another title")
        (id,) = import_file(tmp_path / "all.json", store, copies=True).ids
        copy, own = store.whole(id), store.whole("c" * 32)
        assert [turn.text for turn in store.turns(id)] == [turn.text for turn in store.turns(own.id)]
        assert not {turn.id for turn in copy.turns} & {turn.id for turn in own.turns}
        assert (copy.title, list(copy.pins.values())) == ("A title", ["a:0.5"])

    def test_a_deleted_conversation_comes_back_from_its_file(self, store: ConversationStore, tmp_path: Path) -> None:
        fill(store)
        before = store.whole("c" * 32)
        export([before], tmp_path / "all.json", "json")
        store.delete("c" * 32)
        assert import_file(tmp_path / "all.json", store).ids == ("c" * 32,)
        assert store.whole("c" * 32) == before
        assert store.known_ids() == ["c" * 32]

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ('"version": 1', "version = 2 is of a newer mp13"),
            ('"role": "user"', r"conversations\[0\].turns\[0\].role: Input should be 'user' or 'assistant'"),
            ('"finish_reason": "stop"', r"turns\[1\].finish_reason"),
            (f'"parent_id": "{"c" * 32}-1"', r"turns\[1\]: parent_id = 'nobody' is no turn before it"),
            (f'"head": "{"c" * 32}-8"', "head = 'nobody' is none of its turns"),
            (f'"id": "{"c" * 32}-2"', "parent_id = .* is no turn before it"),
            ('"mix": "a:-0.5"', r"turns\[0\]: .*'a:'"),
            ('"created_at": 1.25', "created_at"),
        ],
    )
    def test_what_cannot_be_used_is_named_by_its_place_and_nothing_is_stored(
        self, store: ConversationStore, tmp_path: Path, change: str, told: str
    ) -> None:
        fill(store)
        fill(store, "d" * 32)
        export([store.whole("c" * 32), store.whole("d" * 32)], tmp_path / "all.json", "json")
        store.forget(["c" * 32, "d" * 32])
        new = {"1": "2", '"a:-0.5"': '"a:"', "1.25": '"soon"'}
        key, _, value = change.partition(": ")
        text = (
            (tmp_path / "all.json")
            .read_text()
            .replace(change, f"{key}: {new.get(value, chr(34) + 'nobody' + chr(34))}", 1)
        )
        (tmp_path / "all.json").write_text(text)
        with pytest.raises(ConfigError, match=rf"all.json: .*{told}.*nothing was imported"):
            import_file(tmp_path / "all.json", store)
        assert store._rows("SELECT (SELECT count(*) FROM turns), (SELECT count(*) FROM conversations)") == [(0, 0)]

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("skipped", "1" + "0" * 400, r"turns\[0\]: skipped = 1000.* is no number of exchanges"),
            ("skipped", "-1", r"turns\[0\]: skipped = -1 "),
            ("token_ids", "[5, -1]", r"turns\[0\]: token_ids: -1 is no token's id"),
            ("token_ids", "[1" + "0" * 30 + "]", r"turns\[0\]: token_ids: 1000.* is no token's id"),
            ("created_at", "1e300", r"turns\[0\]: created_at = 1e\+300 is no time"),
            ("created_at", "-1.0", r"turns\[0\]: created_at = -1.0 is no time"),
        ],
    )
    def test_numbers_that_mean_nothing_are_refused(
        self, store: ConversationStore, tmp_path: Path, key: str, value: str, told: str
    ) -> None:
        """They would be stored, and spoil the conversation when it is shown or gone on with."""
        fill(store)
        archive = json.loads(text_of([store.whole("c" * 32)], "json"))
        store.forget(["c" * 32])
        archive["conversations"][0]["turns"][0][key] = "here"
        (tmp_path / "one.json").write_text(json.dumps(archive).replace('"here"', value))
        with pytest.raises(ConfigError, match=rf"one.json: conversations\[0\].{told}.*nothing was imported"):
            import_file(tmp_path / "one.json", store)
        assert store.known_ids() == []

    def test_a_file_cut_in_the_middle_names_the_line(self, store: ConversationStore, tmp_path: Path) -> None:
        fill(store)
        export([store.whole("c" * 32)], tmp_path / "all.json", "json")
        data = (tmp_path / "all.json").read_bytes()
        (tmp_path / "all.json").write_bytes(data[: len(data) // 2])
        with pytest.raises(ConfigError, match=r"all.json: Invalid JSON.* line \d+ column \d+; nothing was imported"):
            import_file(tmp_path / "all.json", store)


def test_of_several_conversations_all_are_stored_or_none(store: ConversationStore, tmp_path: Path) -> None:
    for id in ("c" * 32, "d" * 32):
        fill(store, id)
    wholes = [store.whole(id) for id in ("c" * 32, "d" * 32)]
    with ConversationStore(tmp_path / "other.db") as other:
        clash = replace(wholes[1], turns=[replace(wholes[1].turns[0], id=wholes[0].turns[0].id)], head=None, pins={})
        with pytest.raises(Mp13Error, match="UNIQUE"):
            other.put([wholes[0], clash])
        assert other.known_ids(with_deleted=True) == []
        other.put(wholes)
        assert [other.whole(one.id) for one in wholes] == wholes


class TestFromElsewhere:
    MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "ho"}]  # fmt: skip

    def check(self, store: ConversationStore, path: Path, system: str | None = "be brief") -> None:
        (id,) = import_file(path, store).ids
        turns = store.turns(id)
        assert [(turn.role, turn.text, turn.system, turn.finish_reason) for turn in turns] == [
            ("user", "hi", system, None), ("assistant", "ho", None, "stop"),
        ]  # fmt: skip
        assert store.find("latest") == id

    @pytest.mark.parametrize("indent", [None, 2])
    def test_openai_messages_as_an_object_a_list_of_objects_or_a_bare_list(
        self, store: ConversationStore, tmp_path: Path, indent: int | None
    ) -> None:
        for number, value in enumerate(({"messages": self.MESSAGES}, [{"messages": self.MESSAGES}], self.MESSAGES)):
            path = tmp_path / f"{number}.json"
            path.write_text(json.dumps(value, indent=indent))
            self.check(store, path)

    def test_sharegpt(self, store: ConversationStore, tmp_path: Path) -> None:
        said = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
        (tmp_path / "a.json").write_text(json.dumps([{"conversations": said}], indent=1))
        self.check(store, tmp_path / "a.json", system=None)
        (tmp_path / "b.jsonl").write_text(json.dumps({"conversations": said, "system": "be brief"}) + "\n")
        self.check(store, tmp_path / "b.jsonl")

    def test_a_broken_line_is_named_with_the_others_and_nothing_is_stored(
        self, store: ConversationStore, tmp_path: Path
    ) -> None:
        good, path = json.dumps({"messages": self.MESSAGES}), tmp_path / "a.jsonl"
        tool = json.dumps({"messages": [*self.MESSAGES, {"role": "tool", "content": "x"}]})
        path.write_text(f"{good}\n{{\n{good}\n{tool}\n")
        with pytest.raises(ConfigError) as caught:
            import_file(path, store)
        lines = [str(problem) for problem in caught.value.problems]  # type: ignore[attr-defined]
        assert [line.removeprefix(f"{path}:").partition(":")[0] for line in lines] == ["2", "4"]
        assert "the role 'tool' is not known" in lines[1]
        assert store.known_ids(with_deleted=True) == []

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "no samples|is empty"),
            ('{"text": "a text"}', "is a text, and no conversation"),
            ("[1]", "is a number, not an object"),
            ('{"messages": []}', "has no messages"),
            ('[{"role": "user", "content": "hi"}]', "ends with the user's message"),
            ("\udc80", "UTF-8"),
        ],
    )
    def test_what_is_no_conversation_is_a_sentence(
        self, store: ConversationStore, tmp_path: Path, content: str, told: str
    ) -> None:
        (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(ConfigError, match=told):
            import_file(tmp_path / "a.json", store)
        assert store.known_ids() == []

    def test_a_file_that_is_not_there_is_a_sentence(self, store: ConversationStore, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            import_file(tmp_path / "none.json", store)


class TestTrainingData:
    def test_only_answers_that_came_to_their_own_end_are_learned_and_the_data_passes_its_check(
        self, store: ConversationStore, tmp_path: Path
    ) -> None:
        fill(store)
        export([store.whole("c" * 32)], tmp_path / "a.jsonl", "jsonl")
        rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        weights = [
            [message.get("weight", 1) for message in row["messages"] if message["role"] == "assistant"] for row in rows
        ]
        assert weights == [[1], [0, 0, 1]]
        assert rows[0]["messages"][0] == {"role": "system", "content": "be brief\nand kind"}
        report = check([DataSet(str(tmp_path / "a.jsonl"))], [], None, lambda stage, fraction: None)
        assert (list(report.errors), report.train[0].samples) == ([], 2)

    def test_of_chosen_turns_the_answers_are_learned_and_the_others_only_read(self, store: ConversationStore) -> None:
        fill(store)
        one = store.whole("c" * 32)
        for chosen in ((2,), (1,)):
            (sample,) = samples([one], chosen)
            assert [message.role for message in sample.messages] == ["system", "user", "assistant"]
        (sample,) = samples([one], (6,))
        assert [message.is_learned for message in sample.messages if message.role == "assistant"] == [
            False,
            False,
            True,
        ]
        with pytest.raises(ConfigError, match="nothing to learn"):
            samples([one], (4,))  # cut off at the token limit
        with pytest.raises(ConfigError, match="no turn 7; turns have the numbers 1 to 6"):
            samples([one], (7,))

    def test_turns_are_numbers_and_ranges(self) -> None:
        assert numbers("2, 4-6,9") == {2, 4, 5, 6, 9}
        for wrong in ("", "x", "3-1", "0", "1,,2", "-1", "1-9999999"):
            with pytest.raises(ConfigError, match="names no turns"):
                numbers(wrong)


def test_markdown_shows_the_path_with_what_produced_each_answer(store: ConversationStore) -> None:
    fill(store)
    text = markdown(store.whole("c" * 32))
    assert text.startswith("# A title\n\n")
    for part in ("> **System:** be brief\n> and kind", "## You", "## a:-0.5 · 40 tok/s · 4 cached ‹1/2›",
                 "## You ‹2/2›\n\nedited", "## base · cut at the token limit", "> **System:** none"):  # fmt: skip
        assert part in text
    assert f"said {HOSTILE}" in text
    assert "half" not in text


def test_a_file_that_is_there_is_only_replaced_when_told_and_whole_or_not_at_all(
    store: ConversationStore, tmp_path: Path
) -> None:
    fill(store)
    one, out = store.whole("c" * 32), tmp_path / "out"
    out.write_text("mine")
    for format in ("md", "json", "jsonl"):
        with pytest.raises(ConfigError, match="out exists; give --force"):
            export([one], out, format)  # type: ignore[arg-type]
        assert out.read_text() == "mine"
        with pytest.raises(ConfigError, match="cannot be written"):
            export([one], tmp_path / "nowhere" / "x", format)  # type: ignore[arg-type]
        export([one], out, format, replace=True)  # type: ignore[arg-type]
        assert out.read_text() != "mine"
        assert out.stat().st_mode & 0o077 == 0
        out.write_text("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
