"""The user's file of settings: made, changed, checked; whole or not at all, and nothing of it is ever lost."""

import os
import stat
import tomllib
from pathlib import Path

import pytest

from mp13.chat.settings import user_file
from mp13.chat.settings.load import config_file, load_settings
from mp13.chat.settings.problems import problems_in
from mp13.chat.settings.profiles import find_profile, profile_names
from mp13.chat.settings.schema import Settings
from mp13.chat.settings.taught import taught
from mp13.chat.settings.user_file import make_file, replace_file, set_value, unset_value
from mp13.errors import ConfigError, Mp13Error

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(text: str) -> Path:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(text)
    return config_file()


class TestTaught:
    def test_every_setting_is_there_with_its_description_and_its_default_in_a_comment(self) -> None:
        text = taught()
        flowing = " ".join(line.strip("# ") for line in text.splitlines())
        for key, field in Settings.model_fields.items():
            assert text.count(f"\n#{key} = ") == 1
            assert " ".join((field.description or "?").split()) in flowing
        assert tomllib.loads(text) == {}

    def test_the_defaults_in_the_comments_are_the_defaults(self) -> None:
        values = "\n".join(line[1:] for line in taught().splitlines() if line.startswith("#") and line[1:2].isalpha())
        write_config(values)
        assert load_settings().model_dump() == Settings().model_dump()

    def test_no_line_is_longer_than_a_reader_likes(self) -> None:
        assert max(map(len, taught().splitlines())) <= 100


class TestProfiles:
    def test_there_is_one_for_each_kind_of_machine(self) -> None:
        assert profile_names() == sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))
        assert profile_names() == ["cpu-laptop", "hqq-4bit", "single-gpu"]

    @pytest.mark.parametrize("name", profile_names())
    def test_each_can_be_used_as_it_is_and_as_a_file_that_was_made_of_it(self, name: str) -> None:
        profile = find_profile(name)
        assert len(profile.about) > 40 and profile.lines
        assert problems_in(profile.text) == []
        make_file(name)
        settings = load_settings()
        settings.engine_config()
        assert {key for key in Settings.model_fields if settings.source(key) != "default"} == set(profile.lines)
        assert {key: getattr(settings, key) for key in profile.lines} == tomllib.loads(profile.text)
        assert problems_in(config_file().read_text()) == []

    def test_each_sets_nothing_to_its_default(self) -> None:
        for name in profile_names():
            for key, value in tomllib.loads(find_profile(name).text).items():
                assert value != Settings.model_fields[key].default, (name, key)

    def test_the_file_says_of_which_it_was_made_and_keeps_its_reasons(self) -> None:
        make_file("cpu-laptop")
        text = config_file().read_text()
        assert "Made from the profile cpu-laptop." in text
        assert "\n#max_num_batched_tokens = 2048\nmax_num_batched_tokens = 512  # the work of one step" in text

    def test_one_that_is_none_gets_a_suggestion(self) -> None:
        with pytest.raises(ConfigError, match="no profile 'cpu-laptpo'; did you mean 'cpu-laptop'"):
            make_file("cpu-laptpo")
        with pytest.raises(ConfigError, match="choose one of cpu-laptop, hqq-4bit, single-gpu"):
            make_file("../../etc/passwd")
        assert not config_file().exists()


class TestMaking:
    def test_a_file_that_exists_is_replaced_only_when_told_to_and_kept_beside(self) -> None:
        write_config("top_p = 0.5\n")
        with pytest.raises(ConfigError, match="exists; give --force"):
            make_file()
        assert config_file().read_text() == "top_p = 0.5\n"
        first = make_file(replace=True)
        assert first.backup is not None and first.backup.read_text() == "top_p = 0.5\n"
        second = make_file("hqq-4bit", replace=True)
        assert second.backup is not None and second.backup != first.backup
        assert make_file("hqq-4bit", replace=True).backup is None  # nothing would be lost
        assert first.backup.read_text() == "top_p = 0.5\n"

    def test_only_its_owner_may_read_it_and_what_it_replaced(self) -> None:
        write_config("top_p = 0.5\n").chmod(0o644)
        written = replace_file("top_k = 1\n")
        assert written.backup is not None
        for path in (written.path, written.backup):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(make_file(replace=True).path.parent.stat().st_mode) & 0o077 in (0, 0o055)

    def test_a_link_stays_one(self, here: Path) -> None:
        (here / "dotfiles").mkdir()
        (here / "dotfiles" / "mp13.toml").write_text("top_p = 0.5\n")
        config_file().parent.mkdir(parents=True)
        config_file().symlink_to(here / "dotfiles" / "mp13.toml")
        set_value("top_p", "0.6")
        assert config_file().is_symlink()
        assert (here / "dotfiles" / "mp13.toml").read_text() == "top_p = 0.6\n"

    def test_a_disk_that_refuses_in_the_middle_leaves_the_old_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write_config("top_p = 0.5\n")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\).*MP13_CONFIG_DIR"):
            set_value("top_p", "0.6")
        assert config_file().read_text() == "top_p = 0.5\n"
        assert [path.name for path in config_file().parent.iterdir()] == ["config.toml"]

    def test_a_folder_that_cannot_be_made_is_a_sentence(self) -> None:
        config_file().parent.parent.mkdir(parents=True, exist_ok=True)
        config_file().parent.write_text("a file in the folder's place")
        with pytest.raises(ConfigError, match=r"cannot be written.*MP13_CONFIG_DIR"):
            set_value("top_k", "1")


class TestSetting:
    @pytest.mark.parametrize(
        ("key", "text", "line"),
        [
            ("temperature", "0", "temperature = 0.0"), ("presence_penalty", "-0.5", "presence_penalty = -0.5"),
            ("log", "no", "log = false"), ("seed", "none", 'seed = "none"'), ("system", "true", 'system = "true"'),
            ("system", 'say "hi" # not a comment', r'system = "say \"hi\" # not a comment"'),
            ("stop", '["a", "b"]', 'stop = ["a", "b"]'), ("stop", "END", 'stop = ["END"]'),
            ("kv_cache_memory", "2GiB", 'kv_cache_memory = "2GiB"'),
            ("quantization", '{"bits": 4, "head": 8}', 'quantization = "hqq-4bit head 8bit"'),
            ("model", "org/name", 'model = "org/name"'), ("model", "starter", 'model = "starter"'),
        ],
    )  # fmt: skip
    def test_a_value_is_written_as_what_it_means(self, key: str, text: str, line: str) -> None:
        set_value(key, text)
        assert config_file().read_text() == f"{line}\n"
        load_settings()

    def test_a_path_is_meant_from_everywhere(self, here: Path) -> None:
        (here / "weights").mkdir()
        set_value("model", "weights")
        set_value("adapters_folder", "weights")
        assert tomllib.loads(config_file().read_text()) == {
            "model": str(here / "weights"), "adapters_folder": str(here / "weights"),
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("key", "text", "sentence"),
        [
            ("top_q", "1", "unknown setting 'top_q'; did you mean 'top_p'"),
            ("top_p", "7", "top_p = 7.0 cannot be used; give a number above 0, at most 1"),
            ("top_k", "many", "top_k = 'many' cannot be used; give a whole number"),
            ("model", "./nowhere", "there is no model './nowhere'"),
            ("adapters_folder", "absent", "there is no folder 'absent'"),
            ("max_loras", "65", "max_cpu_loras = 64 cannot be used; give max_loras"),
            ("adapter", "a:x", "'a:x' is not a mix"),
        ],
    )
    def test_what_cannot_be_used_changes_nothing(self, key: str, text: str, sentence: str) -> None:
        write_config("top_k = 5\n")
        with pytest.raises(Mp13Error, match=sentence):
            set_value(key, text)
        assert config_file().read_text() == "top_k = 5\n"

    def test_values_are_judged_beside_those_that_are_there(self) -> None:
        write_config("max_cpu_loras = 200\n")
        set_value("max_loras", "100")
        with pytest.raises(ConfigError, match="nothing was changed"):
            unset_value("max_cpu_loras")
        assert tomllib.loads(config_file().read_text()) == {"max_cpu_loras": 200, "max_loras": 100}

    def test_a_file_with_a_wrong_value_can_be_mended_and_changed(self) -> None:
        write_config("top_p = 7\ntempo = 1\n")
        set_value("top_k", "5")
        set_value("top_p", "0.5")
        assert unset_value("top_k")
        assert config_file().read_text() == "top_p = 0.5\ntempo = 1\n"

    def test_a_file_that_is_no_toml_is_named_with_the_line_and_left_alone(self) -> None:
        write_config("top_k = 1\ntop_p = \n")
        with pytest.raises(ConfigError, match=r"config\.toml, line 2: this is no TOML.*nothing was changed"):
            set_value("top_k", "5")
        assert config_file().read_text() == "top_k = 1\ntop_p = \n"

    def test_in_a_file_that_teaches_a_value_goes_under_its_explanation_and_away_again(self) -> None:
        make_file()
        before = config_file().read_text()
        set_value("top_k", "5")
        assert config_file().read_text() == before.replace("#top_k = 0\n", "#top_k = 0\ntop_k = 5\n")
        assert unset_value("top_k") and not unset_value("top_k")
        assert config_file().read_text() == before


class TestProblems:
    def test_each_has_its_line(self) -> None:
        text = "top_p = 7\ntempo = 1\n\nseed = 'x'\nadapter = 'a+a'\nmodel = './no'\nmax_loras = 100\n"
        found = {problem.line: problem.message for problem in problems_in(text)}
        assert list(found) == [1, 2, 4, 5, 6, 7]
        assert "top_p = 7.0" in found[1] and "unknown setting 'tempo'" in found[2] and "whole number" in found[4]
        assert "twice" in found[5] and "no model './no'" in found[6] and "max_loras (100)" in found[7]

    @pytest.mark.parametrize(
        ("text", "line"), [("a = 1\na = 2\n", 2), ("a = 1\nb = \n", 2), ("x = [\n1,\n", 2), ("x = " + "[" * 5000, 1)]
    )
    def test_what_is_no_toml_is_one_problem_where_it_ends_to_be(self, text: str, line: int) -> None:
        (problem,) = problems_in(text)
        assert (problem.key, "TOML" in problem.message) == (None, True)
        assert line <= problem.line <= line + 1

    def test_a_projects_file_may_set_less(self) -> None:
        text = "top_p = 0.5\ntrust_remote_code = true\n"
        assert problems_in(text) == []
        (problem,) = problems_in(text, of_project=True)
        assert (problem.line, problem.key) == (2, "trust_remote_code")

    def test_values_that_need_each_other_are_no_problem(self) -> None:
        assert problems_in("max_loras = 100\nmax_cpu_loras = 200\n") == []


def test_text_that_is_no_utf8_is_named_with_its_line() -> None:
    write_config("").write_bytes(b"top_k = 1\nsystem = '\xff'\n")
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        user_file.set_value("top_k", "2")
