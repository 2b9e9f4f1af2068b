"""`mp13` against a Hub on this machine: what is fetched and pinned, what is refused, how a broken line is mended."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mp13.errors import AdapterError, ModelError
from mp13.library.hub_transfer import RemoteFile, transfer
from mp13.library.models import remove_model
from mp13.library.paths import models_dir
from tests.engine.tiny_tokenizers import make_tokenizer
from tests.fakes.command import Outcome
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_hub import FakeHub, Repository

ROOT = Path(__file__).parents[2]
# One process runs several commands: huggingface_hub reads its environment once, and takes a while to import.
RUN = """
import contextlib, io, json, sys
from mp13.chat.cli import mp13
results = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["mp13", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            mp13.main()
        except SystemExit as end:
            code = end.code or 0
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}).encode()
BIG = 25_000_000  # bytes; huggingface_hub writes 10 MB at a time
Mp13 = Callable[..., list[Outcome]]


def adapter(tmp_path: Path, content: str = "weights") -> dict[str, bytes]:
    folder = make_adapter("made", content, folder=tmp_path / "made")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({}) as running:
        yield running


@pytest.fixture
def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT / "src")}  # fmt: skip
    return {key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HF_HUB_CACHE")} | ours


@pytest.fixture
def mp13(environment: dict[str, str]) -> Mp13:
    """Run these command lines one after the other, with these variables besides."""

    def run(*lines: str, **variables: str) -> list[Outcome]:
        command = [sys.executable, "-c", RUN, json.dumps([line.split() for line in lines])]
        done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [Outcome(*result) for result in json.loads(done.stdout)]

    return run


def library() -> Path:
    return Path(os.environ["MP13_DATA_DIR"]) / "adapters"


def test_only_safe_files_of_one_commit_are_fetched_and_the_commit_is_recorded(
    hub: FakeHub, mp13: Mp13, tmp_path: Path
) -> None:
    files = adapter(tmp_path)
    unsafe = {"adapter_model.bin": b"x", "evil.py": b"x", "optimizer.pt": b"x", "sub/chat_template.jinja": b"x"}
    main = files | unsafe | {"chat_template.jinja": b"{{ 1 }}", "../up.json": b"x"}
    hub.repositories["org/pirate"] = Repository({"new": main, "v1": adapter(tmp_path, "old")})
    added, pinned, again, listed = mp13(
        "adapters add org/pirate --tag fun", "adapters add org/pirate@v1 --name old", "adapters add org/pirate",
        "adapters list --json",
    )  # fmt: skip
    assert (added.code, pinned.code, again.code) == (0, 0, 1)
    assert {path for path, _, _ in hub.transfers} == {*files, "chat_template.jinja"}
    assert {path.name for path in (library() / "pirate").iterdir()} == {*files, "chat_template.jinja", "mp13.json"}
    by_name = {row["name"]: row for row in json.loads(listed.out)}
    repository = hub.repositories["org/pirate"]
    assert by_name["pirate"]["source"] == by_name["old"]["source"] == "org/pirate"
    assert by_name["pirate"]["revision"] == repository.commit("main")
    assert by_name["old"]["revision"] == repository.commit("v1")
    assert by_name["pirate"]["digest"] != by_name["old"]["digest"]
    assert [path.name for path in library().iterdir() if path.name.startswith(".")] == [".lock"]


def test_what_is_not_there_or_must_not_be_loaded_is_a_sentence_with_a_way_out(
    hub: FakeHub, mp13: Mp13, tmp_path: Path
) -> None:
    files = adapter(tmp_path)
    config = {"adapter_config.json": files["adapter_config.json"]}
    model = {"config.json": CONFIG, "model.safetensors": b"12345678"}
    hub.repositories |= {
        "org/gated": Repository({"new": files}, gated=True),
        "org/pickle": Repository({"new": config | {"adapter_model.bin": b"x"}}),
        "org/many": Repository({"new": {f"{name}/{file}": data for name in "ab" for file, data in files.items()}}),
        "org/model": Repository({"new": model}),
        "org/gguf": Repository({"new": {"config.json": CONFIG, "model.gguf": b"x"}}),
    }
    expected = {
        "adapters add org/gated": "it is gated; accept its licence on the Hub, then run `hf auth login`",
        "adapters add org/nothing": "no such repository, or it is private; check the id, or run `hf auth login`",
        "adapters add org/pickle": "only as a pickle (adapter_model.bin), which is never loaded",
        "adapters add org/pickle@nope": "org/pickle@nope is no folder here and not to be had from the Hub: it has no",
        "adapters add org/many": "it has 2 in folders: org/many/a, org/many/b",
        "adapters add org/model": "is a model and no adapter; `mp13 models pull org/model` fetches it",
        "models pull org/gguf": "has its weights as GGUF and not as safetensors",
        "models pull org/pickle": "is an adapter and no model; `mp13 adapters add org/pickle` fetches it",
        "models pull ./folder": "is no Hub id",
    }
    for (line, sentence), outcome in zip(expected.items(), mp13(*expected), strict=True):
        assert outcome.code == 1, line
        assert sentence in outcome.err.splitlines()[-1], line
        assert "Traceback" not in outcome.err
    assert not library().exists() or all(path.name.startswith(".") for path in library().iterdir())


def test_a_token_opens_a_gate_and_a_folder_of_a_repository_is_an_adapter(
    hub: FakeHub, mp13: Mp13, tmp_path: Path
) -> None:
    hub.repositories["org/gated"] = Repository({"new": {f"a/{k}": v for k, v in adapter(tmp_path).items()}}, gated=True)
    url = f"https://huggingface.co/org/gated/tree/{hub.repositories['org/gated'].commit('main')}/a"
    by_id, by_url = mp13("adapters add org/gated/a", f"adapters add {url} --name b", HF_TOKEN="secret")
    assert (by_id.code, by_url.code) == (0, 0)
    assert sorted(path.name for path in library().iterdir() if path.is_dir()) == ["a", "b"]


def test_a_hub_out_of_reach_is_told_and_the_cache_serves_what_it_has(hub: FakeHub, mp13: Mp13, tmp_path: Path) -> None:
    files = adapter(tmp_path)
    commit = "c" * 40
    cached = tmp_path / "hf" / "hub" / "models--org--cached"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    for name, data in files.items():
        (cached / "snapshots" / commit / name).write_bytes(data)
    lines = ("adapters add org/cached", "adapters add org/other")
    found, offline = mp13(*lines, HF_HUB_OFFLINE="1")
    assert (found.code, offline.code) == (0, 1)
    assert "HF_HUB_OFFLINE is set" in offline.err
    assert json.loads((library() / "cached" / "mp13.json").read_text())["revision"] == commit
    assert (cached / "snapshots" / commit / "adapter_config.json").exists()
    (unreachable,) = mp13("adapters add org/other", HF_ENDPOINT="http://127.0.0.1:1")
    assert "the Hub cannot be reached" in unreachable.err


def test_a_download_that_was_killed_goes_on_where_it_stopped(
    hub: FakeHub, mp13: Mp13, environment: dict[str, str], tmp_path: Path
) -> None:
    model = {"config.json": CONFIG, "model.safetensors": bytes(BIG)}
    hub.repositories["org/model"] = Repository({"new": model})
    hub.stall_after = BIG - 1000
    command = [sys.executable, "-c", RUN, json.dumps([["models", "pull", "org/model"]])]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert hub.stalled.wait(30)
        staged = Path(os.environ["MP13_DATA_DIR"]) / "models"
        wait_until(lambda: any(path.stat().st_size >= 10_000_000 for path in staged.rglob("*.part")))
        process.kill()
    hub.resumed.set()
    hub.stall_after = None
    done, listed = mp13("models pull org/model", "models list --json")
    assert done.code == 0
    path, first, _ = hub.transfers[-1]
    assert path == "model.safetensors"
    assert first >= 10_000_000
    (row,) = json.loads(listed.out)
    assert (row["name"], row["place"], row["size_bytes"]) == ("org/model", "data folder", BIG)
    assert row["revision"] == hub.repositories["org/model"].commit("main")


def test_bytes_that_are_not_those_announced_are_thrown_away_large_or_small(
    hub: FakeHub, mp13: Mp13, tmp_path: Path
) -> None:
    hub.repositories["org/pirate"] = Repository({"new": adapter(tmp_path)})
    config, weights, whole = "adapter_config.json came damaged", "adapter_model.safetensors came damaged", "added"
    for damages, told in ((".json", config), (".safetensors", weights), (None, whole)):
        hub.damages = damages
        (outcome,) = mp13("adapters add org/pirate")
        assert told in outcome.out + outcome.err


def test_models_are_fetched_listed_and_removed(hub: FakeHub, mp13: Mp13, tmp_path: Path) -> None:
    files = {"config.json": CONFIG, "model.safetensors": b"12345678", "consolidated.safetensors": b"x",
             "pytorch_model.bin": b"x", "modeling.py": b"x", "tokenizer.json": b"{}",
             "tokenizer.model": b"x"}  # fmt: skip
    hub.repositories["org/model"] = Repository({"new": files})
    snapshot = tmp_path / "hf" / "hub" / "models--org--shared" / "snapshots" / ("d" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(CONFIG)
    pulled, again, listed, shared, removed, gone = mp13(
        "models pull org/model", "models pull org/model", "models list --json", "models remove org/shared",
        "models remove org/model --json", "models list --json",
    )  # fmt: skip
    assert (pulled.code, again.code, removed.code) == (0, 1, 0)
    assert {path for path, _, _ in hub.transfers} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"
    }  # fmt: skip
    own, cached = json.loads(listed.out)
    assert (own["name"], own["architecture"], own["dtype"], own["unfit"]) == (
        "org/model", "LlamaForCausalLM", "bfloat16", None
    )  # fmt: skip
    assert (cached["name"], cached["place"]) == ("org/shared", "Hugging Face cache")
    assert "holds no *.safetensors" in cached["unfit"]
    assert "hf cache rm model/org/shared" in shared.err
    assert [row["name"] for row in json.loads(gone.out)] == ["org/shared"]
    assert not (Path(os.environ["MP13_DATA_DIR"]) / "models" / "org").exists()


def wait_until(holds: Callable[[], bool], at_most_s: float = 10.0) -> None:
    import time

    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < at_most_s
        time.sleep(0.02)


def test_a_fetch_ends_when_nobody_waits_for_it_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def http_get(url: str, stream: BinaryIO, **options: Any) -> None:
        for _ in range(3):
            stream.write(b"0123456789")

    def nobody_waits(stage: str, fraction: float | None) -> None:
        raise InterruptedError("nobody waits")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    file = RemoteFile("a.safetensors", 30)
    with pytest.raises(AdapterError, match="nobody waits; what has come is kept"):
        transfer("org/a", "c" * 40, [file], tmp_path, nobody_waits, AdapterError)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [10]


def test_a_model_that_is_only_linked_into_the_data_folder_is_not_removed(tmp_path: Path) -> None:
    (folder := tmp_path / "mine" / "model").mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    models_dir().mkdir(parents=True)
    (models_dir() / "org").symlink_to(folder.parent)
    with pytest.raises(ModelError, match=r"'org/model' is in a folder of yours, .*mine, by a link; remove it there"):
        remove_model("org/model")
    assert (folder / "config.json").exists()


def test_counting_a_models_tokens_fetches_none_of_its_weights(hub: FakeHub, mp13: Mp13, tmp_path: Path) -> None:
    make_tokenizer("byte-level").save_pretrained(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    config = json.dumps({"model_type": "llama", "max_position_embeddings": 64}).encode()
    weights = {"config.json": config, "model.safetensors": b"x", "model.bin": b"x"}
    hub.repositories["org/chat"] = Repository({"main": files | weights})
    (tmp_path / "a.jsonl").write_text('{"text": "the dog"}\n')
    (checked,) = mp13(f"data check {tmp_path / 'a.jsonl'} --model org/chat --json")
    assert checked.code == 0, checked.err
    assert json.loads(checked.out)["tokens"]["sequences"]["total"] == 3
    assert {path for path, _, _ in hub.transfers} == {*files, "config.json"}
