"""Extraction tasks from data/extraction.toml: a sentence with facts, the keys that are asked, the JSON that answers."""

import json
import random
import tomllib
from dataclasses import dataclass
from typing import Any

from questions import DATA

Value = str | int
_SYLLABLES = (
    "ba bel cor car del dov eb fin fra ga gre hol har il jun ka kel lim lor mor man nel nor os ost pra pel quin ro ris "
    "sel stok tam tur ul ven ver wen war yor yam zan zel"
).split()
_INVENTABLE = {"name", "city", "company", "team", "pet", "shop", "school", "brand", "country"}
_MONTHS = "January February March April May June July October November December".split()  # others are held out
MAX_KEYS = 4


@dataclass(frozen=True)
class Task:
    """A request in plain text and the facts that its JSON answer holds, in the order asked."""

    prompt: str
    source: str  # the sentence alone
    facts: dict[str, Value]

    @property
    def answer(self) -> str:
        return json.dumps(self.facts, ensure_ascii=False)


def make_tasks(part: str, count: int) -> list[Task]:
    """`count` different tasks of `part`, "train" or "held_out". Its subjects take turns."""
    data = tomllib.loads((DATA / "extraction.toml").read_text(encoding="utf-8"))
    draw = random.Random(part)
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        subjects = data[part]["subjects"]
        task = _make(draw, subjects[len(tasks) % len(subjects)], data[part], data["numbers"])
        tasks.setdefault(task.prompt, task)
    return list(tasks.values())


def _make(draw: random.Random, subject: dict[str, Any], part: dict[str, Any], numbers: dict[str, list[int]]) -> Task:
    facts: dict[str, Value] = {}
    for key in subject["keys"]:
        if key in numbers:
            facts[key] = draw.randint(*numbers[key])
        elif key == "phone":
            facts[key] = f"555-{draw.randint(1000, 9999)}"
        elif part.get("invent") and draw.random() < 0.5 and (invented := _invented(draw, key)):
            facts[key] = invented
        else:
            facts[key] = draw.choice(part["values"][key].split("|"))
    source = draw.choice(subject["sentences"]).format(**facts)
    asked = draw.sample(subject["keys"], draw.randint(2, min(MAX_KEYS, len(subject["keys"]))))
    prompt = draw.choice(part["requests"]).format(keys=_listed(draw, asked), text=source)
    return Task(prompt, source, {key: facts[key] for key in asked})


def _invented(draw: random.Random, key: str) -> str | None:
    """A value that is in no list: a name of syllables, a date, a time between those that lists have."""
    if key in _INVENTABLE:
        return "".join(draw.sample(_SYLLABLES, draw.randint(2, 3))).capitalize()
    if key == "day":
        return f"{draw.choice(_MONTHS)} {draw.randint(1, 30)}"
    if key == "time":
        return f"{draw.randint(5, 23)}:{draw.randrange(0, 60, 5) + draw.randint(1, 4):02d}"
    return None


def _listed(draw: random.Random, keys: list[str]) -> str:
    style = draw.randrange(3)
    if style == 0:
        return ", ".join(keys)
    if style == 1:
        return ", ".join(f'"{key}"' for key in keys)
    return ", ".join(keys[:-1]) + f" and {keys[-1]}"
