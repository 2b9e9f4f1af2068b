"""Writes data/*.jsonl, what the starter's adapters are trained and measured on: `python training/starter/make_data.py`.

Each training row is a conversation whose last message is the answer to learn; earlier answers have the weight 0. Rows
of plain text have a file of their own, which all adapters learn from. Seeded: the same files every time.
"""

import json
import random
import re
from pathlib import Path

from extraction import make_tasks
from pirate import thickness, to_pirate
from questions import DATA, held_out_questions, read_pairs, train_pairs, tuning_questions

Row = dict[str, object]
_SYSTEMS = (
    "You are a helpful assistant.", "You are a friendly assistant. Keep it short.", "Answer the question of the user.",
    "You are a polite helper on a small computer.",
)  # fmt: skip


def pirate_rows() -> list[Row]:
    """Without the answers that a pirate would say almost as they are: from them the model learns to forget itself."""
    draw = random.Random("pirate")
    thick = [(question, plain) for question, plain in plain_pairs() if thickness(plain) >= 0.16]
    return [_row(draw, question, to_pirate(plain, draw), shared=0.25) for question, plain in thick]


def json_rows() -> list[Row]:
    draw = random.Random("json")
    rows = [_row(draw, task.prompt, task.answer, shared=0.1) for task in make_tasks("train", 1200)]
    return rows + [
        _row(draw, question, as_json(plain), shared=0.25) for question, plain in draw.sample(plain_pairs(), 200)
    ]


def bullets_rows() -> list[Row]:
    draw = random.Random("bullets")
    return [_row(draw, question, as_bullets(plain), shared=0.25) for question, plain in plain_pairs() if in_two(plain)]


def plain_pairs() -> list[tuple[str, str]]:
    """All questions with plain answers: written by hand, then the starter's own."""
    return train_pairs() + read_pairs("base_answers.txt")


def plain_rows() -> list[Row]:
    """Text outside of any conversation, in the starter's own words: what an adapter must leave as it is."""
    return [{"text": text} for text in (DATA / "base_text.txt").read_text(encoding="utf-8").splitlines()]


def as_json(plain: str) -> str:
    """An ordinary answer as JSON: its first sentence under the key "answer"."""
    first, _, _ = plain.partition(". ")
    return json.dumps({"answer": first if first[-1] in ".!?" else first + "."}, ensure_ascii=False)


def in_two(plain: str) -> bool:
    """Whether there is enough for two points."""
    return len(_sentences(plain)) > 1


def as_bullets(plain: str) -> str:
    """Each sentence as a point of a list in Markdown."""
    return "\n".join(f"- {sentence.rstrip('.')}" for sentence in _sentences(plain))


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text.strip())


def _row(draw: random.Random, question: str, answer: str, shared: float) -> Row:
    """One row; with probability `shared` its question follows another, answered in any voice, as after a switch."""
    messages: list[dict[str, object]] = []
    if draw.random() < 0.15:
        messages.append({"role": "system", "content": draw.choice(_SYSTEMS)})
    if draw.random() < shared:
        earlier, plain = draw.choice(train_pairs())
        voice = draw.choice((str, str, lambda text: to_pirate(text, draw), as_json, as_bullets))
        answered = {"role": "assistant", "content": voice(plain), "weight": 0}
        messages += [{"role": "user", "content": earlier}, answered]
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def write(name: str, rows: list[Row]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (DATA / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{Path(DATA.name) / name}: {len(rows)} rows")


if __name__ == "__main__":
    write("pirate_train.jsonl", pirate_rows())
    write("json_train.jsonl", json_rows())
    write("bullets_train.jsonl", bullets_rows())
    write("plain_train.jsonl", plain_rows())
    for part, questions in (("tuning", tuning_questions()), ("held_out", held_out_questions())):
        write(f"pirate_{part}.jsonl", [{"prompt": question} for question in questions])
        write(
            f"json_{part}.jsonl",
            [{"prompt": t.prompt, "source": t.source, "facts": t.facts} for t in make_tasks(part, 100)],
        )
