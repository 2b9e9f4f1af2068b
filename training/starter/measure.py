"""What counts as a good answer of the starter's adapters, so that a constant answer cannot win. No model here."""

import json
import re
from collections.abc import Sequence

PIRATE_WORDS = frozenset(
    "ahoy arr arrr aye avast matey mateys hearty hearties landlubber landlubbers scallywag scallywags blimey shiver "
    "timbers yo ho ye yer yers yerself an' o' t' th' wi' fer 'tis 'em ne'er e'er o'er 'twixt cap'n doubloons grog swig "
    "grub plunder savvy davy jones hoist bonny wee jolly lad lass smartly afore sprogs nary nay booty".split()
)
_COMMON = frozenset(
    "about above after again also always and another answer anything because been before being best better between "
    "both call came can cannot come could describe did does doing done down each enough even every everything explain "
    "few find first for from full get give good great had has have her here him his how idea into it's its just keep "
    "kind know large learn less let like little long look made make makes making many may mean mine more most much "
    "must name need never new next nice not nothing now off often once one only other our out over own part people "
    "place please put quite rather really right said same say see share she should show small some something special "
    "start such suggest take talk tell than that the their them then there these they thing things think this those "
    "thought time together too try two under until use used very want was way ways well were what when where which "
    "while who why will with without word work world would year years yes yet you your introduction worth talking "
    "short three help write busy today tonight".split()
)


def words(text: str) -> list[str]:
    """Lower case words with the apostrophes that pirates leave where letters were: `an'`, `sailin'`, `'tis`."""
    return re.findall(r"'?[a-z]+(?:'[a-z]*)*", text.lower().replace("’", "'"))


def is_pirate(word: str) -> bool:
    return word in PIRATE_WORDS or word.endswith("in'")


def content_stems(text: str) -> set[str]:
    """The first four letters of each word that carries meaning: long enough, not common, not pirate speak."""
    kept = {word for word in words(text) if len(word) > 2 and word not in _COMMON and word not in PIRATE_WORDS}
    return {word.strip("'")[:4] for word in kept}


def speaks_pirate(answer: str) -> bool:
    """At least every tenth word, and three different ones, are pirate speak."""
    said = words(answer)
    pirate = [word for word in said if is_pirate(word)]
    return len(set(pirate)) >= 3 and len(pirate) >= 0.1 * len(said)


def on_topic(prompt: str, answer: str, plain: str) -> bool:
    """The answer shares a meaningful word with the prompt, or three with `plain`, the base model's own answer."""
    stems = content_stems(answer)
    return bool(stems & content_stems(prompt)) or len(stems & content_stems(plain)) >= 3


def is_distinct(index: int, answers: Sequence[str]) -> bool:
    """No other answer has more than half of its words in common with this one."""
    mine = set(words(answers[index]))
    return all(2 * len(mine & set(words(a))) <= len(mine | set(words(a))) for i, a in enumerate(answers) if i != index)


def pirate_passes(prompts: Sequence[str], answers: Sequence[str], plain: Sequence[str]) -> list[bool]:
    """For each prompt: pirate speak, on topic, and unlike the answers to the other prompts."""
    return [
        speaks_pirate(answer) and on_topic(prompts[i], answer, plain[i]) and is_distinct(i, answers)
        for i, answer in enumerate(answers)
    ]


def bullets_passes(prompts: Sequence[str], answers: Sequence[str], plain: Sequence[str]) -> list[bool]:
    """For each prompt: nothing but points of a Markdown list, two to six, on topic, unlike the other answers."""
    return [
        is_list(answer) and on_topic(prompts[i], answer, plain[i]) and is_distinct(i, answers)
        for i, answer in enumerate(answers)
    ]


def is_list(answer: str) -> bool:
    """Two to six different points, each with some words, and nothing else."""
    lines = answer.strip().splitlines()
    points = {line[2:].strip() for line in lines if line.startswith("- ")}
    return 2 <= len(lines) <= 6 and len(points) == len(lines) and all(len(words(point)) >= 2 for point in points)


def json_passes(facts: dict[str, str | int], answer: str) -> bool:
    """The whole answer is one JSON object with exactly the asked keys and the values of this prompt's sentence."""
    try:
        found = json.loads(answer)
    except ValueError:
        return False
    if not isinstance(found, dict) or set(found) != set(facts):
        return False
    return all(str(found[key]).strip().casefold() == str(value).casefold() for key, value in facts.items())
