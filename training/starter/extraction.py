"""Extraction tasks from data/extraction.toml: a sentence with facts, the keys that are asked, the JSON that answers."""

import json
import random
import tomllib
from dataclasses import dataclass
from typing import Any

from questions import DATA

Value = str | int
_SYLLABLES = "ba cor del fin ga hol jun ka lim mor nel os pra quin ro sel tam ul ver wen yor zan".split()
_INVENTABLE = {"name", "city", "company", "team", "pet", "shop"}
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
        elif key in _INVENTABLE and part.get("invent") and draw.random() < 0.4:
            facts[key] = "".join(draw.sample(_SYLLABLES, draw.randint(2, 3))).capitalize()
        else:
            facts[key] = draw.choice(part["values"][key].split("|"))
    source = draw.choice(subject["sentences"]).format(**facts)
    asked = draw.sample(subject["keys"], draw.randint(2, min(MAX_KEYS, len(subject["keys"]))))
    prompt = draw.choice(part["requests"]).format(keys=_listed(draw, asked), text=source)
    return Task(prompt, source, {key: facts[key] for key in asked})


def _listed(draw: random.Random, keys: list[str]) -> str:
    style = draw.randrange(3)
    if style == 0:
        return ", ".join(keys)
    if style == 1:
        return ", ".join(f'"{key}"' for key in keys)
    return ", ".join(keys[:-1]) + f" and {keys[-1]}"
