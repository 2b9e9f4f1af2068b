"""The glance at theme and plainness before the first frame agrees with the settings, and never fails."""

from pathlib import Path

import pytest

from mp13.chat.settings.glance import Glance, glance
from mp13.chat.settings.load import config_file, load_settings
from mp13.chat.settings.themes import DARK
from mp13.errors import ConfigError


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty, and beside it the user's configuration."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("MP13_CONFIG_DIR", str(tmp_path))
    return tmp_path / "project"


def test_without_any_source_it_is_the_defaults() -> None:
    assert glance({}) == Glance(DARK, False) == Glance(load_settings().theme, load_settings().plain)


def test_each_source_wins_over_the_next_as_in_the_settings(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for set_source in (
        lambda: config_file().write_text('theme = "nord"\nplain = true\n'),
        lambda: (project / "mp13.toml").write_text('theme = "dracula"\nplain = false\n'),
        lambda: (monkeypatch.setenv("MP13_THEME", "gruvbox"), monkeypatch.setenv("MP13_PLAIN", "yes")),
    ):
        set_source()
        settings = load_settings()
        assert glance({}) == Glance(settings.theme, settings.plain)
    assert glance({"theme": "monokai", "plain": "false"}) == Glance("monokai", False)


@pytest.mark.parametrize("content", ['theme = "no such"', "theme = 5", "theme = [", "theme = \xff", 'plain = "maybe"'])
def test_what_is_wrong_is_left_to_the_settings(content: str) -> None:
    config_file().write_bytes(content.encode("latin-1"))
    assert glance({}) == Glance()
    with pytest.raises(ConfigError):
        load_settings()


def test_an_unknown_theme_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"theme = 'mp13-drak' cannot be used; did you mean 'mp13-dark'\? \(from"):
        load_settings({"theme": "mp13-drak"})
