"""The chat as it is, over an engine process that says 100 tokens a second and computes nothing. Arguments: none."""

import sys
from functools import partial

from mp13.chat.settings.load import load_settings
from mp13.chat.tui.app import run
from mp13.service import launcher
from tests.fakes.fake_engine import FakeEngine

PACE_S = 0.01
PROSE = (
    "The sea covers **most** of the Earth, and what lives in it is older than all on land. Its water moves in great "
    "currents that carry warmth from the equator to the poles, and the wind on it makes the weather of the coasts. "
) * 2
ANSWER = (
    f"{PROSE}\n\n{PROSE}\n\n- one thing, with `code`\n- another\n\n{PROSE}\n\n```py\nx = [1, 2, 3]\nprint(x)\n```\n\n"
)


class Talker(FakeEngine):
    """Whatever it is asked, it talks for half a minute."""

    def _words(self, text: str, names: tuple[str, ...]) -> list[tuple[str, float]]:
        pieces = [f"{word} " for word in ANSWER.split(" ")]
        return [(pieces[number % len(pieces)], PACE_S) for number in range(3000)]


if __name__ == "__main__":
    launcher.connect = partial(launcher.connect, engine="benchmarks.scripted_chat:Talker")
    sys.exit(run(lambda: load_settings({"max_tokens": "3000"})))
