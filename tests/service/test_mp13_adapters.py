"""`mp13 adapters` as one types it: what is on stdout and stderr, exit codes, and what running engines have to say."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mp13.chat.cli import adapters_engine_cli
from mp13.chat.cli import mp13 as command
from mp13.chat.library.merging import MergeReport, MergeRequest
from mp13.chat.library.shelf import loaded_now, shelve
from mp13.library.adapters import list_adapters
from mp13.library.paths import adapters_dir
from mp13.service import processes
from tests.fakes.command import Command, Outcome
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost
from tests.service.conftest import Chats

Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    caller = Command(monkeypatch, capsys)
    return lambda *arguments: caller.run(command.main, *arguments, stdin=io.StringIO())


def test_an_empty_library_says_how_to_fill_it(run: Run) -> None:
    code, out, err = run("adapters", "list")
    assert (code, err) == (0, "")
    assert out == f"no adapter yet in {adapters_dir()}; `mp13 adapters add` takes a folder or a Hub id\n"
    assert run("adapters", "list", "--json").out == "[]\n"


def test_an_adapter_goes_its_whole_way_by_hand(run: Run, tmp_path: Path) -> None:
    source = make_adapter("pirate", folder=tmp_path / "mine", base_model_name_or_path="org/base")
    assert run("adapters", "add", str(source), "--tag", "fun").out.startswith("added pirate (lora, ")
    assert run("adapters", "rename", "pirate", "corsair").out == "pirate is called corsair now\n"
    assert run("adapters", "tag", "corsair", "sea", "old").out == "corsair has the tags old sea\n"
    (row,) = json.loads(run("adapters", "list", "--json").out)
    assert row.keys() == {
        "name", "state", "loaded", "changed_on_disk", "unfit", "kind", "rank", "targets", "size_bytes", "base_model",
        "digest", "modified", "age_s", "tags", "description", "source", "revision", "added_at", "effect", "path",
    }  # fmt: skip
    assert (row["name"], row["state"], row["base_model"], row["tags"]) == (
        "corsair",
        "disk",
        "org/base",
        ["old", "sea"],
    )
    assert len(row["digest"]) == 64
    (tagged,) = json.loads(run("adapters", "list", "--tag", "sea", "--json").out)
    shown = json.loads(run("adapters", "show", "corsair", "--json").out)
    for one in (row, tagged, shown):
        assert one.pop("age_s") >= 0  # it grows from command to command
    assert tagged == shown == row
    assert run("adapters", "list", "--tag", "nobody").out.startswith("no adapter has the tag 'nobody'")
    assert run("adapters", "export", "corsair", "out").out == f"corsair is in {tmp_path / 'out'}\n"
    assert run("adapters", "remove", "corsair").code == 0
    assert run("adapters", "show", "corsair").err.startswith("mp13 adapters: there is no adapter 'corsair'")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("add", "./nothing"), 1, "is not a folder; give the folder of a PEFT adapter"),
        (("add", ".", "--name", "a b"), 1, "holds no adapter_config.json"),
        (("add", "{pirate}", "--name", "../x"), 2, "'../x' cannot name an adapter"),
        (("show", "pirat"), 1, "did you mean 'pirate'"),
        (("show", "./pirate"), 2, "is a path; give the name of an adapter, or check it"),
        (("remove", "nobody"), 1, "there is no adapter 'nobody'"),
        (("rename", "pirate", "base"), 2, "cannot name an adapter"),
        (("check", "./nothing"), 1, "is no folder of a PEFT adapter"),
        (("merge", "pirate"), 2, "--name NEW for an adapter, or --model OUT"),
        (("merge", "pirate", "--name", "x", "--model", "y"), 2, "one of the two"),
        (("merge", "nobody", "--name", "x"), 1, "there is no adapter 'nobody'"),
        (("merge", "pirate", "--name", "x", "--method", "best"), 2, "method = 'best' is not known"),
        (("merge", "base", "--name", "x"), 2, "is the base itself"),
        (("merge", "ia", "--name", "x"), 1, "mp13 adapters merge ia --model OUT"),
        (("list", "--jsn"), 2, "No such option"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_on_stderr(
    run: Run, host: FakeHost, arguments: tuple[str, ...], code: int, told: str
) -> None:
    pirate = make_adapter("pirate")
    make_adapter("ia", peft_type="IA3")
    outcome = run("adapters", *(argument.format(pirate=pirate) for argument in arguments))
    assert (outcome.code, outcome.out) == (code, "")
    assert told in outcome.err


def test_an_unfit_adapter_is_listed_with_its_reason_and_next_step(run: Run) -> None:
    make_adapter("good")
    make_adapter("ia", peft_type="IA3")
    table = run("adapters", "list").out.splitlines()
    assert [line.split()[:3] for line in table[1:3]] == [["good", "on", "disk"], ["ia", "unfit", "ia3"]]
    assert table[3].startswith("ia: adapters of type 'IA3' cannot run here")
    assert "`mp13 adapters merge ia --model OUT`" in table[3]


async def test_a_running_engine_says_what_it_holds_and_is_not_kept_alive(chats: Chats) -> None:
    client = await chats.open()
    path = make_adapter("held")
    make_adapter("other")
    async for event in client.events():
        if event.type == "adapters":
            break
    await client.load_adapter(str(path))
    held, other = shelve(list_adapters([adapters_dir()]), await loaded_now())
    assert (held.state, held.loaded) == ("memory", True)
    assert (other.state, other.loaded) == ("disk", False)
    for running in await processes.running():
        await running.close()
    await client.close()


async def test_without_an_engine_none_is_started_to_list(runtime: Path) -> None:
    make_adapter("a")
    assert [one.state for one in shelve(list_adapters([adapters_dir()]), await loaded_now())] == ["disk"]
    (runtime / "dead.sock").touch()
    (runtime / "dead.json").write_text("{")
    assert await processes.running() == []


def test_a_check_loads_the_adapter_beside_the_others_and_takes_it_out_again(run: Run, host: FakeHost) -> None:
    make_adapter("odd", "foreign")
    code, out, _ = run("adapters", "check", "odd")
    verdict, warning, effect = out.splitlines()
    assert code == 0
    assert verdict.startswith("odd can be used on ")
    assert warning == "warning: of another base"
    assert effect == "effect: 0.1 nats (mean KL from the base on a probe prompt)"
    (client,) = host.clients
    (name, path), *_ = client.loads
    assert name != "odd"
    assert path == str(adapters_dir() / "odd")
    assert client.placed == {}
    assert client.closed


def test_a_check_of_what_changes_nothing_says_so(run: Run, host: FakeHost, tmp_path: Path) -> None:
    folder = make_adapter("idle", "idle", folder=tmp_path)
    outcome = run("adapters", "check", str(folder))
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "warning: it changes nothing measurable on a probe prompt"
    assert json.loads(run("adapters", "check", str(folder), "--json").out)["effect"] == 0.0


def test_a_check_that_fails_says_why_and_exits_with_1(run: Run, host: FakeHost) -> None:
    make_adapter("wide", "unfit")
    code, out, _ = run("adapters", "check", "wide")
    assert code == 1
    assert out.endswith("adapter 'wide' does not fit this model\n")
    report = json.loads(run("adapters", "check", "wide", "--json").out)
    assert (report["fits"], report["problem"]) == (False, "adapter 'wide' does not fit this model")


def test_a_check_of_the_files_alone_starts_no_engine(run: Run, host: FakeHost) -> None:
    make_adapter("fine")
    make_adapter("ia", peft_type="IA3")
    assert run("adapters", "check", "fine", "--static").out.startswith("fine can be used: lora, rank 8")
    assert run("adapters", "check", "ia").code == 1  # its files say enough
    assert host.clients == []


def test_a_merge_hands_the_mix_to_the_library_and_prints_its_report(
    run: Run, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter("a")
    make_adapter("ia", peft_type="IA3")
    requests: list[MergeRequest] = []

    def merge(request: MergeRequest, on_progress: Callable[[str, float | None], None]) -> MergeReport:
        requests.append(request)
        on_progress("combine", None)
        members = (("a", "d" * 64, 0.5),)
        return MergeReport(
            request.out, request.target, request.mix, members, request.method, 8, 1000, 0.001, 0.0001, ("odd",)
        )

    monkeypatch.setattr(adapters_engine_cli, "merge", merge)
    code, out, err = run("adapters", "merge", "a:0.5", "--name", "half", "--method", "svd", "--rank", "4")
    assert code == 0
    assert out.startswith(f"a:0.5 merged by svd into the adapter {adapters_dir() / 'half'} (rank 8, 1.0 kB)")
    assert "mp13 adapters: odd\n" in err
    assert (requests[0].target, requests[0].rank, requests[0].adapters) == (
        "adapter",
        4,
        (("a", str(adapters_dir() / "a")),),
    )
    report = json.loads(run("adapters", "merge", "ia", "--model", "out", "--json").out)
    assert report["members"] == [{"name": "a", "digest": "d" * 64, "weight": 0.5}]
    assert (requests[1].target, requests[1].out) == ("model", str(Path("out").absolute()))
