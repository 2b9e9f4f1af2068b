"""`mp13 data` as one types it. What is wrong with training data is said with its line before any model loads, and what
a model would learn of it is shown token by token."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from mp13.chat.cli import mp13
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.engine.request import OnProgress
from mp13.engine.training.rendering.request import RenderRequest
from mp13.engine.training.rendering.work import render_rows
from mp13.library.data import tokens
from mp13.library.worker import run_worker
from mp13.service.schema import FinishReason
from tests.engine.tiny_tokenizers import make_tokenizer
from tests.fakes.command import Command, Outcome
from tests.fakes.fake_hub import FakeHub
from tests.service.broken_data import ASSISTANT, BROKEN, GOOD, OTHER, SYSTEM, TALK, USER, said, spoken
from tests.service.conftest import ROOT

Run = Callable[..., Outcome]
CONTEXT = 40  # tokens of the model below


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    caller = Command(monkeypatch, capsys)
    return lambda *arguments: caller.run(mp13.main, "data", *arguments, stdin=io.StringIO())


def in_this_process(module: str, request: RenderRequest, on_progress: OnProgress) -> dict[str, Any]:
    """What library/worker.py does, without the seconds that another process takes to load torch."""
    assert module == "mp13.engine.training.rendering"
    fields = json.loads(json.dumps(dataclasses.asdict(request)))
    report: dict[str, Any] = json.loads(
        json.dumps(dataclasses.asdict(render_rows(RenderRequest(**fields), on_progress)))
    )
    return report


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "run_worker", in_this_process)


@pytest.fixture
def other_process(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "run_worker", run_worker)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer and a configuration, and no weights at all."""
    return model_folder(tmp_path_factory.mktemp("model"), "chatml")


def model_folder(folder: Path, template: str) -> str:
    make_tokenizer("byte-level", template).save_pretrained(folder)
    config = {"model_type": "llama", "max_position_embeddings": CONTEXT}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


class TestBroken:
    @pytest.mark.parametrize(("name", "content", "line", "sentence"), BROKEN, ids=range(len(BROKEN)))
    def test_data_is_refused_with_its_line_and_what_to_do(
        self, run: Run, tmp_path: Path, name: str, content: str | bytes, line: int | None, sentence: str
    ) -> None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        code, out, err = run("check", name)
        (said_of_it,) = err.splitlines()
        place = name if line is None else f"{name}:{line}"
        assert (code, out) == (2, "")
        assert said_of_it.startswith(f"{place}: ")
        assert sentence in said_of_it
        assert re.fullmatch(r"[^;]+; .+", said_of_it)

    def test_no_model_is_asked(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
        monkeypatch.setattr(tokens, "run_worker", None)
        (tmp_path / "a.jsonl").write_text("{")
        assert run("check", "a.jsonl", "--model", model).code == 2

    @pytest.mark.parametrize(
        ("source", "sentence"),
        [
            ("nowhere.jsonl", "there is no such file; give a file, a data set of the Hub, or store:all"),
            ("nowhere/data.csv", "there is no such file"),
            ("./nowhere", "there is no such file"),
            (".", "is not a file"),
            ("pipe.jsonl", "is not a file"),
            ("name", "there is no such file"),
            ("store:all", "has no samples"),
            ("store:abc", "no conversations begin so"),
            ("store:", "no conversations begin so"),
        ],
    )
    def test_what_is_no_data_at_all_is_refused(self, run: Run, tmp_path: Path, source: str, sentence: str) -> None:
        os.mkfifo(tmp_path / "pipe.jsonl")
        code, out, err = run("check", source)
        assert (code, out) == (2, "")
        assert err.startswith(f"{source}: ") and sentence in err

    def test_the_first_twenty_errors_are_told(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n" + '{"messages": 1}\n' * 30)
        code, _, err = run("check", "a.jsonl", "a.jsonl")
        assert code == 2
        assert [line.partition(": ")[0] for line in err.splitlines()[:20]] == [f"a.jsonl:{n}" for n in range(2, 22)]
        assert err.splitlines()[20:] == ["mp13 data: these are the first 20 errors; there may be more"]

    def test_several_kinds_of_errors_in_several_files_are_told_together(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{{\n{said(USER)}\n")
        (tmp_path / "b.csv").write_text("text\n")
        _, _, err = run("check", "a.jsonl", "b.csv", "c.json")
        assert [line.partition(": ")[0] for line in err.splitlines()] == ["a.jsonl:2", "a.jsonl:3", "b.csv", "c.json"]

    def test_as_json_they_are_on_stdout_too(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{{\n")
        code, out, err = run("check", "a.jsonl", "--json")
        report = json.loads(out)
        assert (code, report["ok"], len(err.splitlines())) == (2, False, 1)
        assert [(error["source"], error["line"]) for error in report["errors"]] == [("a.jsonl", 2)]
        assert report["errors"][0]["what"].startswith("is not JSON")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("check", "a.jsonl", "--max-len", "9"), "--max-len counts tokens; give --model, too"),
            (("check", "a.jsonl", "--format", "csv"), "format = 'csv' is not known"),
            (("check", "a.jsonl", "--max-len", "0", "--model", "x"), "--max-len"),
            (("check",), "Missing argument"),
            (("check", "store:all", "--format", "text"), "leave --format out"),
            (("preview", "a.jsonl", "-n", "0"), "'-n'"),
            (("preview", "a.jsonl", "--loss", "user"), "--loss"),
            (("convert", "a.jsonl"), "Missing argument"),
        ],
    )
    def test_options_that_make_no_sense_are_usage_errors(
        self, run: Run, tmp_path: Path, arguments: tuple[str, ...], sentence: str
    ) -> None:
        (tmp_path / "a.jsonl").write_text(GOOD)
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert sentence in " ".join(err.split())


class TestCheck:
    def test_good_data_is_counted(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text("\n".join([GOOD, said(USER, ASSISTANT, USER, ASSISTANT | {"content": "x"})]))
        (tmp_path / "b.csv").write_text("text\nsome text\n")
        code, out, err = run("check", "a.jsonl", "b.csv")
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "train       a.jsonl: 2 samples (messages, 3 answers to learn)",
            "train       b.csv: 1 sample (text, 1 answer to learn)",
            "duplicates  0 exact, 0 near",
            "tokens      not counted; --model M counts them as that model reads them",
        ]

    def test_duplicates_and_keys_that_are_not_read_are_warnings(self, run: Run, tmp_path: Path) -> None:
        near = said({"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "The  dog."}, id=1)
        (tmp_path / "a.jsonl").write_text("\n".join([GOOD, GOOD, near]))
        code, out, err = run("check", "a.jsonl")
        assert code == 0
        assert err.splitlines() == [
            "a.jsonl:2: warning: is the same as a.jsonl:1; learn it once",
            "a.jsonl:3: warning: is nearly the same as a.jsonl:1; learn one of them",
            "a.jsonl: warning: the keys 'id' are not read; nothing needs to be done",
        ]
        assert "duplicates  1 exact, 1 near" in out

    def test_of_many_warnings_the_first_are_told(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n" * 30)
        _, out, err = run("check", "a.jsonl")
        assert len(err.splitlines()) == 21
        assert err.splitlines()[-1] == "mp13 data: 9 more warnings"
        assert "duplicates  29 exact" in out

    def test_data_for_evaluation_that_is_learned_is_an_error(self, run: Run, tmp_path: Path) -> None:
        other = said(USER, {"role": "assistant", "content": "another answer"})
        (tmp_path / "a.jsonl").write_text(f"{other}\n{said(USER, ASSISTANT, USER, ASSISTANT)}\n")
        (tmp_path / "b.jsonl").write_text(f"{OTHER}\n{said(SYSTEM, USER, ASSISTANT)}\n")
        code, out, err = run("check", "a.jsonl", "--eval", "b.jsonl")
        assert (code, out) == (2, "")
        what = "is in the training data, too (a.jsonl:2); take it out of one of them"
        assert err == f"b.jsonl:2: {what}\n"
        (tmp_path / "b.jsonl").write_text(said(USER, {"role": "assistant", "content": "new"}))
        code, out, err = run("check", "a.jsonl", "--eval", "b.jsonl")
        assert (code, err) == (0, "")
        assert "leakage     none: no sample of eval is in train" in out

    @pytest.mark.usefixtures("other_process")
    def test_tokens_are_counted_by_the_model_that_is_to_learn(self, run: Run, tmp_path: Path, model: str) -> None:
        long = said(USER, ASSISTANT | {"content": "the dog " * 8})
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{long}\n")
        code, out, err = run("check", "a.jsonl", "--model", model)
        assert code == 0
        *_, total, lengths, first, second = out.splitlines()
        assert total == "tokens      45 in 2 sequences, 21 carry loss (47%)"
        assert lengths == "lengths     15 to 30, median 15, 95% up to 30; 40 are allowed"
        assert [first.split(), second.split()] == [["9–16", "1", "█" * 40], ["17–32", "1", "█" * 40]]
        assert err == ""
        counted = json.loads(run("check", "a.jsonl", "--model", model, "--json").out)["tokens"]
        assert counted["learned"] == 21
        bins = [{"least": 9, "most": 16, "count": 1}, {"least": 17, "most": 32, "count": 1}]
        assert counted["sequences"]["bins"] == bins

    def test_samples_that_are_too_long_are_errors(self, run: Run, tmp_path: Path, model: str) -> None:
        long = said(USER, ASSISTANT | {"content": "the dog " * 30})
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{long}\n")
        (tmp_path / "b.jsonl").write_text(f"{said(USER, ASSISTANT | {'content': 'the fox'})}\n")
        code, out, err = run("check", "a.jsonl", "--model", model)
        assert (code, out) == (2, "")
        assert err == "a.jsonl:2: has 74 tokens, and 40 are allowed; shorten or split it\n"
        _, _, err = run("check", "a.jsonl", "--eval", "b.jsonl", "--model", model, "--max-len", "14")
        assert [line.partition(":")[0] for line in err.splitlines()] == ["a.jsonl", "a.jsonl", "b.jsonl"]
        assert "14 are allowed; shorten or split it, or raise the limit" in err
        _, _, err = run("check", "b.jsonl", "--model", model, "--max-len", "41")
        assert "max_len = 41 is over the model's context of 40 tokens" in err

    def test_what_the_template_cannot_show_is_an_error_of_its_line(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        thought = said(USER, {"role": "assistant", "content": "<think>hm</think>the dog"})
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{thought}\n")
        code, _, err = run("check", "a.jsonl", "--model", model_folder(tmp_path / "m", "qwen3"))
        assert code == 2
        assert err.startswith("a.jsonl:2: the model's chat template does not show this answer as it is written")

    def test_a_template_that_ends_no_answer_is_noted(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "a.jsonl").write_text(said(USER, ASSISTANT, USER, ASSISTANT))
        code, out, err = run("check", "a.jsonl", "--model", model_folder(tmp_path / "m", "alpaca"))
        assert code == 0
        assert "the chat template writes no token behind an answer; 2 answers end with '<|im_end|>'" in err
        assert "in 2 sequences" in out

    @pytest.mark.usefixtures("other_process")
    def test_a_model_that_cannot_be_read_is_a_failure(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(GOOD)
        (tmp_path / "m").mkdir()
        code, out, err = run("check", "a.jsonl", "--model", "./m")
        assert (code, out) == (1, "")
        assert "config.json of" in err

    def test_data_sets_come_from_the_hub(self, tmp_path: Path) -> None:
        pytest.importorskip("datasets")
        with FakeHub(
            {}, {"org/data": {"train.jsonl": f"{GOOD}\n".encode(), "test.jsonl": f"{OTHER}\n".encode() * 2}}
        ) as hub:
            variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
            command = [
                sys.executable,
                "-m",
                "mp13.chat.cli.mp13",
                "data",
                "check",
                "org/data",
                "org/data:test",
                "--json",
            ]
            done = subprocess.run(
                command, env=os.environ | variables | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, timeout=60
            )
        assert done.returncode == 0, done.stderr
        assert [(found["source"], found["format"], found["samples"]) for found in json.loads(done.stdout)["train"]] == [
            ("org/data", "messages", 1), ("org/data:test", "messages", 2),
        ]  # fmt: skip


class TestPreview:
    def test_without_colours_marks_are_around_what_carries_loss(self, run: Run, tmp_path: Path, model: str) -> None:
        (tmp_path / "a.jsonl").write_text(said(SYSTEM, USER, ASSISTANT, USER | {"content": "a"}, ASSISTANT))
        code, out, _ = run("preview", "a.jsonl", "--model", model)
        assert code == 0
        assert out == (
            "a.jsonl:1 · 41 tokens, 6 carry loss\n"
            "<|im_start|>system↵\nbe brief<|im_end|>↵\n"
            "<|im_start|>user↵\nhello<|im_end|>↵\n"
            "<|im_start|>assistant↵\n⟦the dog<|im_end|>⟧↵\n"
            "<|im_start|>user↵\na<|im_end|>↵\n"
            "<|im_start|>assistant↵\n⟦the dog<|im_end|>⟧↵\n"
            "\n⟦carries loss⟧, all else is only read\n"
        )

    def test_with_colours_exactly_the_tokens_that_carry_loss_are_coloured(
        self, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLORTERM", "truecolor")
        (tmp_path / "a.jsonl").write_text(said(USER, ASSISTANT | {"content": "the 日本\n 👩‍👩‍👧 dog"}))
        out = run("preview", "a.jsonl", "--model", model).out
        (sequence,) = json.loads(run("preview", "a.jsonl", "--model", model, "--json").out)["sequences"]
        text = Text.from_ansi(out)
        coloured = "".join(
            text.plain[span.start : span.end] for span in text.spans if getattr(span.style, "bgcolor", None) is not None
        )
        learned = "".join(t for t, is_learned in zip(sequence["texts"], sequence["mask"], strict=True) if is_learned)
        assert coloured.removesuffix("carries loss") == learned.replace("\n", "↵")
        assert learned == "the 日本\n 👩‍👩‍👧 dog<|im_end|>"

    def test_as_json_there_are_the_ids_and_the_mask(self, run: Run, tmp_path: Path, model: str) -> None:
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n" * 5)
        found = json.loads(run("preview", "a.jsonl", "--model", model, "--json", "-n", "2").out)
        assert [(row["source"], row["line"]) for row in found["sequences"]] == [("a.jsonl", 1), ("a.jsonl", 2)]
        tokenizer = make_tokenizer("byte-level", "chatml")
        row = found["sequences"][0]
        rendered = tokenizer.apply_chat_template(TALK["messages"], tokenize=False)
        assert tokenizer.decode(row["ids"]) == rendered == "".join(row["texts"])
        learned = [i for i, is_learned in zip(row["ids"], row["mask"], strict=True) if is_learned]
        assert tokenizer.decode(learned) == "the dog<|im_end|>"

    def test_all_carries_loss_if_one_asks_for_it_but_the_first_token(
        self, run: Run, tmp_path: Path, model: str
    ) -> None:
        (tmp_path / "a.jsonl").write_text(GOOD)
        _, out, _ = run("preview", "a.jsonl", "--model", model, "--loss", "all")
        assert out.splitlines()[1].startswith("<|im_start|>⟦user↵")
        assert out.count("⟦") == 2

    def test_of_a_prompt_and_its_completion_the_completion_carries_loss(
        self, run: Run, tmp_path: Path, model: str
    ) -> None:
        (tmp_path / "a.jsonl").write_text('{"prompt": "the dog", "completion": " and <s>"}')
        _, out, _ = run("preview", "a.jsonl", "--model", model)
        assert out.splitlines()[1] == "the dog⟦ and <s><|im_end|>⟧"

    def test_broken_data_is_refused(self, run: Run, tmp_path: Path, model: str) -> None:
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{{\n")
        assert run("preview", "a.jsonl", "--model", model, "-n", "1").code == 0
        code, out, err = run("preview", "a.jsonl", "--model", model)
        assert (code, out) == (2, "")
        assert err.startswith("a.jsonl:2: is not JSON")


ESCAPES = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link", "\x9b31m", "\x1bP1$r\x1b\\", "\x07\x08\x7f\x0c",
    "\u202eevil\u202c", "\u2066x\u2069", "a\rb", "\x1b", "\x1b[", "\x85\x90",
]  # fmt: skip


class TestSafety:
    @pytest.mark.parametrize("escape", ESCAPES, ids=ascii)
    def test_no_escape_in_the_data_reaches_the_terminal(
        self, run: Run, tmp_path: Path, model: str, escape: str
    ) -> None:
        good = said(USER | {"content": f"a{escape}b"}, ASSISTANT | {"content": f"c{escape}d"}, **{f"id{escape}": 1})
        (tmp_path / "a.jsonl").write_text(f"{good}\n{good}\n")
        bad = [
            said(USER | {"role": f"x{escape}"}), json.dumps({f"key{escape}": 1}), json.dumps(escape),
            said(USER | {f"more{escape}": 1}, ASSISTANT),
        ]  # fmt: skip
        (tmp_path / "b.jsonl").write_text("\n".join(bad))
        (tmp_path / "c.csv").write_text(f'text{escape}\n"{escape}"\n', encoding="utf-8", newline="")
        odd = tmp_path / f"odd{escape.replace('/', '')}.jsonl"
        odd.write_text(f"{good}\n{{")
        outcomes = [
            run("check", "a.jsonl"), run("preview", "a.jsonl", "--model", model), run("check", "b.jsonl"),
            run("check", "c.csv"), run("check", odd.name), run("check", escape), run("convert", odd.name, "out.jsonl"),
            run("convert", "a.jsonl", f"out{escape.replace('/', '')}"), run("check", "a.jsonl", "--format", escape),
        ]  # fmt: skip
        assert [outcome.code for outcome in outcomes[:3]] == [0, 0, 2]
        for outcome in outcomes:
            shown = outcome.out + outcome.err
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown), ascii(shown)

    def test_a_token_that_a_terminal_would_act_on_is_shown_as_a_picture(
        self, run: Run, tmp_path: Path, model: str
    ) -> None:
        (tmp_path / "a.jsonl").write_text(said(USER, ASSISTANT | {"content": "a\x1b[1m\x07\x9b\u202eb [bold]"}))
        out = run("preview", "a.jsonl", "--model", model).out
        assert "⟦a␛[1m␇\\u009b\\u202eb [bold]<|im_end|>⟧" in out


class TestConvert:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.json", json.dumps([{"instruction": "hello", "input": "", "output": "the dog"}], indent=1)),
            ("a.jsonl", spoken(("human", "hello"), ("gpt", "the dog"))),
            ("a.csv", "prompt,completion,x\nhello,the dog,1\n"),
            ("a.jsonl", GOOD),
        ],
    )
    def test_data_becomes_messages_a_line_each(self, run: Run, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / name).write_text(content)
        code, out, err = run("convert", name, "out.jsonl")
        assert (code, out, err) == (0, "1 sample in out.jsonl\n", "")
        assert (tmp_path / "out.jsonl").read_text() == f"{GOOD}\n"
        again = json.loads(run("convert", "out.jsonl", "again.jsonl", "--json").out)
        assert again == {"out": "again.jsonl", "samples": 1, "format": "messages"}
        assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()

    def test_texts_stay_texts(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text\na text\n")
        assert run("convert", "a.csv", "out.jsonl").code == 0
        assert (tmp_path / "out.jsonl").read_text() == '{"text": "a text"}\n'

    def test_a_file_that_is_there_is_only_replaced_by_force(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(GOOD)
        (tmp_path / "out.jsonl").write_text("mine")
        code, _, err = run("convert", "a.jsonl", "out.jsonl")
        assert code == 2 and "out.jsonl exists; give --force to replace it" in err
        assert (tmp_path / "out.jsonl").read_text() == "mine"
        assert run("convert", "a.jsonl", "out.jsonl", "--force").code == 0
        assert (tmp_path / "out.jsonl").read_text() == f"{GOOD}\n"

    def test_a_file_may_be_written_over_itself(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(spoken(("human", "hello"), ("gpt", "the dog")))
        assert run("convert", "a.jsonl", "a.jsonl", "--force").code == 0
        assert (tmp_path / "a.jsonl").read_text() == f"{GOOD}\n"

    def test_of_broken_data_nothing_is_written_and_nothing_is_lost(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{{\n{GOOD}\n3\n")
        (tmp_path / "out.jsonl").write_text("mine")
        code, out, err = run("convert", "a.jsonl", "out.jsonl", "--force")
        assert (code, out) == (2, "")
        assert [line.partition(": ")[0] for line in err.splitlines()] == ["a.jsonl:2", "a.jsonl:4"]
        assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "out.jsonl"}
        assert (tmp_path / "out.jsonl").read_text() == "mine"

    @pytest.mark.parametrize("out", ["nowhere/out.jsonl", "folder"])
    def test_where_it_cannot_write_it_says_so(self, run: Run, tmp_path: Path, out: str) -> None:
        (tmp_path / "a.jsonl").write_text(GOOD)
        (tmp_path / "folder").mkdir()
        code, _, err = run("convert", "a.jsonl", out, "--force")
        assert code == 2 and f"{out} cannot be written" in err
        assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "folder"}


def turns(*exchanges: tuple[str, str, FinishReason], system: str | None = None) -> list[Turn]:
    made: list[Turn] = []
    for asked, answered, reason in exchanges:
        for turn in (
            Turn("user", asked, "base", system=system),
            Turn("assistant", answered, "base", finish_reason=reason),
        ):
            parent = made[-1].id if made else None
            made.append(Turn(turn.role, turn.text, turn.mix, parent, turn.system, finish_reason=turn.finish_reason))
    return made


def test_conversations_of_the_store_become_training_data(run: Run, tmp_path: Path) -> None:
    with ConversationStore() as store:
        for name, path in {"aaaa": turns(("hello", "the dog", "stop")), "bbbb": turns(("x", "y", "abort"))}.items():
            for turn in path:
                store.add(name, turn)
    assert run("convert", "store:a", "out.jsonl").code == 0
    assert (tmp_path / "out.jsonl").read_text() == f"{GOOD}\n"
    (count,) = json.loads(run("check", "store:all", "--json").out)["train"]
    assert count == {"source": "store:all", "format": None, "samples": 1, "answers": 1}
