"""Asks the starter itself for short plain answers, so that training keeps its own words: data/base_answers.txt.

`python training/starter/distill.py`, before make_data.py. Only training topics are asked; poor answers are dropped.
"""

import re

from chat import answers, load_starter
from measure import on_topic
from questions import DATA, TRAIN_FORMS, read_pairs

HINT = " Answer in one or two short sentences."
POOR = re.compile(r"sorry|\bAI\b|language model|assistant|\[|\*|:|\||\bI\b", re.IGNORECASE)


def questions() -> list[str]:
    """Two more questions for each training topic, in forms that its written fact does not use."""
    topics = [topic for topic, _ in read_pairs("facts.txt")]
    return [
        TRAIN_FORMS[(i + step) % len(TRAIN_FORMS)].format(topic) for step in (5, 9) for i, topic in enumerate(topics)
    ]


def shortened(answer: str) -> str:
    """The whole sentences at the start of `answer`, two at most."""
    return " ".join(re.findall(r"[^.!?]+[.!?]+(?=\s|$)", " ".join(answer.split()))[:2]).replace("  ", " ").strip()


def main() -> None:
    model, tokenizer = load_starter()
    asked = questions()
    said = answers(model, tokenizer, [[{"role": "user", "content": question + HINT}] for question in asked], 60)
    pairs = [(question, shortened(answer)) for question, answer in zip(asked, said, strict=True)]
    good = [(q, a) for q, a in pairs if 5 <= len(a.split()) <= 45 and not POOR.search(a) and on_topic(q, a, "")]
    text = "".join(f"{question} | {answer}\n" for question, answer in good)
    (DATA / "base_answers.txt").write_text(text, encoding="utf-8", newline="\n")
    print(f"kept {len(good)} of {len(asked)} answers")


if __name__ == "__main__":
    main()
