"""Where settings come from, who wins, and that what cannot be used is refused with its source and a fix."""

import dataclasses
from pathlib import Path

import pytest

from mp13.chat.settings.load import (
    change_settings,
    config_file,
    load_settings,
    unknown_variables,
)
from mp13.chat.settings.schema import EngineSettings, SamplingSettings
from mp13.errors import ConfigError, MixError, ModelError, UnsupportedError
from mp13.library.paths import adapters_dir, models_dir
from mp13.library.starter import STARTER, starter_dir
from mp13.service.schema import EngineConfig, SamplingParams


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(text: str) -> Path:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(text)
    return config_file()


def test_each_source_wins_over_the_next(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config("temperature = 0.1\ntop_p = 0.1\ntop_k = 1\nmax_tokens = 1\n")
    (project / "mp13.toml").write_text("temperature = 0.2\ntop_p = 0.2\ntop_k = 2\n")
    monkeypatch.setenv("MP13_TEMPERATURE", "0.3")
    monkeypatch.setenv("MP13_TOP_P", "0.3")
    settings = load_settings({"temperature": "0.4"})
    found = [(getattr(settings, key), settings.source(key)) for key in ("temperature", "top_p", "top_k", "max_tokens")]
    assert found == [(0.4, "the command line"), (0.3, "MP13_TOP_P"), (2, "./mp13.toml"), (1, str(config))]
    assert (settings.min_p, settings.source("min_p")) == (0.0, "default")


def test_without_any_source_the_defaults_can_be_used() -> None:
    settings = load_settings()
    assert settings.sampling() == SamplingParams(temperature=0.7, top_p=0.9, max_tokens=512)
    assert settings.engine_config() == EngineConfig(model=str(starter_dir()))
    assert settings.adapter_folders == (adapters_dir(),)


@pytest.mark.parametrize(
    ("group", "mirrored", "elsewhere"),
    [(EngineSettings, EngineConfig, {"model", "seed", "kv_policy"}), (SamplingSettings, SamplingParams, {"logprobs"})],
)
def test_the_settings_mirror_the_engines_own(group: type, mirrored: type, elsewhere: set[str]) -> None:
    ours = {name: field.default for name, field in group.model_fields.items()}  # type: ignore[attr-defined]
    theirs = {field.name: field.default for field in dataclasses.fields(mirrored) if field.name not in elsewhere}
    assert ours.keys() == theirs.keys()
    if mirrored is EngineConfig:
        assert ours == theirs


def test_every_setting_reaches_what_it_mirrors() -> None:
    flags = {"seed": "7", "stop": '["a", "b"]', "stop_token_ids": "[1, 2]"}
    sampling = load_settings(flags).sampling()
    assert sampling == SamplingParams(0.7, 0.9, max_tokens=512, seed=7, stop=("a", "b"), stop_token_ids=(1, 2))
    settings = load_settings({"block_size": "32", "kv_cache_memory": "2GiB"})
    assert settings.engine_config() == EngineConfig(str(starter_dir()), block_size=32, kv_cache_memory="2GiB")


@pytest.mark.parametrize(("text", "stop"), [("END", ("END",)), ('["a"]', ("a",)), ("none", ()), ("", ())])
def test_a_list_may_be_one_string(text: str, stop: tuple[str, ...]) -> None:
    assert load_settings({"stop": text}).stop == stop


def test_none_unsets(monkeypatch: pytest.MonkeyPatch) -> None:
    write_config('system = "be brief"\nseed = 3\nmax_model_len = 64\n')
    monkeypatch.setenv("MP13_SYSTEM", "none")
    settings = load_settings({"seed": "none", "max_model_len": "none"})
    assert (settings.system, settings.seed, settings.max_model_len) == (None, None, None)


@pytest.mark.parametrize(
    ("flags", "error", "sentence"),
    [
        ({"temperature": "-1"}, ConfigError, r"temperature = -1.0 cannot be used; give .*0 \(greedy\) or more"),
        ({"temperature": "nan"}, ConfigError, "temperature = nan cannot be used"),
        ({"top_p": "7"}, ConfigError, "top_p = 7.0 cannot be used; give a number above 0, at most 1"),
        ({"temperature": "hot"}, ConfigError, "temperature = 'hot' cannot be used; give a number"),
        ({"max_tokens": "1.5"}, ConfigError, "max_tokens = '1.5' cannot be used; give a whole number"),
        ({"log": "perhaps"}, ConfigError, "log = 'perhaps' cannot be used; give true or false"),
        ({"temprature": "1"}, ConfigError, "unknown setting 'temprature'.*did you mean 'temperature'"),
        ({"zzz": "1"}, ConfigError, "unknown setting 'zzz'.*mp13config show"),
        ({"stop": "[1"}, ConfigError, r"stop = '\[1' cannot be used; give a list"),
        ({"max_loras": "-1"}, ConfigError, "max_loras = -1 cannot be used; give .*0 or more"),
        ({"adapter": "a+a"}, MixError, "names 'a' twice"),
        ({"quantization": "hqq-5bit"}, ConfigError, "quantization = 'hqq-5bit' cannot be used; give one of none, hqq"),
        (
            {"quantization": '{"bits": 5}'},
            ConfigError,
            r"quantization = .* \(bits = 5 is not known\); give one of 8, 4",
        ),
        ({"tensor_parallel_size": "2"}, UnsupportedError, "tensor_parallel_size = 2 is not supported yet; choose 1"),
        ({"repetition_penalty": "0"}, ConfigError, "repetition_penalty = 0.0 cannot be used"),
        ({"kv_policy": "exakt"}, ConfigError, "kv_policy = 'exakt' cannot be used; give 'exact' or 'keep'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_value_and_a_fix(
    flags: dict[str, str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        load_settings(flags)
    if error is not MixError:
        assert "the command line" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"temperature = \n", "cannot be read as TOML .*line 1"),
        (b"system = '\xff'", "cannot be read as TOML"),
        (b"[sampling]\ntemperature = 1\n", "unknown setting 'sampling'.*without tables"),
        (b"temprature = 1", "unknown setting 'temprature'.*did you mean 'temperature'"),
        (b"temperature = 'hot'", "temperature = 'hot' cannot be used; give a number"),
        (b"max_tokens = true", "max_tokens = true cannot be used"),
        (b"system = 5", "system = 5 cannot be used; give text"),
        (b"top_p = 7", "top_p = 7.0 cannot be used"),
        (b"x = " + b"[" * 5000, "cannot be read as TOML"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(content: bytes, sentence: str) -> None:
    path = write_config("")
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_settings()
    assert str(path) in str(caught.value)


def test_a_folder_in_the_files_place_is_an_error_and_not_ignored() -> None:
    config_file().mkdir(parents=True)
    with pytest.raises(ConfigError, match="is not a file"):
        load_settings()


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP13_TEMPERATURE", "hot")
    with pytest.raises(ConfigError, match="from MP13_TEMPERATURE"):
        load_settings()


def test_misspelt_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP13_TEMPRATURE", "1")
    monkeypatch.setenv("MP13_TEMPERATURE", "1")
    assert unknown_variables() == ["MP13_TEMPRATURE"]


@pytest.mark.parametrize("line", ["trust_remote_code = true", "adapters_folder = 'x'", "model = './m'", "model = '/m'"])
def test_a_projects_file_may_not_set_what_a_stranger_could_abuse(project: Path, line: str) -> None:
    (project / "mp13.toml").write_text(line)
    with pytest.raises(ConfigError, match=r"mp13\.toml may not set") as caught:
        load_settings()
    assert line.split()[0] in str(caught.value)
    assert str(config_file()) in str(caught.value)
    write_config(line)
    (project / "mp13.toml").unlink()
    assert load_settings().source(line.split()[0]) == str(config_file())


def test_a_projects_file_may_not_name_a_folder_or_file_beside_it_as_the_model(project: Path) -> None:
    (project / "weights").mkdir()
    (project / "mp13.toml").write_text("model = 'weights'")
    with pytest.raises(ConfigError, match="may not set model to the folder 'weights'"):
        load_settings()
    (project / "weights.gguf").touch()
    (project / "mp13.toml").write_text("model = 'weights.gguf'")
    with pytest.raises(ConfigError, match=r"may not set model to the file 'weights\.gguf'"):
        load_settings()


def test_a_projects_file_may_choose_a_model_by_name(project: Path) -> None:
    (project / "mp13.toml").write_text("model = 'org/name'\nadapter = 'pirate'\n")
    settings = load_settings()
    assert (settings.engine_config().model, settings.adapter) == ("org/name", "pirate")


def test_a_model_is_the_starter_a_folder_or_file_one_of_the_data_folder_or_a_hub_id(project: Path) -> None:
    (project / "here").mkdir()
    (models_dir() / "mine").mkdir(parents=True)
    names = {"starter": str(starter_dir()), STARTER: str(starter_dir()), "here": str(project / "here"),
             "mine": str(models_dir() / "mine"), "org/name-1.5B": "org/name-1.5B",
             "file.gguf": str(project / "file.gguf"), "mine/x.gguf": str(models_dir() / "mine" / "x.gguf")}  # fmt: skip
    for file in (project / "file.gguf", models_dir() / "mine" / "x.gguf"):
        file.touch()
    assert {name: load_settings({"model": name}).engine_config().model for name in names} == names


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "..", "-x/y"])
def test_a_model_that_is_nowhere_is_refused(name: str, project: Path) -> None:
    settings = load_settings({"model": name})
    if name == "..":
        assert settings.engine_config().model
    else:
        with pytest.raises(ModelError, match=f"there is no model '{name}'"):
            settings.engine_config()


def test_a_change_keeps_the_rest_and_its_source() -> None:
    before = load_settings({"top_k": "5"})
    after = change_settings(before, {"temperature": "0"}, "/set")
    assert (before.temperature, after.temperature, after.top_k) == (0.7, 0.0, 5)
    assert (after.source("temperature"), after.source("top_k")) == ("/set", "the command line")
    with pytest.raises(ConfigError, match=r"top_p = 7.0.*\(from /set\)"):
        change_settings(after, {"top_p": "7"}, "/set")


def test_the_kv_policy_travels_with_each_prompt_and_is_no_setting_of_the_engine() -> None:
    keep = load_settings({"kv_policy": "keep"})
    assert keep.kv_policy == "keep"
    assert keep.engine_config() == load_settings({}).engine_config()
