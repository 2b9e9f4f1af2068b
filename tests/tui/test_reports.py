"""The dialogs that show what is known of a turn, and what a replay found."""

import json
from dataclasses import replace

import pytest
from syrupy.assertion import SnapshotAssertion

from mp13.chat.conversation.replay import Change, Difference, Replay
from mp13.chat.conversation.turn import Turn
from mp13.service.schema import Provenance, SamplingParams, UsedAdapter
from tests.fakes.fake_session import FakeSession, answer
from tests.tui.conftest import chatting
from tests.tui.test_screens import Size, at_each_size

MADE = Provenance(
    model="/data/models/smollm2-135m-instruct", base_digest="5d" * 32, dtype="bfloat16", device="cpu",
    quantization="none", model_impl="native", attn_implementation="sdpa", attn_reason="no GPU",
    adapters=(UsedAdapter(name="pirate", digest="ab" * 32, weight=0.7),), kv_policy="exact", template_digest="cd" * 32,
    sampling=SamplingParams(temperature=0.7, seed=11), seed=11, versions={"mp13": "0.1.0", "torch": "2.6.0"},
)  # fmt: skip
TURNS = (
    Turn("user", "Who makes the tide?", "pirate:0.7"),
    replace(answer("Arr, the moon.", "pirate:0.7"), provenance=MADE),
)
REPLAY = Replay(
    2, 9, 9, Difference(4, 17, " moon", -0.61, 88, " sea", -0.615),
    (Change("dtype", "bfloat16", "float32"), Change("version of torch", "2.5.1", "2.6.0")),
)  # fmt: skip


class TestDetails:
    @pytest.mark.parametrize("key", ["d", "enter"])
    async def test_a_key_on_the_turn_shows_its_whole_provenance_and_cost(self, key: str) -> None:
        async with chatting(FakeSession(turns=TURNS), size=(120, 40)) as chat:
            await chat.press("alt+up", key)
            await chat.sees(
                "base digest", "5d5d5d5d5d5d…", "weight 0.7, abababababab…", "temperature 0.7", "torch 2.6.0"
            )
            await chat.sees("150 tokens, 120 of them cached", "38.4 tokens/s", "itself (stop)")
            await chat.press("escape")
            await chat.until(lambda: chat.app.screen is chat.conversation)
            assert chat.transcript.has_focus

    async def test_the_command_shows_the_same_and_all_is_copied_as_json(self) -> None:
        async with chatting(FakeSession(turns=TURNS), size=(120, 40)) as chat:
            await chat.say("/details 2")
            await chat.sees("turn 2, an answer", "base digest")
            await chat.press("ctrl+c")
            data = json.loads(chat.app.clipboard)
            assert data["provenance"]["base_digest"] == "5d" * 32
            assert data["text"] == "Arr, the moon."

    async def test_markup_and_escapes_in_it_are_text(self) -> None:
        made = MADE.model_copy(update={"model": "[/] \x1b[31m[bold]x"})
        async with chatting(FakeSession(turns=[TURNS[0], replace(TURNS[1], provenance=made)]), size=(120, 40)) as chat:
            await chat.press("alt+up", "d")
            await chat.sees("[/] [bold]x")


class TestReplay:
    async def test_the_report_is_shown_and_its_summary_stays(self) -> None:
        session = FakeSession(turns=TURNS)
        session.next_replay = REPLAY
        async with chatting(session, size=(120, 40)) as chat:
            await chat.press("alt+up", "v")
            await chat.sees("token 5 of 9 differs", "0.005 nats", "was bfloat16, is float32")
            await chat.press("escape")
            await chat.sees("replay of turn 2: token 5 of 9 differs")
            assert len(chat.session.turns) == 2


@at_each_size
class TestPictures:
    async def test_details(self, size: Size, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(turns=TURNS), size=size) as chat:
            await chat.press("alt+up", "d")
            await chat.sees("base digest")
            assert await chat.still() == picture

    async def test_replay(self, size: Size, picture: SnapshotAssertion) -> None:
        session = FakeSession(turns=TURNS)
        session.next_replay = REPLAY
        async with chatting(session, size=size) as chat:
            await chat.say("/replay")
            await chat.sees("nats")
            assert await chat.still() == picture

    async def test_cursor(self, size: Size, picture: SnapshotAssertion) -> None:
        async with chatting(FakeSession(["It is the sun."], turns=TURNS), size=size) as chat:
            await chat.press("alt+up", "r")
            await chat.rests()
            await chat.press("alt+up")
            await chat.sees("‹ 2/2 ›")
            assert await chat.still() == picture
