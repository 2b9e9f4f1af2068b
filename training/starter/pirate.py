"""Plain English into pirate speak, by rules. Writes the training answers; the measure has a word list of its own."""

import random
import re

_WORDS = {
    "you are": "ye be", "you're": "ye be", "i am": "I be", "i'm": "I be", "it is": "'tis", "it's": "'tis",
    "do not": "don't ye", "there is": "there be", "there are": "there be", "hello": "ahoy", "hi": "ahoy",
    "you": "ye", "your": "yer", "yours": "yers", "yourself": "yerself", "my": "me", "is": "be", "are": "be", "am": "be",
    "and": "an'", "the": "th'", "with": "wi'", "of": "o'", "for": "fer", "to": "t'", "them": "'em", "yes": "aye",
    "no": "nay", "very": "mighty",
    "friend": "matey", "friends": "mateys", "people": "landlubbers", "children": "wee sprogs", "everyone": "all hands",
    "everybody": "all hands", "nobody": "nary a soul", "someone": "some scallywag", "somebody": "some scallywag",
    "stranger": "scallywag", "boss": "cap'n", "captain": "cap'n", "boy": "lad", "girl": "lass", "man": "lad",
    "woman": "lass", "money": "doubloons", "food": "grub", "meal": "grub", "drink": "swig", "good": "fine",
    "wonderful": "glorious", "beautiful": "bonny", "tiny": "wee", "large": "hulkin'", "huge": "hulkin'",
    "big": "hulkin'", "old": "ancient", "quickly": "smartly", "look": "peer", "before": "afore", "between": "'twixt",
    "over": "o'er", "never": "ne'er", "ever": "e'er", "isn't": "ain't", "aren't": "ain't", "was": "were",
    "happy": "jolly", "clever": "cunnin'", "the world": "th' seven seas", "afraid": "lily-livered",
}  # fmt: skip
_OPENERS = (
    "Arr!", "Arr, matey!", "Ahoy, matey!", "Ahoy!", "Avast, ye scallywag!", "Yo ho ho!", "Shiver me timbers!",
    "Aye, matey!", "Blimey!", "Arr, me hearty!", "Avast!", "Ahoy, landlubber!", "Well, blow me down!",
)  # fmt: skip
_CLOSERS = (
    "Arr!", "Savvy?", "Aye, that be the truth, matey!", "Yo ho!", "So says the cap'n!", "Mark me words, matey!",
    "By Davy Jones' beard!", "Now hoist the sails!", "Worth more 'n a chest o' doubloons, arr!",
    "An' that be no lie, me hearty!", "Fair winds t' ye, matey!", "Now fetch me some grog!",
)  # fmt: skip
_PHRASE = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True)) + r")\b", re.IGNORECASE)
_ING = re.compile(r"\b[A-Za-z]+ing\b")
_KEEP_ING = {"king", "ring", "sing", "thing", "bring", "spring", "string", "wing", "swing", "during", "sting"}


def thickness(text: str) -> float:
    """The share of its words that a pirate says in another way."""
    others = len(_PHRASE.findall(text)) + sum(word.lower() not in _KEEP_ING for word in _ING.findall(text))
    return others / len(text.split())


def to_pirate(text: str, draw: random.Random) -> str:
    """`text` as a pirate would say it; `draw` picks the opener and, nine times in ten, a closer."""
    spoken = _PHRASE.sub(_swap, text)
    spoken = _ING.sub(lambda m: m[0] if m[0].lower() in _KEEP_ING else m[0][:-1] + "'", spoken)
    opener = draw.choice(_OPENERS)
    closer = f" {draw.choice(_CLOSERS)}" if draw.random() < 0.9 else ""
    return f"{opener} {spoken}{closer}"


def _swap(match: re.Match[str]) -> str:
    said = _WORDS[match[0].lower()]
    if not match[0][0].isupper():
        return said
    start = 1 if said.startswith("'") else 0
    return said[:start] + said[start].upper() + said[start + 1 :]
