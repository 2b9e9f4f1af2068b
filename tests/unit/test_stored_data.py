"""Conversations of the store as training data: what was answered, under the system prompt it was answered under."""

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.chat.library.stored_data import data_set, samples_of
from mp13.engine.training.sample import Message, Sample
from mp13.errors import ConfigError
from mp13.library.data.problem import DataError
from mp13.service.schema import FinishReason


def path(*said: tuple[str, str, FinishReason | None] | str, system: str | None = None) -> list[Turn]:
    """Turns, each below the one before it. Text alone is a prompt that nobody answered."""
    turns: list[Turn] = []
    for exchange in said:
        asked, answered, reason = (exchange, None, None) if isinstance(exchange, str) else exchange
        turns.append(Turn("user", asked, "base", turns[-1].id if turns else None, system))
        if answered is not None:
            turns.append(Turn("assistant", answered, "base", turns[-1].id, finish_reason=reason))
    return turns


def contents(sample: Sample) -> list[tuple[str, str, bool]]:
    return [(m.role[0], m.content, m.is_learned) for m in sample.messages]


def test_a_conversation_is_one_sample_with_every_answer() -> None:
    (sample,) = samples_of(path(("a", "b", "stop"), ("c", "d", "stop"), system="be brief"), "store:x")
    assert contents(sample) == [
        ("s", "be brief", True), ("u", "a", True), ("a", "b", True), ("u", "c", True), ("a", "d", True),
    ]  # fmt: skip
    assert sample.place == "store:x:4"


def test_answers_that_were_cut_off_are_read_but_not_learned() -> None:
    (sample,) = samples_of(
        path(("a", "b", "abort"), ("c", "d", "length"), ("e", "f", "stop"), ("g", "h", "abort")), "s"
    )
    assert [content for _, content, _ in contents(sample)] == ["a", "b", "c", "d", "e", "f"]
    assert [is_learned for role, _, is_learned in contents(sample) if role == "a"] == [False, False, True]
    assert list(samples_of(path(("a", "b", "abort")), "s")) == []


def test_prompts_without_an_answer_and_answers_without_a_text_are_left_out() -> None:
    (sample,) = samples_of(path("x", ("a", "b", "stop"), ("c", " ", "stop"), "y"), "s")
    assert [content for _, content, _ in contents(sample)] == ["a", "b"]
    assert list(samples_of(path("x"), "s")) == list(samples_of([], "s")) == []


def test_an_answer_is_learned_under_its_own_system_prompt_alone() -> None:
    turns = path(("a", "b", "stop"), system="one") + path(("c", "d", "stop"), system="two") + path(("e", "f", None))
    samples = list(samples_of(turns, "s"))
    assert [[m.content for m in sample.messages] for sample in samples] == [
        ["one", "a", "b"], ["two", "a", "b", "c", "d"], ["a", "b", "c", "d", "e", "f"],
    ]  # fmt: skip
    learned = [[m.content for m in s.messages if m.role == "assistant" and m.is_learned] for s in samples]
    assert learned == [["b"], ["d"], ["f"]]
    assert [sample.line for sample in samples] == [2, 4, 6]


class TestStore:
    @pytest.fixture(autouse=True)
    def store(self) -> None:
        with ConversationStore() as store:
            for id in ("aaaa1111bbbb", "aaaa2222", "cccc"):
                for turn in path((id, "b", "stop")):
                    store.add(id, turn)

    def asked(self, source: str) -> list[str]:
        return [sample.messages[0].content for sample in data_set(source).samples()]

    def test_one_is_named_by_the_beginning_of_its_id_or_all_are_read(self) -> None:
        assert self.asked("store:aaaa1") == ["aaaa1111bbbb"]
        assert sorted(self.asked("store:all")) == ["aaaa1111bbbb", "aaaa2222", "cccc"]
        assert {sample.source for sample in data_set("store:aaaa1").samples()} == {"store:aaaa1111"}

    @pytest.mark.parametrize(("wanted", "count"), [("aaaa", "2"), ("x", "no"), ("", "no")])
    def test_a_name_of_none_or_of_several_is_refused(self, wanted: str, count: str) -> None:
        with pytest.raises(DataError, match=f"^store:{wanted}: {count} conversations begin so; give the beginning"):
            self.asked(f"store:{wanted}")

    def test_they_have_no_format_to_force(self) -> None:
        with pytest.raises(ConfigError, match="store:all has no formats; leave --format out"):
            data_set("store:all", "messages")


def test_anything_else_is_a_file_or_a_data_set_of_the_hub() -> None:
    assert data_set("a.jsonl").source == "a.jsonl"
    assert Message("user", "a").is_learned
