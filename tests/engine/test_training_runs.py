"""A training run from its first step to the finished adapter: what it tells, what it leaves on disk, how it ends."""

import errno
import json
import math
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from mp13 import LLM
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.events import EvalDone, Finished, Saved, StepDone, TrainEvent
from mp13.engine.training.passes import Base
from mp13.engine.training.record import Origin
from mp13.engine.training.rows import TrainingRow
from mp13.engine.training.trainer import Trainer, recorded_config
from mp13.errors import DivergedError, TrainingError
from tests.engine.tiny_models import dtype_argument, reference_logits, tiny_model
from tests.engine.training_world import ORIGIN, base_of, random_rows

ROWS = random_rows(*([20, 7, 33, 12, 28, 9] * 3))
SETTINGS: dict[str, Any] = {"rank": 4, "lr": 5e-3, "batch_tokens": 64, "accumulation": 2, "steps": 6, "save_every": 2}

OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def base(model: Path) -> Base:
    return base_of(model)


def trainer(base: Base, output: Path, *, rows: list[TrainingRow] = ROWS, **options: Any) -> Trainer:
    rest = {name: options.pop(name) for name in ("eval_rows", "between", "resume", "origin") if name in options}
    return Trainer(base, rows, TrainConfig(**{**SETTINGS, **options}), output, rest.pop("origin", ORIGIN), **rest)


def events_of(kind: type, events: list[TrainEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestWholeRun:
    def test_it_tells_every_step_and_what_it_saved(self, base: Base, tmp_path: Path) -> None:
        run = trainer(base, tmp_path / "a")
        events = list(run.run())
        steps = events_of(StepDone, events)
        assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6]
        assert [event.step for event in events_of(Saved, events)] == [2, 4, 6]
        assert all(event.total_steps == 6 and event.memory_bytes > 0 and event.tokens_per_s > 0 for event in steps)
        finished = events[-1]
        assert isinstance(finished, Finished) and run.is_finished and run.advance() is None
        assert (finished.reason, finished.path, finished.from_step) == ("done", tmp_path / "a", 6)
        assert (finished.first_loss, finished.last_loss) == (steps[0].loss, steps[-1].loss)
        assert finished.tokens == steps[-1].tokens

    def test_it_learns(self, base: Base, tmp_path: Path) -> None:
        events = list(trainer(base, tmp_path / "a", rows=ROWS[:2], steps=40, accumulation=1, save_every=99).run())
        assert events[-1].last_loss < 0.3 * events[-1].first_loss

    def test_its_steps_are_those_of_pefts_adapter_under_torchs_adamw(
        self, model: Path, base: Base, tmp_path: Path
    ) -> None:
        """The same weights, samples, order, rates and clipping; the mean over the tokens of all accumulated rows."""
        run = trainer(base, tmp_path / "a", max_grad_norm=0.5, weight_decay=0.1, schedule="linear", save_every=6)
        start = tmp_path / "start"
        start.mkdir()
        run._run.write_adapter(start)
        dtype = {dtype_argument(): torch.float32}
        plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager", **dtype)
        theirs = peft.PeftModel.from_pretrained(plain, start, is_trainable=True)
        parameters = [p for p in theirs.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=0.1)
        for event in events_of(StepDone, list(run.run())):
            samples = [ROWS[i] for pack in run._run._sampler.step(event.step - 1) for i in pack]
            losses = []
            for row in samples:
                ids, learned = torch.tensor([list(row.ids)]), torch.tensor(row.learned("assistant"))
                logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
                losses.append(F.cross_entropy(logits[learned - 1], ids[0, learned], reduction="none"))
            loss = torch.cat(losses).mean()
            assert event.loss == pytest.approx(loss.item(), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            assert event.grad_norm == pytest.approx(norm.item(), rel=1e-3)
            optimizer.param_groups[0]["lr"] = event.lr
            optimizer.step()
        assert norm > 0.5  # it was clipped

    def test_what_it_will_be_is_known_before(self, base: Base, tmp_path: Path) -> None:
        silent = TrainingRow([5, 6, 7], [False] * 3)
        plan = trainer(base, tmp_path / "a", rows=[*ROWS, silent], eval_split=0.12, epochs=3, steps=None).plan
        assert (plan.num_rows, plan.num_eval_rows, plan.num_silent_rows) == (16, 2, 1)
        assert plan.steps_per_epoch == -(-plan.packs_per_epoch // 2) and plan.total_steps == 3 * plan.steps_per_epoch
        assert plan.num_tokens > plan.loss_tokens > 0
        widths = 64 + 64 + 64 + 32 + 64 + 32 + 64 + 64 + 64 + 96 + 64 + 96 + 96 + 64  # of A and B, module by module
        assert plan.num_parameters == 2 * 4 * widths and plan.trained_bytes >= 16 * plan.num_parameters

    def test_a_rehearsal_tells_memory_and_time_and_changes_nothing(self, base: Base, tmp_path: Path) -> None:
        run = trainer(base, tmp_path / "a")
        rehearsal = run.rehearse()
        assert rehearsal.memory_bytes > 0 and rehearsal.tokens_per_s > 0
        tokens = run.plan.num_tokens * run.plan.total_steps / run.plan.steps_per_epoch
        assert rehearsal.seconds == pytest.approx(tokens / rehearsal.tokens_per_s)
        assert not (tmp_path / "a").exists()
        list(run.run())
        list(trainer(base, tmp_path / "b").run())
        assert equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "b"))

    def test_its_speed_and_seconds_are_of_its_own_time(self, base: Base, tmp_path: Path) -> None:
        """Others take an hour at every boundary and between rows, by a clock that only they move."""
        clock, before = [0.0], time.perf_counter

        def dawdle() -> None:
            clock[0] += 3600

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "perf_counter", lambda: before() + clock[0])
            run = trainer(base, tmp_path / "a", between=dawdle, eval_rows=ROWS[:2])
            events = []
            for event in run.run():
                dawdle()
                events.append(event)
        assert all(event.tokens_per_s > 1 for event in events_of(StepDone, events))
        assert events[-1].seconds < 3600

    def test_two_runs_of_one_seed_are_one(self, base: Base, tmp_path: Path) -> None:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            list(trainer(base, tmp_path / name, seed=seed, dropout=0.1).run())
        first, same, other = (weights_in(tmp_path / name) for name in "abc")
        assert equal(first, same) and not equal(first, other)


class TestWhatIsSaved:
    @pytest.mark.parametrize(
        "options",
        [
            {}, {"kind": "rslora"}, {"kind": "dora"}, {"targets": ("lm_head", "q_proj")}, {"init": "pissa"},
            {"init": "pissa", "kind": "rslora"}, {"targets": r".*layers\.1\.mlp\.(up|down)_proj"},
        ],
        ids=str,
    )  # fmt: skip
    @pytest.mark.parametrize("impl", ["native", "transformers"])
    def test_it_opens_in_peft_and_in_the_engine_with_the_logits_it_was_trained_to(
        self, model: Path, tmp_path: Path, options: dict[str, Any], impl: str
    ) -> None:
        base = base_of(model, model_impl=impl)
        run = trainer(base, tmp_path / "a", eval_rows=ROWS[:3], eval_every=6, **options)
        events = list(run.run())
        row, dtype = ROWS[0], {dtype_argument(): torch.float32}
        plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager", **dtype)
        before = reference_logits(plain, row.ids)
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "a").eval()
        logits = reference_logits(theirs, row.ids)
        assert (logits - before).abs().max() > 0.05
        losses, count = 0.0, 0
        for held_out in ROWS[:3]:
            learned = torch.tensor(held_out.learned("assistant"))
            targets = torch.tensor(held_out.ids)[learned]
            found = reference_logits(theirs, held_out.ids)[learned - 1]
            losses, count = losses + float(F.cross_entropy(found, targets, reduction="sum")), count + len(learned)
        assert events[-1].eval_loss == pytest.approx(losses / count, rel=1e-4)
        llm = LLM(model, dtype="float32", kv_cache_memory="1MiB", model_impl=impl)
        assert llm.load_adapter(tmp_path / "a", "a").kind == options.get("kind", "lora")
        ours = torch.tensor(llm.score([list(row.ids)], adapters="a")[0][1:])
        expected = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(row.ids[1:])[:, None])[:, 0]
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)

    def test_a_checkpoint_is_an_adapter_that_opens_too(self, model: Path, base: Base, tmp_path: Path) -> None:
        saved = events_of(Saved, list(trainer(base, tmp_path / "a").run()))
        llm = LLM(model, dtype="float32", kv_cache_memory="1MiB")
        assert llm.load_adapter(saved[-1].path, "a").rank == 4
        assert equal(weights_in(saved[-1].path), weights_in(tmp_path / "a"))

    def test_the_folder_says_what_it_was_made_of(self, base: Base, tmp_path: Path) -> None:
        origin = Origin("org/a|b\nmodel", "b" * 64, "t" * 64)
        events = list(trainer(base, tmp_path / "a", eval_rows=ROWS[:2], eval_every=3, origin=origin).run())
        record = json.loads((tmp_path / "a" / "training.json").read_text())
        assert record["origin"]["base_digest"] == "b" * 64 and record["origin"]["template_digest"] == "t" * 64
        assert len(record["data_digest"]) == 64 and record["versions"].keys() >= {"mp13", "torch", "peft"}
        assert TrainConfig.from_json(record["config"]) == TrainConfig(**SETTINGS, eval_every=3)
        assert record["losses"] == [[e.step, e.loss, e.lr] for e in events_of(StepDone, events)]
        assert record["evals"] == [[e.step, e.loss] for e in events_of(EvalDone, events)]
        card = (tmp_path / "a" / "README.md").read_text()
        assert card.startswith("---\n") and 'base_model: "org/a|b\\nmodel"' in card and record["data_digest"] in card
        assert "# An adapter for org/a\\|b model\n" in card

    def test_nothing_that_is_saved_is_a_pickle(self, base: Base, tmp_path: Path) -> None:
        list(trainer(base, tmp_path / "a").run())
        files = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
        assert files == {".json", ".safetensors", ".md"}

    def test_the_last_checkpoints_stay_and_the_best(self, base: Base, tmp_path: Path) -> None:
        run = trainer(base, tmp_path / "a", save_every=1, keep=2, eval_rows=ROWS[:2], eval_every=2, lr=0.5, steps=8)
        events = list(run.run())
        best = min(events_of(EvalDone, events), key=lambda e: e.loss).step
        left = sorted(int(path.name[5:]) for path in (tmp_path / "a" / "checkpoints").iterdir())
        assert left == sorted({best, 7, 8})


class TestEvaluation:
    def test_the_finished_adapter_is_the_best_one(self, base: Base, tmp_path: Path) -> None:
        run = trainer(base, tmp_path / "a", rows=ROWS[3:], eval_rows=ROWS[:3], eval_every=1, steps=30, lr=0.02)
        events = list(run.run())
        evals = events_of(EvalDone, events)
        best = min(evals, key=lambda e: e.loss)
        assert best.step < 30  # random texts are soon learned by heart
        assert (events[-1].from_step, events[-1].eval_loss) == (best.step, best.loss)
        assert equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "a" / "checkpoints" / f"step-{best.step:08d}"))
        record = json.loads((tmp_path / "a" / "training.json").read_text())
        assert record["from_step"] == best.step and record["step"] == 30
        assert [e.is_best for e in evals] == [e.loss < min([x.loss for x in evals[:i]], default=9e9)
                                              for i, e in enumerate(evals)]  # fmt: skip

    def test_it_stops_early_when_it_gets_no_better(self, base: Base, tmp_path: Path) -> None:
        run = trainer(
            base, tmp_path / "a", rows=ROWS[3:], eval_rows=ROWS[:3], eval_every=1, steps=60, lr=0.02, patience=3
        )  # fmt: skip
        events = list(run.run())
        best = min(events_of(EvalDone, events), key=lambda e: e.loss).step
        assert (events[-1].reason, events[-1].step) == ("early stop", best + 3)

    def test_stopped_early_it_stays_so(self, base: Base, tmp_path: Path) -> None:
        options = {"eval_rows": ROWS[:3], "eval_every": 1, "steps": 60, "lr": 0.02, "patience": 2, "rows": ROWS[3:]}
        ended = list(trainer(base, tmp_path / "a", **options).run())[-1]
        again = list(trainer(base, tmp_path / "a", **options, resume=True).run())
        assert again == [ended] and ended.reason == "early stop"

    def test_evaluating_changes_no_training(self, base: Base, tmp_path: Path) -> None:
        list(trainer(base, tmp_path / "a").run())
        list(trainer(base, tmp_path / "b", eval_rows=ROWS[:2], eval_every=1).run())
        one, other = (weights_in(tmp_path / name / "checkpoints" / "step-00000006") for name in "ab")
        assert equal(one, other)


class TestControl:
    def test_paused_it_computes_nothing_and_then_goes_on(self, base: Base, tmp_path: Path) -> None:
        list(trainer(base, tmp_path / "a").run())
        run = trainer(base, tmp_path / "b")
        seen = []
        while not run.is_finished:
            run.pause()
            assert run.is_paused and run.advance() is None
            run.go_on()
            seen.append(run.advance())
        assert isinstance(seen[-1], Finished) and None in seen
        assert equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "b"))

    def test_whoever_waits_for_a_paused_run_is_woken(self, base: Base, tmp_path: Path) -> None:
        run = trainer(base, tmp_path / "a")
        run.pause()
        threading.Timer(0.1, run.go_on).start()
        assert isinstance(list(run.run())[-1], Finished)

    def test_stopped_it_keeps_the_last_whole_step(self, base: Base, tmp_path: Path) -> None:
        turns: list[int] = []

        def stop_within_the_fourth_step() -> None:
            turns.append(1)
            if len(turns) == 3 * 2 * 6 + 2:  # two rows a step, of six boundaries each
                run.stop()

        run = trainer(base, tmp_path / "a", between=stop_within_the_fourth_step)
        events = list(run.run())
        assert (events[-1].reason, events[-1].step, events[-1].from_step) == ("stopped", 3, 3)
        assert events[-1].path == tmp_path / "a"
        list(trainer(base, tmp_path / "b", save_every=3).run())
        assert equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "b" / "checkpoints" / "step-00000003"))

    def test_a_run_that_was_stopped_can_go_on(self, base: Base, tmp_path: Path) -> None:
        list(trainer(base, tmp_path / "a").run())
        run = trainer(base, tmp_path / "b", dropout=0.0)
        for event in run.run():
            if isinstance(event, StepDone) and event.step == 3:
                run.stop()
        events = list(trainer(base, tmp_path / "b", resume=True).run())
        assert [e.step for e in events_of(StepDone, events)] == [4, 5, 6] and events[-1].reason == "done"
        assert equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "b"))

    def test_stopped_before_its_first_step_it_leaves_nothing(self, base: Base, tmp_path: Path) -> None:
        run = trainer(base, tmp_path / "a")
        run.stop()
        (finished,) = run.run()
        assert isinstance(finished, Finished) and finished.path is None and not (tmp_path / "a").exists()

    def test_a_rehearsal_can_be_stopped(self, base: Base, tmp_path: Path) -> None:
        run = trainer(base, tmp_path / "a")
        run.stop()
        with pytest.raises(TrainingError, match="the rehearsal was stopped"):
            run.rehearse()

    def test_cancelled_it_removes_what_it_saved_and_nothing_else(self, base: Base, tmp_path: Path) -> None:
        for name in ("a", "b"):
            run = trainer(base, tmp_path / name)
            if name == "b":
                (tmp_path / "b").mkdir()
                (tmp_path / "b" / "notes.txt").write_text("mine")
            for event in run.run():
                if isinstance(event, StepDone) and event.step == 3:
                    run.cancel()
            assert isinstance(event, Finished) and (event.reason, event.path) == ("cancelled", None)
        assert not (tmp_path / "a").exists()
        assert [path.name for path in (tmp_path / "b").iterdir()] == ["notes.txt"]


def failing(run: Trainer, step: int, fail: Callable[[], None]) -> str:
    """The sentence with which the run ends when `fail` is called after that step."""
    with pytest.raises(TrainingError) as ended:
        for event in run.run():
            if isinstance(event, StepDone) and event.step == step:
                fail()
    assert run.is_finished and "\n" not in str(ended.value)
    return str(ended.value)


class TestFailures:
    def assert_whole(self, base: Base, output: Path, step: int, **options: Any) -> None:
        """The last checkpoint is of that step, and the run goes on from it to the end."""
        assert base.context.training is None
        assert (output / "checkpoints" / f"step-{step:08d}").is_dir()
        assert not list(output.rglob(".writing*")) and not (output / "adapter_config.json").exists()
        list(trainer(base, output, resume=True, **options).run())
        list(trainer(base, output.with_name("unbroken"), **options).run())
        assert equal(weights_in(output), weights_in(output.with_name("unbroken")))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_loss_that_is_no_number(self, base: Base, tmp_path: Path, bad: float) -> None:
        run = trainer(base, tmp_path / "a")
        sentence = failing(run, 3, lambda: run._run._adapter.flat.data.fill_(bad))
        assert sentence.startswith(
            "the loss at step 4 is not a finite number; train anew under another name, with a learning rate below 0.005"
        )
        assert sentence.endswith(f"the last checkpoint is {tmp_path / 'a' / 'checkpoints' / 'step-00000002'}")
        self.assert_whole(base, tmp_path / "a", 2)

    def test_a_gradient_that_is_no_number(self, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = trainer(base, tmp_path / "a")
        inner = run._run._passes.backward

        def overflowing(*args: Any) -> torch.Tensor:
            loss = inner(*args)
            assert run._run._adapter.flat.grad is not None
            run._run._adapter.flat.grad[5] = float("inf")
            return loss

        sentence = failing(run, 3, lambda: monkeypatch.setattr(run._run._passes, "backward", overflowing))
        assert sentence.startswith("the gradient at step 4 is not a finite number")
        self.assert_whole(base, tmp_path / "a", 2)

    @pytest.mark.parametrize("file", ["adapter_model.safetensors", "training.json", "optimizer.safetensors"])
    def test_a_full_disk_at_a_checkpoint(
        self, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        run = trainer(base, tmp_path / "a")
        inner = run._run.save_into

        def full(folder: Path) -> None:
            inner(folder)
            (folder / file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        sentence = failing(run, 3, lambda: monkeypatch.setattr(run._run, "save_into", full))
        assert sentence.startswith(
            "the checkpoint of step 4 cannot be written (No space left on device); make room on the disk; the last "
        )
        self.assert_whole(base, tmp_path / "a", 2)

    def test_a_disk_that_is_full_indeed(self, base: Base, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource")  # a limit on the size of files stands for the end of the disk
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        run = trainer(base, tmp_path / "a")
        try:
            sentence = failing(run, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1])))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert sentence.startswith("the checkpoint of step 4 cannot be written (")
        self.assert_whole(base, tmp_path / "a", 2)

    def test_a_run_that_was_short_of_memory_goes_on_with_gradient_checkpointing_to_the_same_bits(
        self, base: Base, tmp_path: Path
    ) -> None:
        run = trainer(base, tmp_path / "a")
        failing(run, 3, lambda: run._run._adapter.flat.data.fill_(math.nan))
        events = list(trainer(base, tmp_path / "a", gradient_checkpointing=True, resume=True).run())
        assert [event.step for event in events_of(StepDone, events)] == [3, 4, 5, 6]
        list(trainer(base, tmp_path / "unbroken").run())
        assert equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "unbroken"))
        assert json.loads((tmp_path / "a" / "training.json").read_text())["config"]["gradient_checkpointing"] is True

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_weights_that_are_no_numbers_are_not_saved(self, base: Base, tmp_path: Path, bad: float) -> None:
        run = trainer(base, tmp_path / "a", steps=4)

        def spoil(calls: int) -> Callable[..., float]:
            real, left = run._run._optimizer.step, [calls]

            def step(lr: float) -> float:
                norm, left[0] = real(lr), left[0] - 1
                if left[0] == 0:
                    run._run._adapter.flat.data[5] = bad
                return norm

            return step

        run._run._optimizer.step = spoil(4)  # type: ignore[method-assign]
        with pytest.raises(DivergedError, match="the weight at step 4 is not a finite number; train anew") as ended:
            list(run.run())
        assert str(ended.value).endswith("step-00000002")
        self.assert_whole(base, tmp_path / "a", 2, steps=4)

    @pytest.mark.parametrize("error", OUT_OF_MEMORY)
    def test_memory_that_runs_out(self, base: Base, tmp_path: Path, error: Exception) -> None:
        short: list[int] = []

        def run_out() -> None:
            if short:
                raise error

        run = trainer(base, tmp_path / "a", between=run_out)
        sentence = failing(run, 3, lambda: short.append(1))
        assert sentence.startswith(
            "memory ran out at step 4, with rows of up to 64 tokens; end what else runs there, turn "
            "gradient_checkpointing on, or train anew with lower batch_tokens; the last checkpoint is "
        )
        self.assert_whole(base, tmp_path / "a", 2)

    def test_memory_that_would_run_out_is_said_at_the_rehearsal(self, base: Base, tmp_path: Path) -> None:
        def run_out() -> None:
            raise MemoryError

        with pytest.raises(TrainingError, match=r"memory ran out at step 1, .* it had saved nothing yet"):
            trainer(base, tmp_path / "a", between=run_out).rehearse()

    def test_an_error_that_nobody_expects_is_not_hidden(self, base: Base, tmp_path: Path) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(trainer(base, tmp_path / "a", between=fail).run())


class TestRefusals:
    def test_an_output_that_holds_something_is_not_overwritten(self, base: Base, tmp_path: Path) -> None:
        list(trainer(base, tmp_path / "a").run())
        with pytest.raises(TrainingError, match=r"already holds a run; go on with it \(--resume, .*\), or choose"):
            trainer(base, tmp_path / "a")
        shutil.rmtree(tmp_path / "a" / "checkpoints")
        with pytest.raises(TrainingError, match="already holds an adapter; remove it, or choose another name"):
            trainer(base, tmp_path / "a")
        (tmp_path / "file").write_text("")
        with pytest.raises(TrainingError, match="is a file; give a folder"):
            trainer(base, tmp_path / "file")

    def test_nothing_goes_on_from_nothing(self, base: Base, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="holds no checkpoint to go on from; train anew"):
            trainer(base, tmp_path / "a", resume=True)
        with pytest.raises(TrainingError, match="holds no checkpoint to go on from; train anew"):
            recorded_config(tmp_path / "a")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"lr": 1e-3}, "begun with lr = 0.005, not 0.001; it cannot change"),
            ({"rows": ROWS[1:]}, r"begun with another data \(digest"),
            (
                {"origin": Origin("tiny", "c" * 64, "t" * 64)},
                r"begun with another base model \(digest bbbbbbbbbbbb, now",
            ),
            ({"origin": Origin("tiny", "b" * 64, "u" * 64)}, r"begun with another chat template \(digest"),
        ],
        ids=["lr", "rows", "base", "template"],
    )
    def test_another_run_is_not_gone_on_with(
        self, base: Base, tmp_path: Path, options: dict[str, Any], words: str
    ) -> None:
        list(trainer(base, tmp_path / "a").run())
        with pytest.raises(TrainingError, match=words):
            trainer(base, tmp_path / "a", resume=True, **options)
        assert recorded_config(tmp_path / "a") == TrainConfig(**SETTINGS)

    @pytest.mark.parametrize("file", ["adapter_model.safetensors", "training.json", "optimizer.safetensors"])
    def test_a_damaged_checkpoint_is_named(self, base: Base, tmp_path: Path, file: str) -> None:
        list(trainer(base, tmp_path / "a").run())
        path = tmp_path / "a" / "checkpoints" / "step-00000006" / file
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(TrainingError, match=f"{file} cannot be read .*; go on from another checkpoint"):
            trainer(base, tmp_path / "a", resume=True)
