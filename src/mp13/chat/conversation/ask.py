"""What can be asked of a conversation's models, and how a prompt takes its place in the tree.

Functions here raise ConfigError where what is asked for cannot be; nothing changed then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mp13.chat.conversation.tree import Conversation
from mp13.chat.conversation.turn import Asked, Turn
from mp13.chat.text import utf8
from mp13.errors import ConfigError
from mp13.mix import parse_mix


@dataclass(frozen=True)
class Ask:
    """With `text`: a new prompt, at the end of the path, or in place of the prompt `turn`, which stays beside it.
    Without: further answers to the prompt `turn` (or to the prompt that the answer `turn` answers; default: the last).

    `turn` is a number on the path from 1, an id, or the beginning of one. `mixes` answer, side by side; none are the
    session's own. `continues` goes on with the last answer, which was cut off. `drops_oldest` lets the model read only
    as many of the latest exchanges as its context has room for. `is_preview` tells the answer without putting it into
    the conversation.
    """

    text: str | None = None
    mixes: tuple[str, ...] = ()
    turn: str | None = None
    continues: bool = False
    drops_oldest: bool = False
    is_preview: bool = False


def begin(tree: Conversation, ask: Ask, mix: str, system: str | None) -> Asked:
    """Let the path end with the prompt that is to be answered, which is stored first where it is new. `mix` answers
    where neither the ask nor a pin names another."""
    mixes = compared(ask.mixes)
    if ask.text is None:
        return _begin_again(tree, ask, mixes, mix)
    path = tree.turns
    if ask.turn is not None:
        replaced = tree.turn(ask.turn)
        if replaced.role != "user":
            raise ConfigError("only a turn of yours can be edited; an answer can be made again with /again")
        path = tree.path_before(replaced)
    if not ask.text.strip():
        raise ConfigError("the prompt is empty; say something")
    prompt = next_prompt(tree, path, ask.text, mix, system)
    tree.ask(prompt)
    return Asked(prompt, mixes or (prompt.mix,), is_next=ask.turn is None)


def compared(mixes: Sequence[str]) -> tuple[str, ...]:
    """`mixes` in their canonical form. Raises MixError where one is none."""
    canonical = tuple(str(parse_mix(mix)) for mix in mixes)
    if len(set(canonical)) < len(canonical):
        raise ConfigError(f"{', '.join(canonical)} cannot be compared; name two different mixes or more")
    return canonical


def _begin_again(tree: Conversation, ask: Ask, mixes: tuple[str, ...], mix: str) -> Asked:
    answered = tree.turn(ask.turn) if ask.turn is not None else tree.turns[-1] if tree.turns else None
    if answered is None:
        raise ConfigError("there is no prompt to answer; give one")
    prompt = tree.prompt_of(answered)
    own = answered.mix if ask.continues else tree.pin_on(tree.path_to(prompt)) or mix
    tree.ask_again(prompt)
    return Asked(prompt, mixes or (own,), is_next=False)


def in_memory(tree: Conversation) -> Conversation:
    """The path alone, for answers that leave no trace in `tree`."""
    made = Conversation(None, tree.id)
    for turn in tree.turns:
        made.ask(turn)
    return made


def next_prompt(tree: Conversation, path: list[Turn], text: str, mix: str, system: str | None) -> Turn:
    """The prompt `text` after `path`. A branch keeps to its pin, and to what it has left out of the model's reading."""
    skipped = next((turn.skipped for turn in reversed(path) if turn.role == "user"), 0)
    pinned = tree.pin_on(path) or mix
    return Turn("user", utf8(text), pinned, path[-1].id if path else None, system, skipped=skipped)


def answer_to_continue(tree: Conversation) -> Turn:
    """The last answer, which was cut off."""
    last = tree.turns[-1] if tree.turns else None
    if last is None or last.role != "assistant" or not last.token_ids:
        raise ConfigError("there is no answer to continue; ask something first")
    if last.finish_reason == "stop":
        raise ConfigError("the last answer came to its own end; only one that was cut off can be continued")
    return last
