"""Losses and gradients of an adapter in training are PEFT's, on every kind of model, weight and adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mp13 import LLM, SamplingParams
from mp13.engine.attention.documents import Documents
from mp13.engine.context import TrainingPass
from mp13.engine.training.adapter import TrainableAdapter
from mp13.engine.training.batch import packed_row
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.passes import Base
from mp13.errors import ConfigError, ModelError
from tests.engine.tiny_models import BRIDGED, LLAMA_LINEARS, NATIVE, tiny_model
from tests.engine.training_world import CPU, Ours, Theirs, base_of, random_rows, relative_error

ROWS = random_rows(20, 7, 33)  # longer than the window of 12 that some models have
KINDS = ("lora", "rslora", "dora")
WITHOUT_LINEARS = "gpt2"  # its layers are made of Conv1D; its head is a linear


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tiny_model(tmp_path_factory.mktemp(family), family) for family in (*NATIVE, *BRIDGED)}


def assert_equal_to_peft(ours: Ours, path: Path) -> None:
    theirs = Theirs.like(ours, path)
    expected = theirs.loss(ROWS, ours.config.loss)
    expected.backward()
    loss, _ = ours.train(ROWS)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert float(ours.passes.loss(ours.row(ROWS))) / len(ours.row(ROWS).targets) == pytest.approx(loss, rel=1e-6)
    found, parameters = ours.gradients(), theirs.parameters()
    assert found.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert parameter.grad is not None and parameter.grad.norm() > 0
        assert relative_error(found[name], parameter.grad) < 1e-4, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*NATIVE, *BRIDGED])
def test_gradients_are_pefts(models: dict[str, Path], family: str, kind: str) -> None:
    targets = ("lm_head",) if family == WITHOUT_LINEARS else "all-linear"
    ours = Ours(base_of(models[family]), kind=kind, targets=targets)
    assert_equal_to_peft(ours, models[family])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "llama-bias"])
def test_a_model_that_has_a_decoder_of_ours_trains_the_same_through_the_bridge(
    models: dict[str, Path], family: str, kind: str
) -> None:
    assert_equal_to_peft(Ours(base_of(models[family], model_impl="transformers"), kind=kind), models[family])


@pytest.mark.parametrize("impl", ["native", "transformers"])
@pytest.mark.parametrize(
    "targets",
    [
        ("q_proj", "v_proj"), ("down_proj",), ("lm_head", "k_proj"), r".*layers\.1\..*", r".*\.0\.mlp\.up_proj",
        (*LLAMA_LINEARS, "lm_head"),
    ],
    ids=str,
)  # fmt: skip
def test_any_choice_of_modules_trains(models: dict[str, Path], impl: str, targets: Any) -> None:
    assert_equal_to_peft(Ours(base_of(models["llama-tied"], model_impl=impl), targets=targets), models["llama-tied"])


def test_loss_on_all_tokens(models: dict[str, Path]) -> None:
    assert_equal_to_peft(Ours(base_of(models["llama"]), loss="all"), models["llama"])


@pytest.mark.parametrize("kind", KINDS)
def test_logits_in_chunks_change_nothing(models: dict[str, Path], kind: str) -> None:
    ours = Ours(base_of(models["gemma2"]), kind=kind, targets=("q_proj", "lm_head"))
    ours.passes._rows_at_once = 5
    assert_equal_to_peft(ours, models["gemma2"])


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt-neox"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(models: dict[str, Path], family: str, dropout: float) -> None:
    base = base_of(models[family])
    plain, sparing = (Ours(base, dropout=dropout, gradient_checkpointing=flag) for flag in (False, True))
    (loss, grad), (same_loss, same_grad) = plain.train(ROWS), sparing.train(ROWS)
    assert loss == same_loss and torch.equal(grad, same_grad)


class TestPacking:
    @pytest.mark.parametrize("kind", ["lora", "dora"])
    @pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "gpt-neox"])
    def test_packed_texts_train_as_each_alone(self, models: dict[str, Path], family: str, kind: str) -> None:
        ours = Ours(base_of(models[family]), kind=kind)
        _, packed = ours.train(ROWS)
        num_learned = len(ours.row(ROWS).targets)
        alone = torch.zeros_like(packed)
        for row in ROWS:
            one = ours.row([row])
            alone += ours.train([row])[1] * len(one.targets) / num_learned
        assert relative_error(packed, alone) < 1e-5

    @pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "phi3"])
    def test_no_text_hears_of_another(self, models: dict[str, Path], family: str) -> None:
        """The hidden states of a text are the same numbers whatever is packed before and behind it."""
        base = base_of(models[family])
        ours = Ours(base)
        first, second, third = random_rows(20, 30, 9)

        def states(*rows: Any) -> torch.Tensor:
            packed = ours.row(rows)
            base.context.training = TrainingPass(packed.documents, ours.adapter.linears)
            with torch.no_grad():
                return base.model.hidden(packed.input_ids, packed.positions)

        other = random_rows(20, 9, seed=7)
        among, among_others = states(first, second, third)[20:50], states(other[0], second, other[1])[20:50]
        assert torch.equal(among, among_others)
        torch.testing.assert_close(among, states(second), rtol=1e-4, atol=1e-4)

    def test_positions_begin_anew_and_no_first_token_is_predicted(self) -> None:
        rows = random_rows(4, 3)
        packed = packed_row(rows, "all", CPU)
        assert packed.positions.tolist() == [0, 1, 2, 3, 0, 1, 2]
        assert packed.documents == Documents((4, 3))
        assert packed.loss_rows.tolist() == [0, 1, 2, 4, 5]
        assert packed.targets.tolist() == [*rows[0].ids[1:], *rows[1].ids[1:]]


class TestDropout:
    def test_it_follows_from_seed_row_and_layer(self, models: dict[str, Path]) -> None:
        base = base_of(models["llama"])
        ours = Ours(base, dropout=0.2)
        first, again, other_row = (ours.train(ROWS, draw=draw)[1] for draw in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other_row)
        assert not torch.equal(Ours(base, dropout=0.2, seed=1).train(ROWS, draw=3)[1], first)

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_gradient_is_right_on_average(self, models: dict[str, Path], kind: str) -> None:
        """What is dropped and what is scaled up add up to the gradient without dropout, over many draws: in the last
        linear of all, behind which there is little that is not linear."""
        base = base_of(models["llama"])
        plain = Ours(base, kind=kind, targets=r".*layers\.1\.mlp\.down_proj")
        dropping = Ours(base, kind=kind, targets=r".*layers\.1\.mlp\.down_proj", dropout=0.1)
        _, exact = plain.train(ROWS)
        mean = sum(dropping.train(ROWS, draw=draw)[1] for draw in range(200)) / 200
        assert relative_error(mean, exact) < 0.1

    def test_nothing_is_dropped_when_evaluating(self, models: dict[str, Path]) -> None:
        base = base_of(models["llama"])
        dropping, plain = Ours(base, dropout=0.5), Ours(base)
        assert torch.equal(dropping.passes.loss(dropping.row(ROWS)), plain.passes.loss(plain.row(ROWS)))


class TestSharingTheModel:
    """Others compute on the same modules at every boundary of a layer."""

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("impl", ["native", "transformers"])
    def test_they_get_a_turn_at_every_boundary_and_disturb_nothing(
        self, models: dict[str, Path], impl: str, checkpointing: bool
    ) -> None:
        llm = LLM(models["llama"], dtype="float32", kv_cache_memory="1MiB", model_impl=impl)
        runner = llm._core.runner
        base = Base(runner.model, runner.context, llm._core.vocab_size, CPU, torch.float32)
        prompt, params = [5, 40, 7, 81], SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
        alone = llm.generate([prompt], params)[0].token_ids
        quiet = Ours(base, gradient_checkpointing=checkpointing).train(ROWS)
        answers = []
        busy = Ours(
            base, lambda: answers.append(llm.generate([prompt], params)[0].token_ids),
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        loss, grad = busy.train(ROWS)
        assert loss == quiet[0] and torch.equal(grad, quiet[1])
        assert answers == [alone] * (2 + 2 + 2)  # layers forward, the head unpacked, one chunk of logits, layers back

    def test_a_pass_that_is_broken_off_leaves_the_model_as_it_was(self, models: dict[str, Path]) -> None:
        base, turns = base_of(models["llama"]), []

        def break_off() -> None:
            turns.append(1)
            if len(turns) in (1, 4):
                raise InterruptedError

        ours = Ours(base, break_off)
        for _ in range(2):
            with pytest.raises(InterruptedError):
                ours.train(ROWS)
        assert base.context.training is None and torch.is_grad_enabled()
        assert ours.train(ROWS)[0] == Ours(base).train(ROWS)[0]

    def test_below_the_first_layer_that_learns_nothing_is_kept_or_computed_back(self, models: dict[str, Path]) -> None:
        turns: list[int] = []
        ours = Ours(base_of(models["smollm"]), lambda: turns.append(1), targets=r".*layers\.2\..*")
        ours.train(ROWS)
        assert len(turns) == 4 + 2 + 2  # of four layers, the last two have a way back


class TestModelsThatCannotBeTakenApart:
    @pytest.mark.parametrize("wrong", ["order", "head", "raises"])
    def test_they_are_refused_before_anything_is_trained(
        self, models: dict[str, Path], wrong: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = base_of(models["phi3"])
        kind = type(base.model)
        if wrong == "order":
            monkeypatch.setattr(kind, "layers", property(lambda self: list(self.model.model.layers)[::-1]))
        elif wrong == "head":
            monkeypatch.setattr(kind, "logits", lambda self, hidden: self.model.lm_head(2 * hidden))
        else:
            monkeypatch.delattr(kind, "hidden")
        with pytest.raises(ModelError, match="this model cannot be trained: its layers and head"):
            Ours(base)
        assert base.context.training is None


class TestChoice:
    def test_modules_that_are_not_there_are_refused_with_those_that_are(self, models: dict[str, Path]) -> None:
        with pytest.raises(
            ConfigError, match=r"targets = \('w_proj',\) names no linear .* it has down_proj, gate_proj"
        ):
            Ours(base_of(models["llama"]), targets=("w_proj",))

    def test_a_pattern_that_is_none_is_refused(self, models: dict[str, Path]) -> None:
        with pytest.raises(ConfigError, match=r"targets = '\(' cannot be used: .* is not a regular expression"):
            Ours(base_of(models["llama"]), targets="(")

    def test_pissa_needs_as_many_singular_values(self, models: dict[str, Path]) -> None:
        with pytest.raises(ConfigError, match="has 32 singular values in the smallest chosen linear, fewer than rank"):
            Ours(base_of(models["llama"]), rank=33, init="pissa")

    def test_what_it_begins_with_follows_from_the_seed(self, models: dict[str, Path]) -> None:
        base = base_of(models["llama"])

        def start(seed: int) -> torch.Tensor:
            config = TrainConfig(rank=4, seed=seed)
            return TrainableAdapter(base.model.targets, config, vocab_size=320, dtype=base.dtype, device=CPU).flat

        assert torch.equal(start(0), start(0)) and not torch.equal(start(0), start(1))
