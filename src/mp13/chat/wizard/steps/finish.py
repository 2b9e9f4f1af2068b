"""The last step: what will be written and where; then, that it is, and what to run next."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from mp13.chat.settings.load import PROJECT_FILE, config_file, load_settings
from mp13.chat.settings.user_file import Written
from mp13.chat.text import printable
from mp13.chat.wizard.state import State
from mp13.chat.wizard.step import Step
from mp13.errors import Mp13Error

ASKED = ("model", "quantization", "max_model_len", "attn_implementation", "adapters_folder", "theme")


class FinishStep(Step):
    NAME = "Write"
    HEADING = "Write it down?"
    HINT = "This is what you chose. Every other setting keeps its value."
    NEXT = "Write"
    DONE = "Done"

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.written: Written | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="summary"):
            yield Static(_table(self.state), id="changes")
            yield Static(Content(printable("\n".join(_remarks(self.state)))), id="where")

    async def accept(self) -> None:
        """Write the file. Raises ConfigError when it cannot be written."""
        self.written = self.state.draft.write()
        kept = f"What was there before is now {self.written.backup}.\n" if self.written.backup else ""
        text = Content.assemble(
            ("Written to ", "bold $text-success"), (printable(str(self.written.path)), "bold $text-success"), ".\n",
            printable(kept), "\nNext:\n", ("  mp13chat", "bold"), "                       talk to it\n",
            ("  mp13config set KEY VALUE", "bold"), "       change one setting\n",
            ("  mp13config show --origin", "bold"), "       see them all, and where each comes from",
        )  # fmt: skip
        self.query_one("#changes").display = False
        self.query_one("#where", Static).update(text)


def _table(state: State) -> Table:
    """What the steps asked for, and which of it is new."""
    table, changes = Table.grid(padding=(0, 2)), state.draft.changes
    for key in ASKED:
        value = changes.get(key, getattr(state.draft.settings, key))
        shown = "none" if value is None else value if isinstance(value, str) else str(value)
        table.add_row(Text(key, "bold"), Text(printable(shown)), Text("changed" if key in changes else "", "dim"))
    return table


def _remarks(state: State) -> list[str]:
    """Where it goes, and what would win over it here."""
    path = config_file()
    lines = ["", f"It goes to {path}."]
    if path.exists():
        lines.append("Comments and layout of the file stay; the file as it is now is kept beside it.")
    try:
        here = load_settings()
    except Mp13Error:
        return lines
    for key in state.draft.changes:
        if here.source(key) in (f"MP13_{key.upper()}", f"./{PROJECT_FILE}"):
            lines.append(f"{here.source(key)} sets {key} here, and wins over the file.")
    return lines
