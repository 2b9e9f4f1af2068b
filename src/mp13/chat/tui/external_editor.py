"""The prompt in the reader's own editor: `$VISUAL`, else `$EDITOR`. The chat gives it the terminal meanwhile.

The text is handed over in a file that only its owner can read, and that is gone afterwards.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from textual.app import App, SuspendNotSupported

from mp13.errors import ConfigError

_KEPT = "the prompt is as it was"


def edit(app: App[Exception], text: str) -> str:
    """What has become of `text` in the editor.

    Raises:
        ConfigError: no editor is named, it cannot be run, or it failed; with what to do about it.
    """
    command = _command()
    with tempfile.TemporaryDirectory(prefix="mp13-") as folder:  # 0700
        file = Path(folder, "prompt.md")
        file.write_text(text, encoding="utf-8")
        try:
            with app.suspend():
                code = subprocess.run([*command, str(file)], check=False).returncode
        except SuspendNotSupported:
            raise ConfigError(f"this terminal cannot be given to an editor; {_KEPT}") from None
        except OSError as error:
            raise ConfigError(f"the editor {command[0]!r} cannot be run ({error.strerror}); {_KEPT}") from None
        if code != 0:
            raise ConfigError(f"the editor {command[0]!r} ended with code {code}; {_KEPT}")
        try:
            return file.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"what the editor left cannot be read ({error}); {_KEPT}") from None


def _command() -> list[str]:
    name, value = next(
        ((name, os.environ[name]) for name in ("VISUAL", "EDITOR") if os.environ.get(name, "").strip()), ("", "")
    )
    if not value:
        raise ConfigError("no editor is named; set VISUAL or EDITOR, for instance EDITOR=nano, and start the chat anew")
    try:
        command = shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"{name}={value!r} cannot be read ({error}); close the quotation mark") from None
    if shutil.which(command[0]) is None:
        raise ConfigError(f"{name}={value!r}: there is no program {command[0]!r}; set it to one that is installed")
    return command
