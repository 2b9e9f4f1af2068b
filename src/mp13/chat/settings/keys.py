"""Every key of the chat's screen, declared once: it becomes a binding, a line of the help and a row of the docs.

Which keys a reader may put in their place is checked here; what an action does is the screen's. No Textual.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mp13.errors import ConfigError

# A scope is where the focus has to be. "chat" is everywhere but in dialogs, "app" everywhere.
SCOPES = {
    "prompt": "In the prompt",
    "chat": "Everywhere in the chat",
    "turns": "On a turn of the conversation",
    "conversations": "In the conversations panel",
    "adapters": "In the adapters panel",
    "comparison": "In a comparison",
    "diff": "In the heat map of a diff",
    "training": "While an adapter is trained",
    "dialogs": "In dialogs",
    "app": "Always",
}
_NAMED = set(
    "enter escape tab space up down left right home end pageup pagedown insert delete backspace minus plus".split()
)
_MODIFIERS = ("ctrl", "shift", "alt", "super")
_SAME_ON_A_TERMINAL = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+h": "backspace", "ctrl+[": "escape"}
_LABELS = {"pageup": "PageUp", "pagedown": "PageDown", "escape": "Esc", "delete": "Del", "minus": "-", "plus": "+"}


@dataclass(frozen=True)
class KeyAction:
    """What keys do. `keys` are the default ones, with commas between; `help` completes "press it to …". One that is not
    `told` is meant by the help of the action before it."""

    id: str
    keys: str
    help: str
    scope: str
    told: bool = True


def _series(id: str, modifier: str, first: str, what: str, scope: str, count: int) -> tuple[KeyAction, ...]:
    """Actions of the digits from 1: `id`_1 and so on."""
    told = f"{first}; {modifier}2 to {modifier}{count} {what}"
    helps = {1: told.replace("alt+", "Alt+")}
    return tuple(
        KeyAction(f"{id}_{n}", f"{modifier}{n}", helps.get(n, f"{what} {n}"), scope, told=n == 1)
        for n in range(1, count + 1)
    )


_TABLE = (
    KeyAction("prompt.send", "enter", "send", "prompt"),
    KeyAction("prompt.newline", "shift+enter,ctrl+j,alt+enter", "begin a new line", "prompt"),
    KeyAction(
        "prompt.complete",
        "tab",
        "complete a name, open a paste, else go to the next region",
        "prompt",
    ),
    KeyAction("prompt.earlier", "up", "bring back an earlier prompt", "prompt"),
    KeyAction("prompt.later", "down", "bring back a later prompt", "prompt"),
    KeyAction("prompt.search", "ctrl+r", "search earlier prompts", "prompt"),
    KeyAction("prompt.editor", "ctrl+g", "write on in your own editor, $VISUAL or $EDITOR", "prompt"),
    KeyAction("prompt.page_up", "pageup", "scroll the conversation up", "prompt"),
    KeyAction("prompt.page_down", "pagedown", "scroll the conversation down", "prompt"),
    KeyAction("prompt.copy", "ctrl+c,super+c", "copy what is selected; else, pressed twice, quit", "prompt"),
    KeyAction("answer.stop", "escape", "stop the answer, or take back a prompt that waits", "chat"),
    KeyAction("answer.thoughts", "f7", "unfold what the model thought before it answered, or fold it", "chat"),
    KeyAction("regions.next", "tab", "go to the next region", "chat"),
    KeyAction("regions.previous", "shift+tab", "go to the region before", "chat"),
    KeyAction("conversations.panel", "f3,ctrl+b", "go to the conversations, or fold them away", "chat"),
    KeyAction("adapters.panel", "f4", "go to the adapters, or fold them away", "chat"),
    KeyAction("adapters.base", "alt+0", "let the base answer from now on", "chat"),
    *_series("adapters.nth", "alt+", "let the first adapter of the list answer", "those after it", "chat", 9),
    KeyAction("adapters.pick", "ctrl+o", "choose or mix adapters by name", "chat"),
    KeyAction("conversations.new", "ctrl+n", "start a new conversation", "chat"),
    KeyAction("conversations.search", "ctrl+f", "search all conversations", "chat"),
    KeyAction("chat.undo", "ctrl+z", "undo: a deleted conversation, else what was done to this one", "chat"),
    KeyAction("chat.redo", "ctrl+y", "do it again", "chat"),
    KeyAction("turns.enter", "alt+up", "go to the turns of the conversation", "chat"),
    KeyAction("turns.onward", "alt+down", "go down among the turns, at last to the prompt", "chat"),
    KeyAction("chat.theme", "ctrl+t", "try themes on", "chat"),
    KeyAction("chat.sampling", "f6", "see and change how answers are sampled", "chat"),
    KeyAction("chat.model", "f8", "choose another model", "chat"),
    KeyAction("chat.help", "f1", "show the keys, the commands and the engine", "chat"),
    KeyAction("turns.up", "up", "mark the turn above", "turns"),
    KeyAction("turns.down", "down", "mark the turn below", "turns"),
    KeyAction("turns.previous", "left", "show the turn before it that stands beside it", "turns"),
    KeyAction("turns.next", "right", "show the next turn that stands beside it", "turns"),
    KeyAction("turns.edit", "e", "ask it differently; what it was stays beside it", "turns"),
    KeyAction("turns.again", "r", "get another answer", "turns"),
    KeyAction("turns.continue", "g", "go on with an answer that was cut off", "turns"),
    KeyAction("turns.details", "d,enter", "show all that is known of it", "turns"),
    KeyAction("turns.replay", "v", "make the answer again, and see whether it is the same", "turns"),
    KeyAction("turns.copy", "c", "copy its text", "turns"),
    KeyAction("turns.code", "y", "copy its code; again, its next block of code", "turns"),
    KeyAction("turns.fork", "f", "go on from it in a conversation of its own", "turns"),
    KeyAction("turns.pin", "p", "pin its mix from that turn on, or take the pin away", "turns"),
    KeyAction("turns.delete", "delete", "delete it and all that came after it", "turns"),
    KeyAction("turns.leave", "escape", "back to the prompt", "turns"),
    KeyAction("conversations.open", "enter", "open it", "conversations"),
    KeyAction("conversations.rename", "f2", "give it another title", "conversations"),
    KeyAction("conversations.archive", "ctrl+a", "put it in the archive, or take it out", "conversations"),
    KeyAction("conversations.delete", "delete", "delete it", "conversations"),
    KeyAction("conversations.up", "up", "mark the one above", "conversations"),
    KeyAction("conversations.down", "down", "mark the one below", "conversations"),
    KeyAction("conversations.leave", "escape", "back to the prompt", "conversations"),
    KeyAction("adapters.choose", "enter", "let it answer from now on", "adapters"),
    KeyAction("adapters.toggle", "space", "put it into the mix, or take it out", "adapters"),
    KeyAction(
        "adapters.heavier", "right,plus", "raise its weight by 0.1; a number that is typed is its weight", "adapters"
    ),
    KeyAction("adapters.lighter", "left,minus", "lower its weight by 0.1", "adapters"),
    KeyAction("adapters.bit_heavier", "shift+right", "raise its weight by 0.05", "adapters"),
    KeyAction("adapters.bit_lighter", "shift+left", "lower its weight by 0.05", "adapters"),
    KeyAction("adapters.pin", "p", "pin the mix to this branch, or free it", "adapters"),
    KeyAction("adapters.follow", "f", "let the last answer follow the mix as a preview, or no more", "adapters"),
    KeyAction("adapters.leave", "escape", "back to the prompt", "adapters"),
    *_series("comparison.keep", "", "go on with the first answer", "those after it", "comparison", 9),
    KeyAction("comparison.leave", "escape", "back to the prompt", "comparison"),
    KeyAction("diff.right", "right", "go to the next token", "diff"),
    KeyAction("diff.left", "left", "go to the token before", "diff"),
    KeyAction("diff.next_turned", "down", "go to the next token that the other would not have said", "diff"),
    KeyAction("diff.previous_turned", "up", "go to the one before", "diff"),
    KeyAction("diff.leave", "escape", "back to the answer and the prompt", "diff"),
    KeyAction("training.pause", "p", "pause, or go on", "training"),
    KeyAction("training.stop", "s", "stop, and keep the adapter as it is", "training"),
    KeyAction("training.cancel", "c", "pressed twice, cancel; nothing of it is kept", "training"),
    KeyAction("training.page_up", "pageup", "scroll the answers up", "training"),
    KeyAction("training.page_down", "pagedown", "scroll the answers down", "training"),
    KeyAction("training.leave", "escape", "back to the chat; it goes on", "training"),
    KeyAction("dialog.keep", "enter", "take what is marked or written", "dialogs"),
    KeyAction("dialog.close", "escape", "leave everything as it was", "dialogs"),
    KeyAction("dialog.up", "up", "mark the one above", "dialogs"),
    KeyAction("dialog.down", "down", "mark the one below", "dialogs"),
    KeyAction("dialog.page_up", "pageup", "scroll up what is shown under a form", "dialogs"),
    KeyAction("dialog.page_down", "pagedown", "scroll it down", "dialogs"),
    KeyAction("dialog.copy", "ctrl+c", "copy all of it as JSON", "dialogs"),
    KeyAction("dialog.complete", "tab", "complete the name", "dialogs"),
    KeyAction("dialog.reset", "ctrl+r", "put the defaults back", "dialogs"),
    KeyAction("app.palette", "ctrl+p", "search all commands and actions", "app"),
    KeyAction("app.redraw", "ctrl+l", "draw the screen anew", "app"),
    KeyAction("app.quit", "ctrl+q", "quit", "app"),
)
KEY_ACTIONS = {action.id: action for action in _TABLE}


def keys_of(given: Mapping[str, str]) -> dict[str, str]:
    """The keys of every action, with those that were `given` in place of the default ones."""
    return {id: given.get(id, action.keys) for id, action in KEY_ACTIONS.items()}


def label(keys: str) -> str:
    """`keys` as they are printed on a keyboard, for instance `Ctrl+O, F4`."""
    return ", ".join("+".join(_LABELS.get(part, part.capitalize()) for part in key.split("+")) for key in _split(keys))


def checked_keys(given: Mapping[str, str]) -> dict[str, str]:
    """`given` in the one spelling that Textual knows.

    Raises:
        ConfigError: there is no such action or key, or a key has something else to do already.
    """
    changed = {id: ",".join(_checked_key(id, key) for key in _split(keys)) for id, keys in given.items()}
    for id, keys in changed.items():
        for key in set(keys.split(",")) - set(KEY_ACTIONS[id].keys.split(",")):
            for other in _clashes(KEY_ACTIONS[id], key, keys_of(changed)):
                raise ConfigError(
                    f"keys = {key!r} for {id!r} cannot be used: {other.id!r} has it already, to {other.help}; "
                    f"choose another, or give {other.id!r} another"
                )
    return changed


def _clashes(action: KeyAction, key: str, keys: Mapping[str, str]) -> Iterator[KeyAction]:
    """What else `key` does where `action` can be meant."""
    for other in KEY_ACTIONS.values():
        if other is not action and key in keys[other.id].split(",") and _overlap(action.scope, other.scope):
            yield other


def _overlap(one: str, other: str) -> bool:
    scopes = {one, other}
    return len(scopes) == 1 or "app" in scopes or ("chat" in scopes and not scopes & {"dialogs", "training"})


def _split(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",")] if keys != "," else [","]


def _checked_key(id: str, key: str) -> str:
    if id not in KEY_ACTIONS:
        near = difflib.get_close_matches(id, KEY_ACTIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there: {', '.join(KEY_ACTIONS)}"
        raise ConfigError(f"keys = {id!r} cannot be used, there is no such action; {hint}")
    written = f"keys = {key!r} for {id!r} cannot be used"
    key = {"+": "plus", "-": "minus"}.get(key, key.lower() if len(key) > 1 else key)
    *modifiers, name = key.split("+")
    if not set(modifiers) <= set(_MODIFIERS) or not (name in _NAMED or re.fullmatch(r"f\d\d?|[!-~]", name)):
        raise ConfigError(f"{written}: it is no key; write for instance ctrl+o, f5, shift+tab or alt+enter")
    if (same := _SAME_ON_A_TERMINAL.get("+".join([*modifiers, name]))) is not None:
        raise ConfigError(f"{written}: a terminal sends it as {same}; choose another key")
    types = not set(modifiers) - {"shift"} and (len(name) == 1 or name in ("space", "minus", "plus"))
    if types and KEY_ACTIONS[id].scope not in ("adapters", "comparison", "turns", "training"):
        raise ConfigError(f"{written}: it could not be typed any more; add ctrl or alt, or choose a function key")
    return "+".join([*(modifier for modifier in _MODIFIERS if modifier in modifiers), name])
