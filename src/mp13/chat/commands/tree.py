"""The commands that move in the conversation's tree: edit, again, continue, siblings, undo, fork, delete.

A turn is named by its number on the path, which /turns shows, or by its id.
"""

from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.conversation.answer import exchanges
from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.room import oldest_exchanges
from mp13.chat.conversation.turn import CommandResult, Turn
from mp13.chat.text import number_in
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession


async def _turns(session: "ChatSession", argument: str) -> CommandResult:
    lines = []
    for number, turn in enumerate(session.turns, start=1):
        beside = session.tree.siblings(turn)
        place = f" ‹{beside.index(turn) + 1}/{len(beside)}›" if len(beside) > 1 else ""
        who = "you" if turn.role == "user" else turn.mix
        lines.append(f"{number:>3}  {who}{place}  {' '.join(turn.text.split())[:60]}")
    return CommandResult("\n".join(lines) or "nothing has been said yet")


async def _edit(session: "ChatSession", argument: str) -> CommandResult:
    which, _, text = argument.partition(" ")
    if not text.strip():
        raise ConfigError("/edit needs the number of a turn of yours and its new text; /turns lists them")
    return CommandResult("", ask=Ask(text.strip(), turn=which))


async def _again(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", ask=Ask(turn=argument or None))


async def _continue(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", ask=Ask(continues=True))


async def _next(session: "ChatSession", argument: str) -> CommandResult:
    return _walked(session, argument, 1)


async def _previous(session: "ChatSession", argument: str) -> CommandResult:
    return _walked(session, argument, -1)


def _walked(session: "ChatSession", which: str, step: int) -> CommandResult:
    beside = session.tree.walk(_named(session, which), step)
    all_of_them = session.tree.siblings(beside)
    session.moved()
    return CommandResult(f"{all_of_them.index(beside) + 1} of {len(all_of_them)}", turns_changed=True, mix_changed=True)


async def _go(session: "ChatSession", argument: str) -> CommandResult:
    if not argument:
        raise ConfigError("/go needs the number or the id of a turn; /turns lists those of this branch")
    turn = session.tree.turn(argument)
    session.tree.go(turn)
    session.moved()
    return CommandResult(f"at {' '.join(turn.text.split())[:60]!r}", turns_changed=True, mix_changed=True)


async def _undo(session: "ChatSession", argument: str) -> CommandResult:
    session.tree.undo()
    session.moved()
    return CommandResult("undone; /redo does it again", turns_changed=True, mix_changed=True)


async def _redo(session: "ChatSession", argument: str) -> CommandResult:
    session.tree.redo()
    session.moved()
    return CommandResult("done again", turns_changed=True, mix_changed=True)


async def _fork(session: "ChatSession", argument: str) -> CommandResult:
    session.fork(_named(session, argument))
    return CommandResult("a conversation of its own from here on", turns_changed=True, mix_changed=True)


async def _branch(session: "ChatSession", argument: str) -> CommandResult:
    there = len(exchanges(session.turns))
    if (count := number_in(argument, 0, there)) is None:
        raise ConfigError(f"/branch needs the number of exchanges to leave behind, 0 to {there}")
    session.branch(count)
    if session.turns[-1].role == "user":
        return CommandResult("", ask=Ask())
    return CommandResult("a conversation of its own from here on", turns_changed=True, mix_changed=True)


async def _delete(session: "ChatSession", argument: str) -> CommandResult:
    if not argument:
        raise ConfigError("/delete needs the number of a turn; it goes with all that came after it; /turns lists them")
    count = session.tree.delete(_named(session, argument))
    session.moved()
    return CommandResult(f"{count} turns deleted; /undo brings them back", turns_changed=True, mix_changed=True)


async def _drop(session: "ChatSession", argument: str) -> CommandResult:
    prompt = session.tree.prompt
    if prompt is None:
        raise ConfigError("nothing has been said yet")
    if argument:
        there = len(exchanges(session.turns))
        if (number := number_in(argument, 0, there)) is None:
            raise ConfigError(f"/drop {argument:.20} is no number of exchanges; give 0 to {there}")
        session.tree.skip(number)
        session.moved()
    count = number if argument else prompt.skipped
    left_out = f"without {oldest_exchanges(count)}" if count else "from the beginning"
    return CommandResult(f"the model reads the conversation {left_out}")


async def _details(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", report=session.details(_named(session, argument)))


async def _replay(session: "ChatSession", argument: str) -> CommandResult:
    replay = await session.replay(_named(session, argument))
    return CommandResult("", report=replay.report())


def _named(session: "ChatSession", which: str) -> Turn:
    """The turn `which`; "" is the last."""
    if not which and not session.turns:
        raise ConfigError("nothing has been said yet")
    return session.tree.turn(which or str(len(session.turns)))


TREE_COMMANDS = (
    Command("/turns", "", "List the turns of this branch with their numbers.", _turns),
    Command("/edit", "N TEXT", "Ask turn N differently; what it was stays beside it.", _edit),
    Command("/again", "[N]", "Another answer, of the mix that answers now.", _again),
    Command("/continue", "", "Go on with an answer that was cut off.", _continue),
    Command("/next", "[N]", "The next of the turns that stand beside one.", _next),
    Command("/previous", "[N]", "The one before.", _previous),
    Command("/go", "N", "Go to a turn, also one of another branch.", _go),
    Command("/undo", "", "Take back the last thing done to the conversation.", _undo),
    Command("/redo", "", "Do it again.", _redo),
    Command("/details", "[N]", "All that is known of a turn: what made it, what it cost.", _details),
    Command("/replay", "[N]", "Make an answer again and compare; nothing is stored.", _replay),
    Command("/fork", "[N]", "Go on from a turn in a conversation of its own.", _fork),
    Command("/branch", "N", "Go on without the oldest N exchanges in a new conversation.", _branch),
    Command("/delete", "N", "Delete a turn and all that came after it.", _delete),
    Command("/drop", "[N]", "Let the model not read the oldest N exchanges.", _drop),
)
