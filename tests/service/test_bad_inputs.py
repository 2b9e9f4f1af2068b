"""What people get wrong on the command line: a sentence with the value and a fix, the right exit code, no traceback."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mp13.chat.cli import config, mp13, mp13chat
from mp13.library.paths import config_dir, data_dir
from tests.fakes.command import Command, Outcome
from tests.fakes.fake_adapter import make_adapter

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """`files` are written first; "{config}", "{data}" and "{here}" in their names stand for the folders."""

    name: str
    arguments: Sequence[str]
    code: int
    sentence: Sequence[str]  # what stderr must contain, the value and the fix among it
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    program: str = "mp13chat"


ASK, LONG = ("-p", "hi"), "a" * 300
CONFIG = "{config}/config.toml"
CASES = (
    Case("no such model folder", (*ASK, "--model", "./nowhere"), 1, ("no model './nowhere'", "give a folder")),
    Case("no such model name", (*ASK, "--model", "nowhere"), 1, ("no model 'nowhere'", "'starter'")),
    Case("malformed mix", (*ASK, "--adapter", "a:0.7+"), 2, ("'a:0.7+' is not a mix", "write base, A, A:0.7")),
    Case("a weight that is none", (*ASK, "--adapter", "a:x"), 2, ("'a:x' is not a mix", "write base")),
    Case("a name twice", (*ASK, "--adapter", "a+a"), 2, ("names 'a' twice", "give it once")),
    Case("temperature below 0", (*ASK, "--set", "temperature=-1"), 2, ("temperature = -1", "0 (greedy) or more")),
    Case("top_p above 1", (*ASK, "--set", "top_p=7"), 2, ("top_p = 7", "above 0, at most 1", "the command line")),
    Case("a word for a number", (*ASK, "--set", "max_tokens=many"), 2, ("max_tokens = 'many'", "give a whole number")),
    Case("no tokens", (*ASK, "--set", "max_tokens=0"), 2, ("max_tokens = 0", "1 or more")),
    Case("unknown setting", (*ASK, "--set", "temprature=1"), 2, ("'temprature'", "did you mean 'temperature'?")),
    Case("a setting without a value", (*ASK, "--set", "temperature"), 2, ("--set 'temperature'", "--set key=value")),
    Case("a setting twice", (*ASK, "--set", "model=x", "--model", "y"), 2, ("model is given twice", "leave one out")),
    Case("an unknown quantization", (*ASK, "--set", "quantization=hqq-5bit"), 2, ("'hqq-5bit'", "one of none")),
    Case("an unknown attention", (*ASK, "--set", "attn_implementation=magic"), 2, ("'magic'", "one of auto, sdpa")),
    Case("a size that is none", (*ASK, "--set", "kv_cache_memory=lots"), 2, ("kv_cache_memory = 'lots'", "2GiB")),
    Case("unknown option", (*ASK, "--adpater", "a"), 2, ("--adpater", "--adapter")),
    Case("no text after -p", ("-p",), 2, ("-p",)),
    Case("empty prompt", ("-p", "  "), 2, ("empty prompt", "give it some text")),
    Case("nothing piped in", (), 2, ("standard input is empty", "give -p TEXT")),
    Case("no such script", ("--script", "nowhere.txt"), 2, ("the script 'nowhere.txt' cannot be read", "give a UTF-8")),
    Case("a script that is no text", ("--script", "s"), 2, ("script 's'", "give a UTF-8"), {"{here}/s": b"\xff\xfe"}),
    Case("prompt and script", (*ASK, "--script", "s"), 2, ("-p and --script exclude each other",), {"{here}/s": "hi"}),
    Case("unknown key in a file", ASK, 2, ("'volume'", "config.toml", "`mp13config show`"), {CONFIG: "volume = 1"}),
    Case("malformed TOML", ASK, 2, ("config.toml cannot be read", "line 1", "correct it"), {CONFIG: "x = \n"}),
    Case("a file that is no text", ASK, 2, ("config.toml cannot be read", "correct it"), {CONFIG: b"system = '\xff'"}),
    Case("unreadable configuration", ASK, 2, ("config.toml is not a file", "move it away"), {CONFIG + "/x": ""}),
    Case("wrong type in a file", ASK, 2, ("temperature = 'hot'", "config.toml"), {CONFIG: "temperature = 'hot'"}),
    Case("wrong variable", ASK, 2, ("top_k = -1", "MP13_TOP_K"), variables={"MP13_TOP_K": "-1"}),
    Case("a project that wants to run code", ASK, 2, ("mp13.toml may not set trust_remote_code", "--set trust_remote"),
         {"{here}/mp13.toml": "trust_remote_code = true"}),
    Case("a data folder that cannot be written", ASK, 1, ("cannot be written", "MP13_DATA_DIR"), {"{data}": "a file"}),
    Case("a store that is no database", (*ASK, "--resume"), 1, ("conversations.db cannot be used", "--no-log"),
         {"{data}/conversations.db": "no database " * 100}),
    Case("nothing to resume", (*ASK, "--resume"), 1, ("no conversation to resume", "without --resume")),
    Case("unknown conversation", (*ASK, "--resume", "zz"), 1, ("no conversation",)),
    Case("resume without a log", (*ASK, "--resume", "--no-log"), 2, ("not kept in this chat", "without --no-log")),
    Case("a name that no file can have", (*ASK, "--model", LONG), 2, ("'aaa", "cannot name a file", "too long")),
    Case("nobody's home", (*ASK, "--model", "~nobody-here/x"), 2, ("'~nobody-here/x' cannot name", "give another")),
    Case("adapters at nobody's home", (*ASK, "--set", "adapters_folder=~nobody-here"), 2, ("'~nobody-here' cannot",)),
    Case("set to nobody's home", ("set", "model", "~nobody-here/x"), 2, ("'~nobody-here/x'",), program="mp13config"),
    Case("an import of nobody's", ("history", "import", "~nobody-here/x"), 2, ("'~nobody-here/x'",), program="mp13"),
    Case("an adapter of nobody's", ("adapters", "add", "~nobody-here/x"), 2, ("'~nobody-here/x'",), program="mp13"),
    Case("data of a name too long", ("data", "check", f"{LONG}.jsonl"), 2, ("'aaa", "too long"), program="mp13"),
    Case("the wizard without a terminal", (), 2, ("nothing is configured", "config.toml"), program="mp13config"),
    Case("showing a wrong file", ("show",), 2, ("top_p = 7", "config.toml"), {CONFIG: "top_p = 7"}, {}, "mp13config"),
    Case("an unknown command", ("shwo",), 2, ("shwo",), program="mp13config"),
)  # fmt: skip
MAINS = {"mp13chat": mp13chat.main, "mp13config": config.main, "mp13": mp13.main}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def write(files: Mapping[str, str | bytes], here: Path) -> None:
    for name, content in files.items():
        path = Path(name.format(config=config_dir(), data=data_dir(), here=here))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def assert_a_sentence(result: Outcome, code: int, sentence: Sequence[str]) -> None:
    for part in sentence:
        assert part in result.err
    assert (result.code, result.out) == (code, "")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch, capsys)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_answered_with_a_sentence(
    case: Case, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(case.files, tmp_path)
    for name, value in case.variables.items():
        monkeypatch.setenv(name, value)
    result = command.run(MAINS[case.program], *case.arguments, stdin=io.StringIO())
    assert_a_sentence(result, case.code, case.sentence)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a context of 64 tokens."""
    from tests.engine.tiny_models import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=64)


MODEL_CASES = (
    Case("no such adapter", (*ASK, "--adapter", "nobody"), 1, ("no adapter 'nobody'", "there: garbage, hollow, odd")),
    Case("an adapter of another type", (*ASK, "--adapter", "odd"), 1, ("'odd'", "'VERA'", "mp13 adapters merge odd")),
    Case("an adapter that is damaged", (*ASK, "--adapter", "garbage"), 1, ("garbage", "copy it again")),
    Case("an adapter without tensors", (*ASK, "--adapter", "hollow"), 1, ("hollow",)),
    Case("a prompt longer than the context", ("-p", "word " * 200), 1, ("64",)),
    Case("a longer context than the model's", (*ASK, "--set", "max_model_len=100000"), 2, ("100000", "64")),
)  # fmt: skip


@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)
def test_what_only_a_real_model_shows_is_a_sentence_too(case: Case, model: Path, command: Command) -> None:
    make_adapter("odd", peft_type="VERA")
    make_adapter("hollow")
    (make_adapter("garbage") / "adapter_model.safetensors").write_text("these are no tensors")
    result = command.run(mp13chat.main, *case.arguments, "--model", str(model), stdin=io.StringIO())
    assert_a_sentence(_without_progress(result), case.code, case.sentence)


def test_a_folder_without_a_model_is_a_sentence(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = command.run(mp13chat.main, *ASK, "--model", "empty", stdin=io.StringIO())
    assert_a_sentence(_without_progress(result), 1, (str(tmp_path / "empty"), "config.json"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", [("config", "show"), ("config", "show", "--json"), ("mp13chat", "--version")])
def test_a_full_disk_behind_stdout_is_a_sentence(command: tuple[str, ...]) -> None:
    module, *arguments = command
    with open("/dev/full", "w") as full:
        run = [sys.executable, "-m", f"mp13.chat.cli.{module}", *arguments]
        done = subprocess.run(run, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.endswith(": standard output cannot be written (No space left on device)\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="it takes a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_are_no_defect(closed: str) -> None:
    shell = ["sh", "-c", f"{sys.executable} -m mp13.chat.cli.config show {closed}"]
    done = subprocess.run(shell, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_of_its_own_ends_the_same_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mp13.chat.cli.mp13chat", *ASK, "--set", "top_p=7"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "top_p = 7" in done.stderr


def _without_progress(result: Outcome) -> Outcome:
    """What was said last, which is the error."""
    return result._replace(err=result.err.splitlines()[-1])
