"""Which keys a reader may give to the chat's actions, and what is said of those that cannot be."""

import pytest

from mp13.chat.settings.keys import KEY_ACTIONS, checked_keys, keys_of, label
from mp13.chat.settings.load import load_settings
from mp13.errors import ConfigError


def test_another_key_takes_the_place_of_the_default_one() -> None:
    keys = keys_of(checked_keys({"adapters.pick": "f5"}))
    assert keys["adapters.pick"] == "f5"
    assert keys["adapters.panel"] == KEY_ACTIONS["adapters.panel"].keys


@pytest.mark.parametrize(
    ("written", "key"),
    [("Ctrl+O", "ctrl+o"), ("F5, ctrl+s", "f5,ctrl+s"), ("shift+CTRL+up", "ctrl+shift+up"), ("alt+f2", "alt+f2")],
)
def test_keys_may_be_written_as_a_reader_would(written: str, key: str) -> None:
    assert checked_keys({"adapters.pick": written}) == {"adapters.pick": key}


def test_the_default_keys_can_be_given_and_clash_with_nothing() -> None:
    defaults = {id: action.keys for id, action in KEY_ACTIONS.items()}
    assert checked_keys(defaults) == defaults


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"adapters.pik": "f5"},
            "'adapters.pik' cannot be used, there is no such action; did you mean 'adapters.pick'",
        ),
        ({"nothing": "f5"}, "there: prompt.send"),
        ({"adapters.pick": "f3"}, "'f3' for 'adapters.pick' cannot be used: 'conversations.panel' has it already"),
        ({"adapters.pick": "f9", "chat.help": "f9"}, "has it already"),
        ({"conversations.rename": "f1"}, "'chat.help' has it already, to show the keys"),
        ({"adapters.pick": "ctrl+nothing"}, "it is no key; write for instance ctrl+o"),
        ({"adapters.pick": "hyper+o"}, "it is no key"),
        ({"adapters.pick": ""}, "it is no key"),
        ({"adapters.pick": "a"}, "it could not be typed any more"),
        ({"prompt.send": "space"}, "it could not be typed any more"),
        ({"adapters.pick": "ctrl+i"}, "a terminal sends it as tab"),
    ],
)
def test_what_cannot_be_is_said_with_the_key_and_a_way_out(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_keys(given)
    assert sentence in str(refused.value)


def test_two_actions_may_swap_their_keys() -> None:
    swapped = {"adapters.panel": "f3", "conversations.panel": "f4"}
    assert checked_keys(swapped) == swapped


def test_one_key_may_mean_two_things_where_only_one_can_be_meant() -> None:
    assert checked_keys({"conversations.rename": "f12", "adapters.choose": "f12"})


def test_a_letter_may_be_a_key_where_nothing_is_typed() -> None:
    assert checked_keys({"adapters.toggle": "x"}) == {"adapters.toggle": "x"}


def test_a_label_is_what_stands_on_the_keyboard() -> None:
    assert label("ctrl+o,f5,pageup,escape,shift+enter") == "Ctrl+O, F5, PageUp, Esc, Shift+Enter"


class TestSetting:
    def test_a_table_in_a_file_with_or_without_quotes(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MP13_CONFIG_DIR", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "config.toml").write_text('[keys]\n"adapters.pick" = "f5"\nchat.help = "f9"\n')
        assert load_settings().keys == {"adapters.pick": "f5", "chat.help": "f9"}

    def test_json_in_a_variable_or_flag(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MP13_KEYS", '{"adapters.pick": "f5"}')
        assert load_settings().keys == {"adapters.pick": "f5"}
        assert load_settings({"keys": '{"chat.help": "f9"}'}).keys == {"chat.help": "f9"}
        assert load_settings({"keys": "none"}).keys == {}

    @pytest.mark.parametrize("value", ["f5", '["f5"]', '{"adapters.pick": 5}', '{"adapters.pick": ["f5"]}'])
    def test_what_is_no_table_of_keys_is_refused_with_its_source(self, value: str) -> None:
        with pytest.raises(ConfigError, match=r"keys = .* cannot be used.*from the command line"):
            load_settings({"keys": value})

    def test_a_key_that_is_taken_is_refused_with_its_source(self) -> None:
        with pytest.raises(ConfigError, match=r"'conversations.panel' has it already.*from the command line"):
            load_settings({"keys": '{"adapters.pick": "f3"}'})

    def test_a_projects_file_may_not_remap_keys(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mp13.toml").write_text('[keys]\n"adapters.pick" = "f5"\n')
        with pytest.raises(ConfigError, match="may not set keys"):
            load_settings()
