"""The commands without a screen on the terminal of this process, with hostile text in all that they print. The argument
is one of them; a word stands before each payload, as in hostile_chat.py."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mp13.chat.cli import config, mp13, mp13chat
from mp13.chat.cli.background import Background
from mp13.chat.cli.headless import Line, run_headless
from mp13.chat.cli.outcome import outcome, prepare_streams
from mp13.chat.cli.plain import PlainChat
from mp13.chat.conversation.diff import Diff, DiffToken
from mp13.chat.conversation.turn import Turn
from mp13.chat.library.shown import model_table
from mp13.errors import Mp13Error
from mp13.library.models import ModelOnDisk
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_session import FakeSession, answer
from tests.fakes.hostile_chat import MARKED, SOME, session_of

TEXT = "\n".join(MARKED)


def _session() -> FakeSession:
    session = session_of("headless")
    tokens = tuple(DiffToken(text, 1, -0.1, -3.0, text, text, True, 2.0) for text in MARKED)
    session.next_diff = Diff("pirate", "base", tokens, note=TEXT)
    session.script(list(TEXT), list(TEXT), list(TEXT), [Mp13Error(TEXT)])
    return session


def headless() -> None:
    lines = [Line("go"), Line("go", mixes=("base", "pirate")), Line("/diff json", "script:1"), Line("go", "script:2")]
    for as_json in (False, True):
        with suppress(SystemExit), outcome("mp13chat"):
            asyncio.run(run_headless(_session(), lines, as_json))


def plain() -> None:
    session = _session()
    turns = [Turn("user", TEXT, "base"), answer(TEXT, SOME[3].replace(" ", "+"))]
    typed = iter(["go", "/compare base pirate go", "/diff json", "go", f"/{SOME[2]}", f"/adapter {SOME[4]}", "/quit"])
    for turn in turns:
        session._conversation.ask(turn)
    session._conversation.end_asking()
    with Background() as background:
        PlainChat(background, session, lambda prompt: print(prompt) or next(typed)).run()  # type: ignore[func-returns-value]
        background.run(session.close())


def adapters() -> None:
    for number, text in enumerate(MARKED):
        make_adapter(f"a{number}", base_model_name_or_path=text, target_modules=[text])
        notes = {"description": " ".join(MARKED[number : number + 9]), "source": text}
        (Path(os.environ["MP13_DATA_DIR"]) / f"adapters/a{number}/mp13.json").write_text(json.dumps(notes))
    for bad in SOME:
        with suppress(OSError, ValueError):
            make_adapter(bad.replace("/", "|"))
    _run("adapters", "list")
    for number in range(0, len(MARKED), 9):
        _run("adapters", "show", f"a{number}")


def models() -> None:
    print(
        model_table([ModelOnDisk(text, Path(text), "data folder", text, 1, text, text, unfit=text) for text in MARKED])
    )
    for text in SOME:
        with suppress(OSError, ValueError):
            folder = Path(os.environ["MP13_DATA_DIR"]) / "models" / text.replace("/", "|")
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps({"model_type": text, "architectures": [text]}))
    _run("models", "list")


def data() -> None:
    place = Path(os.environ["MP13_DATA_DIR"])
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]} for text in MARKED
    ]
    rows += [{text: text} for text in SOME]
    path = place / f"{SOME[1]}.jsonl".replace("/", "|")
    path.write_text("\n".join(map(json.dumps, rows)))
    _run("data", "check", str(path))


def usage() -> None:
    for text in MARKED:
        for main in (mp13chat.main, mp13.main, config.main):
            _run(f"--{text}", main=main)
        _run("adapters", "show", text)
    for text in SOME:  # a command, an argument and a value that are none
        _run("adapters", text)
        _run("ps", text)
        _run("train", "--steps", text)


def log() -> None:
    from mp13.service.app import LogFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(message)s"))
    logging.getLogger("mp13.x").addHandler(handler)
    for text in MARKED:
        logging.getLogger("mp13.x").error("adapter %s", text)


def _run(*arguments: str, main: Callable[[], None] = mp13.main) -> None:
    sys.argv = ["mp13", *arguments]
    with suppress(SystemExit):
        main()


COMMANDS: dict[str, Callable[[], None]] = {
    command.__name__: command for command in (headless, plain, adapters, models, data, usage, log)
}

if __name__ == "__main__":
    prepare_streams()
    COMMANDS[sys.argv[1]]()
