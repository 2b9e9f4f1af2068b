"""Keys as Textual has them: bindings made from the table of settings/keys.py, and what their help says."""

from collections.abc import Iterator, Mapping
from typing import cast

from textual import events
from textual.binding import Binding
from textual.dom import DOMNode
from textual.widget import Widget

from mp13.chat.settings.keys import KEY_ACTIONS, SCOPES, keys_of, label


def bind(id: str, action: str, shown: str = "", priority: bool = False) -> Binding:
    """The binding of the key action `id` to the widget's action `action`. `shown` is its word in the footer, if any."""
    key = KEY_ACTIONS[id]
    return Binding(key.keys, action, shown or key.help, show=bool(shown), priority=priority, id=id)


def given_keys(node: DOMNode) -> Mapping[str, str]:
    """The keys that the reader put in the place of the default ones."""
    return getattr(node.app, "given_keys", {})


def key_label(node: DOMNode, id: str) -> str:
    """The first key of the action `id`, as it is printed on a keyboard."""
    return label(keys_of(given_keys(node))[id]).partition(", ")[0]


def hints(node: DOMNode, **words: str) -> str:
    """What the keys of a dialog do, for its border: `hints(self, keep="choose", close="close")`."""
    return " · ".join(f"{key_label(node, f'dialog.{name}')} {word}" for name, word in words.items())


def help_sections(given: Mapping[str, str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """By scope: its title, and pairs of keys and what they do. `given` are the keys that were remapped."""
    keys = keys_of(given)
    return [
        (title, [(label(keys[one.id]), one.help) for one in KEY_ACTIONS.values() if one.scope == scope and one.told])
        for scope, title in SCOPES.items()
    ]


class ActsInOrder:
    """Acts on the keys of its classes' bindings itself, in the order in which they are typed.

    Textual would run a binding after the keys typed behind it: a fast typist (or a macro, or a busy screen) would see
    "Up Enter" as "Enter Up", and a corrected letter wrong again. Mixed in before the widget that edits text; no widget
    itself, since Textual follows one base alone.
    """

    async def _on_key(self, event: events.Key) -> None:
        widget = cast(Widget, self)
        keys = keys_of(given_keys(widget))
        for binding in _bindings(type(widget)):
            named = keys.get(binding.id or "", binding.key).split(",")
            if event.key in named and await widget.app.run_action(binding.action, widget):
                event.stop()
                event.prevent_default()
                return


def _bindings(kind: type[Widget]) -> Iterator[Binding]:
    """Those of the class, then those of the classes under it."""
    for base in kind.__mro__:
        yield from (made for made in vars(base).get("BINDINGS", ()) if isinstance(made, Binding))
