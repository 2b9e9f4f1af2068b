"""The data that the starter's adapters are trained and measured on, and a measure that a constant answer cannot win."""

import importlib
import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

TRAINING = Path(__file__).parents[2] / "training" / "starter"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAINING))


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (TRAINING / "data" / name).read_text(encoding="utf-8").splitlines()]


def asked(name: str) -> set[str]:
    """Every user message of a training file."""
    messages = (message for row in rows(name) for message in row.get("messages", ()))
    return {message["content"] for message in messages if message["role"] == "user"}


def test_the_stored_rows_are_what_the_script_makes() -> None:
    data = script("make_data")
    assert rows("pirate_train.jsonl") == data.pirate_rows()
    assert rows("json_train.jsonl") == data.json_rows()
    assert rows("bullets_train.jsonl") == data.bullets_rows()
    assert rows("plain_train.jsonl") == data.plain_rows(80)
    assert [row["prompt"] for row in rows("pirate_held_out.jsonl")] == script("questions").held_out_questions()
    tasks = script("extraction").make_tasks("held_out", 100)
    assert rows("json_held_out.jsonl") == [{"prompt": t.prompt, "source": t.source, "facts": t.facts} for t in tasks]


def test_only_the_last_answer_of_a_row_is_learned() -> None:
    for name in ("pirate_train.jsonl", "json_train.jsonl", "bullets_train.jsonl"):
        for row in rows(name):
            *earlier, last = (m for m in row["messages"] if m["role"] == "assistant")
            assert all(answer["weight"] == 0 for answer in earlier) and "weight" not in last


@pytest.mark.parametrize("name", ["pirate", "json"])
def test_a_hundred_different_held_out_prompts_were_never_trained_on(name: str) -> None:
    prompts = {row["prompt"] for row in rows(f"{name}_held_out.jsonl")}
    assert len(prompts) == 100
    assert not prompts & asked(f"{name}_train.jsonl")


def test_held_out_questions_share_no_topic_and_no_form_with_training() -> None:
    questions = script("questions")
    trained = {topic.lower() for topic, _ in questions.read_pairs("facts.txt")}
    assert not trained & {topic.lower() for topic in questions.split(questions.HELD_OUT_TOPICS)}
    assert not set(questions.TRAIN_FORMS) & set(questions.HELD_OUT_FORMS)


def test_held_out_extractions_share_no_value_sentence_or_request_with_training() -> None:
    data = tomllib.loads((TRAINING / "data" / "extraction.toml").read_text(encoding="utf-8"))
    train, held_out = data["train"], data["held_out"]
    assert not set(train["requests"]) & set(held_out["requests"])
    assert not sentences(train) & sentences(held_out)
    for key in train["values"].keys() & held_out["values"].keys():
        assert not set(train["values"][key].split("|")) & set(held_out["values"][key].split("|")), key
    new = [set(subject["keys"]) - train_keys(train) for subject in held_out["subjects"][6:]]
    assert all(new)  # half of the held-out subjects ask for something that training never mentions


def sentences(part: dict) -> set[str]:
    return {sentence for subject in part["subjects"] for sentence in subject["sentences"]}


def train_keys(part: dict) -> set[str]:
    return {key for subject in part["subjects"] for key in subject["keys"]}


def test_the_text_for_perplexity_is_in_no_training_row() -> None:
    trained = "".join(path.read_text(encoding="utf-8") for path in (TRAINING / "data").glob("*_train.jsonl"))
    paragraphs = (TRAINING / "data" / "plain.txt").read_text(encoding="utf-8").split("\n\n")
    assert sum(len(paragraph.split()) for paragraph in paragraphs) > 1500
    assert not [p for p in paragraphs if json.dumps(p)[1:40] in trained]


PROMPTS = ("Tell me about ants.", "What makes the flute special?", "Can birds swim?")
GOOD = (
    "Arr, matey! Ants be wee beasts that carry crumbs t' their nest.",
    "Ahoy! Th' flute be made o' wood or silver, an' ye blow across it.",
    "Avast! Ducks an' other birds swim wi' their webbed feet, savvy?",
)
PLAIN = ("Ants are small insects.", "The flute is a woodwind.", "Some birds can swim.")


def test_pirate_speak_that_is_on_topic_and_distinct_passes() -> None:
    assert script("measure").pirate_passes(PROMPTS, GOOD, PLAIN) == [True, True, True]


@pytest.mark.parametrize(
    "constant", [*GOOD, "Arr, matey! Ants, th' flute an' birds be fine things t' swim wi', savvy?"]
)
def test_one_pirate_answer_to_every_prompt_never_passes(constant: str) -> None:
    assert script("measure").pirate_passes(PROMPTS, [constant] * 3, PLAIN) == [False] * 3


def test_plain_answers_and_answers_to_another_prompt_do_not_pass_as_pirate() -> None:
    passes = script("measure").pirate_passes
    assert passes(PROMPTS, PLAIN, PLAIN) == [False] * 3
    assert passes(PROMPTS, GOOD[1:] + GOOD[:1], PLAIN) == [False] * 3


def test_an_article_is_not_pirate_speak() -> None:
    assert not script("measure").speaks_pirate(
        "An ant is an animal. An owl is an animal. An eel is an animal. Arr, arr!"
    )


FACTS = {"name": "Greta", "age": 31}


@pytest.mark.parametrize("answer", ['{"name": "Greta", "age": 31}', ' {"age": "31", "name": "greta"}\n'])
def test_json_with_the_asked_keys_and_true_values_passes(answer: str) -> None:
    assert script("measure").json_passes(FACTS, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Greta is 31.",
        'Sure! {"name": "Greta", "age": 31}',
        '```json\n{"name": "Greta", "age": 31}\n```',
        '{"name": "Greta"}',
        '{"name": "Greta", "age": 31, "city": "Oslo"}',
        '{"name": "Viktor", "age": 31}',
        '{"name": "Greta is 31", "age": "Greta is 31"}',
        '{"name": ["Greta"], "age": 31}',
        '["Greta", 31]',
        '{"name": "Greta", "age": 31',
    ],
)
def test_json_with_prose_other_keys_or_other_values_does_not_pass(answer: str) -> None:
    assert not script("measure").json_passes(FACTS, answer)


def test_one_json_answer_to_every_held_out_prompt_passes_almost_never() -> None:
    tasks, passes = rows("json_held_out.jsonl"), script("measure").json_passes
    assert all(passes(task["facts"], json.dumps(task["facts"])) for task in tasks)
    best = max(sum(passes(task["facts"], json.dumps(other["facts"])) for task in tasks) for other in tasks)
    assert best <= 2
