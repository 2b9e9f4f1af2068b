"""Named mixes, and what else may be kept under a name: the file, and the command /mix."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mp13.chat.commands.table import complete
from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.presets import Preset, find_preset, keep_preset, presets, presets_file
from mp13.errors import ConfigError
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost


class TestFile:
    def test_what_is_kept_is_read_again(self) -> None:
        keep_preset("calm", mix="b+a:0.50", system="Be brief.\nAnd kind.", sampling={"temperature": "0.3"})
        assert presets() == {
            "calm": Preset(mix="a:0.5+b", system="Be brief.\nAnd kind.", sampling={"temperature": 0.3})
        }

    def test_a_part_is_replaced_and_the_others_stay(self) -> None:
        keep_preset("calm", mix="a", system="Be brief.")
        keep_preset("loud", mix="b")
        keep_preset("calm", mix="c")
        assert list(presets()) == ["calm", "loud"]
        assert find_preset("calm") == Preset(mix="c", system="Be brief.")

    def test_the_name_goes_with_its_last_part(self) -> None:
        keep_preset("calm", mix="a", system="")
        keep_preset("calm", mix=None)
        assert find_preset("calm").system == ""
        keep_preset("calm", system=None)
        assert presets() == {}

    @pytest.mark.parametrize(
        ("name", "parts", "sentence"),
        [
            ("two words", {"mix": "a"}, "two words = 'two words' cannot be used: a name has 1 to 64 letters"),
            ("a", {"mix": "a+"}, "a.mix = 'a\\+' cannot be used: .*is not a mix"),
            ("a", {"sampling": {"top_q": 1}}, "'top_q' is not about sampling; did you mean 'top_p'"),
            ("a", {"sampling": {"top_p": 7}}, "a.sampling = .*top_p = 7.0 cannot be used"),
            ("a", {"sampling": {"model": "x"}}, "'model' is not about sampling"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_the_file_stays(
        self, name: str, parts: dict[str, object], sentence: str
    ) -> None:
        keep_preset("calm", mix="a")
        before = presets_file().read_bytes()
        with pytest.raises(ConfigError, match=sentence):
            keep_preset(name, **parts)
        assert presets_file().read_bytes() == before

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"[a\n", "presets.toml cannot be read as TOML"),
            (b"\xff", "presets.toml"),
            (b"a = 1\n", "presets.toml: a = 1 cannot be used"),
            (b"[a]\nmixx = 'b'\n", "presets.toml: a.mixx = 'b' cannot be used"),
            (b"[a]\nmix = 3\n", "presets.toml: a.mix = 3 cannot be used"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_told_and_never_written_over(self, content: bytes, sentence: str) -> None:
        presets_file().parent.mkdir(parents=True, exist_ok=True)
        presets_file().write_bytes(content)
        with pytest.raises(ConfigError, match=sentence):
            presets()
        with pytest.raises(ConfigError):
            keep_preset("b", mix="b")
        assert presets_file().read_bytes() == content


@pytest_asyncio.fixture
async def session(tmp_path: Path) -> AsyncIterator[ChatSession]:
    for name in ("pirate", "json"):
        make_adapter(name, peft_type="LORA")
    opened = ChatSession.open(load_settings({"model": str(tmp_path)}), connect=FakeHost())  # type: ignore[arg-type]
    yield opened
    await opened.close()


class TestCommand:
    async def test_a_mix_is_kept_chosen_listed_and_forgotten(self, session: ChatSession) -> None:
        assert "no mix is kept yet" in (await session.command("/mix")).message
        await session.command("/adapter pirate:0.6+json:0.4")
        assert "is kept as calm" in (await session.command("/mix save calm")).message
        await session.command("/adapter base")
        result = await session.command("/mix calm")
        assert (session.mix, result.mix_changed) == ("json:0.4+pirate:0.6", True)
        assert (await session.command("/mix")).message == "calm  json:0.4+pirate:0.6"
        assert "is forgotten; it was json:0.4+pirate:0.6" in (await session.command("/mix delete calm")).message
        assert presets() == {}

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("/mix clam", "nothing is kept as 'clam'; did you mean 'calm'"),
            ("/mix save", "/mix save needs a name"),
            ("/mix delete", "/mix delete needs a name"),
            ("/mix save delete", "'delete' cannot name a mix"),
            ("/mix save two words", "cannot be used"),
            ("/mix spoken", "spoken is kept without a mix"),
            ("/mix gone", "there is no adapter"),
        ],
    )
    async def test_a_mistake_is_named_and_nothing_changes(self, session: ChatSession, line: str, sentence: str) -> None:
        keep_preset("calm", mix="pirate")
        keep_preset("gone", mix="nobody")
        keep_preset("spoken", system="Hi.")
        before = presets_file().read_bytes()
        with pytest.raises(ConfigError if line != "/mix gone" else Exception, match=sentence):
            await session.command(line)
        assert (session.mix, presets_file().read_bytes()) == ("base", before)

    async def test_names_are_completed(self, session: ChatSession) -> None:
        keep_preset("calm", mix="pirate")
        assert complete(session, "/mix c") == ["/mix calm"]
        assert complete(session, "/mix d") == ["/mix delete calm"]
