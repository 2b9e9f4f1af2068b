"""The chat as it is, over an engine process that says 100 tokens a second and computes nothing. Arguments: none."""

import asyncio

from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.chat.tui.app import ChatApp
from mp13.engine.config import EngineConfig
from mp13.service.client import EngineClient
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


async def connect(config: EngineConfig) -> EngineClient:
    from mp13.service import launcher

    return await launcher.connect(config, engine="benchmarks.scripted_chat:Talker")


async def open_session() -> ChatSession:
    await asyncio.sleep(0)
    return ChatSession.open(load_settings({"max_tokens": "3000"}), None, connect)


if __name__ == "__main__":
    ChatApp(open_session).run()
