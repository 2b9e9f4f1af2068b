"""What lies over the chat until it is answered or closed."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from textual.screen import ModalScreen

Result = TypeVar("Result")


class Dialog(ModalScreen[Result]):
    """Gives what was chosen. Its styles are read when the first one opens: the first frame needs none of them."""

    CSS_PATH = Path(__file__).with_name("dialogs.tcss")
