"""What an empty conversation shows: what this is, what to do first, and the keys that matter."""

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from mp13.chat.text import one_line
from mp13.chat.tui.keymap import key_label
from mp13.chat.tui.palette import voice
from mp13.chat.tui.widgets.rows import MUTED

_NAMED = 4  # adapters that are named


class Welcome(Static):
    def __init__(self) -> None:
        super().__init__(id="welcome", markup=False)
        self._adapters: Sequence[str] | None = None  # None: nobody has looked yet

    def on_mount(self) -> None:
        self.draw()

    def tell(self, adapters: Sequence[str]) -> None:
        """Which adapters can be chosen."""
        if adapters != self._adapters:
            self._adapters = adapters
            self.draw()

    def draw(self) -> None:
        pick = key_label(self, "adapters.pick")
        self.update(
            Content.assemble(
                ("mp13", "bold $accent"),
                "\n\nTalk to a language model on this machine:\ntype below and press Enter.\n\n",
                "Adapters change how it answers. Choose one with ",
                (pick, "bold"),
                ",\nask again, and see under each answer who gave it.\n",
                *self._choices(),
                "\n",
                *self._keys(),
            )
        )

    def _choices(self) -> list[tuple[str, str]]:
        if self._adapters is None:
            return [("\n", "")]
        if not self._adapters:
            return [("None is here yet: /adapters add FOLDER brings one.\n", MUTED)]
        pieces: list[tuple[str, str]] = []
        for name in self._adapters[:_NAMED]:
            pieces += [("● ", f"${voice(name)}"), (f"{one_line(name)}  ", f"bold ${voice(name)}")]
        more = len(self._adapters) - _NAMED
        return [*pieces, (f"and {more} more" if more > 0 else "", MUTED), ("\n", "")]

    def _keys(self) -> list[tuple[str, str]]:
        keys = {
            key_label(self, "conversations.panel"): "conversations",
            key_label(self, "adapters.panel"): "adapters",
            "/": "commands",
            key_label(self, "chat.help"): "help",
        }
        return [piece for key, what in keys.items() for piece in ((f" {key}", "bold"), (f" {what} ", MUTED))]
