"""The data that the starter's adapters are trained and measured on, and a measure that a constant answer cannot win."""

import importlib
import json
import tomllib
from itertools import combinations
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
    assert rows("plain_train.jsonl") == data.plain_rows()


@pytest.mark.parametrize("part", ["tuning", "held_out"])
def test_the_stored_prompts_are_what_the_script_makes(part: str) -> None:
    questions = getattr(script("questions"), f"{part}_questions")()
    assert [row["prompt"] for row in rows(f"pirate_{part}.jsonl")] == questions
    tasks = script("extraction").make_tasks(part, 100)
    assert rows(f"json_{part}.jsonl") == [{"prompt": t.prompt, "source": t.source, "facts": t.facts} for t in tasks]


def test_only_the_last_answer_of_a_row_is_learned() -> None:
    for name in ("pirate_train.jsonl", "json_train.jsonl", "bullets_train.jsonl"):
        for row in rows(name):
            *earlier, last = (m for m in row["messages"] if m["role"] == "assistant")
            assert all(answer["weight"] == 0 for answer in earlier) and "weight" not in last


@pytest.mark.parametrize("part", ["tuning", "held_out"])
@pytest.mark.parametrize("name", ["pirate", "json"])
def test_a_hundred_different_prompts_to_measure_by_were_never_trained_on(name: str, part: str) -> None:
    prompts = {row["prompt"] for row in rows(f"{name}_{part}.jsonl")}
    assert len(prompts) == 100
    assert not prompts & asked(f"{name}_train.jsonl")


def test_held_out_questions_share_no_topic_and_no_form_with_training_or_tuning() -> None:
    questions = script("questions")
    trained = {topic.lower() for topic, _ in questions.read_pairs("facts.txt")}
    tuned = {topic.lower() for topic in questions.split(questions.TUNING_TOPICS)}
    held_out = {topic.lower() for topic in questions.split(questions.HELD_OUT_TOPICS)}
    assert not trained & tuned and not (trained | tuned) & held_out
    forms = (set(questions.TRAIN_FORMS), set(questions.TUNING_FORMS), set(questions.HELD_OUT_FORMS))
    assert not any(one & other for one, other in combinations(forms, 2))
    everyday = ({question for question, _ in questions.read_pairs("everyday.txt")}, *(
        set(questions.split(block)) for block in (questions.TUNING_EVERYDAY, questions.HELD_OUT_EVERYDAY)
    ))  # fmt: skip
    assert not any(one & other for one, other in combinations(everyday, 2))


@pytest.mark.parametrize(("left", "right"), list(combinations(("train", "tuning", "held_out"), 2)))
def test_extractions_of_two_parts_share_no_value_sentence_or_request(left: str, right: str) -> None:
    data = tomllib.loads((TRAINING / "data" / "extraction.toml").read_text(encoding="utf-8"))
    one, other = data[left], data[right]
    assert not set(one["requests"]) & set(other["requests"])
    assert not sentences(one) & sentences(other)
    for key in one["values"].keys() & other["values"].keys():
        assert not set(one["values"][key].split("|")) & set(other["values"][key].split("|")), key


@pytest.mark.parametrize("part", ["tuning", "held_out"])
def test_what_is_invented_for_training_is_none_of_the_values_to_measure_by(part: str) -> None:
    data = tomllib.loads((TRAINING / "data" / "extraction.toml").read_text(encoding="utf-8"))
    trained = {str(value) for task in script("extraction").make_tasks("train", 1200) for value in task.facts.values()}
    measured = {value for values in data[part]["values"].values() for value in values.split("|")}
    assert not trained & measured


@pytest.mark.parametrize("part", ["tuning", "held_out"])
def test_half_of_the_subjects_to_measure_by_ask_for_what_training_never_mentions(part: str) -> None:
    data = tomllib.loads((TRAINING / "data" / "extraction.toml").read_text(encoding="utf-8"))
    assert len(data[part]["subjects"]) == 12
    assert all(set(subject["keys"]) - train_keys(data["train"]) for subject in data[part]["subjects"][6:])


def sentences(part: dict) -> set[str]:
    return {sentence for subject in part["subjects"] for sentence in subject["sentences"]}


def train_keys(part: dict) -> set[str]:
    return {key for subject in part["subjects"] for key in subject["keys"]}


def test_the_text_for_perplexity_is_in_no_training_row() -> None:
    trained = "".join(path.read_text(encoding="utf-8") for path in (TRAINING / "data").glob("*_train.jsonl"))
    paragraphs = (TRAINING / "data" / "plain.txt").read_text(encoding="utf-8").split("\n\n")
    assert sum(len(paragraph.split()) for paragraph in paragraphs) > 1500
    assert not [p for p in paragraphs if json.dumps(p)[1:40] in trained]


def test_pirates_learn_no_answer_that_they_would_hardly_change() -> None:
    pirate = script("pirate")
    assert pirate.thickness("Bach wrote cantatas.") == 0
    assert pirate.thickness("The king is sleeping.") == 0.75
    taught = {row["messages"][-2]["content"] for row in rows("pirate_train.jsonl")}
    thin = {question for question, plain in script("make_data").plain_pairs() if pirate.thickness(plain) < 0.16}
    assert thin and not thin & taught


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
