"""What a run makes of its samples before anything is computed: which are held out, packing, order, learning rate."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp13.engine.training.config import TrainConfig
from mp13.engine.training.packing import Sampler, pack
from mp13.engine.training.rows import TrainingRow, data_digest, split_rows
from mp13.engine.training.schedule import schedule
from mp13.errors import ConfigError

VOCAB = 100


def row(length: int, learned: int = 2) -> TrainingRow:
    return TrainingRow(list(range(length)), [i >= length - learned for i in range(length)])


class TestRows:
    def test_a_mask_of_another_length_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="3 token ids and 2 marks"):
            TrainingRow([1, 2, 3], [True, False])

    def test_the_first_token_is_never_learned(self) -> None:
        marked = TrainingRow([1, 2, 3], [True, False, True])
        assert marked.learned("assistant") == [2] and marked.learned("all") == [1, 2]

    def test_silent_samples_are_left_out_and_counted(self) -> None:
        split = split_rows([row(5), row(4, learned=0), row(1)], None, TrainConfig(), VOCAB)
        assert (len(split.train), len(split.eval), split.num_silent) == (1, 0, 2)

    def test_nothing_to_learn_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="none of 2 samples has a token to learn"):
            split_rows([row(4, learned=0)] * 2, None, TrainConfig(), VOCAB)

    def test_a_sample_longer_than_a_row_is_named(self) -> None:
        with pytest.raises(ConfigError, match="sample 2 has 9 tokens, more than batch_tokens = 8"):
            split_rows([row(8), row(9)], None, TrainConfig(batch_tokens=8), VOCAB)
        split_rows([row(8), row(9)], None, TrainConfig(batch_tokens=8, batch_rows=1), VOCAB)

    @pytest.mark.parametrize("wrong", [-1, VOCAB])
    def test_a_token_that_is_none_of_the_models_is_named(self, wrong: int) -> None:
        with pytest.raises(ConfigError, match=f"sample 1 has token id {wrong}, and the model has 100"):
            split_rows([TrainingRow([1, wrong], [False, True])], None, TrainConfig(), VOCAB)

    def test_what_is_held_out_follows_from_the_seed(self) -> None:
        rows = [row(3 + i) for i in range(40)]
        first, again = (split_rows(rows, None, TrainConfig(eval_split=0.1), VOCAB) for _ in range(2))
        assert first == again and len(first.eval) == 4
        assert sorted([*first.train, *first.eval], key=lambda r: len(r.ids)) == rows
        assert split_rows(rows, None, TrainConfig(eval_split=0.1, seed=1), VOCAB).eval != first.eval

    def test_given_samples_are_held_out_and_no_others(self) -> None:
        split = split_rows([row(3), row(4)], [row(5)], TrainConfig(eval_split=0.5), VOCAB)
        assert split.train == (row(3), row(4)) and split.eval == (row(5),)

    def test_the_digest_tells_every_change(self) -> None:
        rows = [row(3), row(4)]
        others = [
            ([row(4), row(3)], None), ([row(3)], None), (rows, [row(3)]), ([row(3), row(4, learned=1)], None),
            ([TrainingRow([0, 1, 2, 0], [False] * 4), TrainingRow([1, 2, 3], [False] * 3)], None),
        ]  # fmt: skip
        digests = {data_digest(rows, None), *(data_digest(*other) for other in others)}
        assert len(digests) == 6 and data_digest(rows, None) == data_digest(list(rows), [])


class TestPacking:
    @given(st.lists(st.integers(1, 50), max_size=80))
    def test_every_sample_is_in_one_row_that_holds_it(self, lens: list[int]) -> None:
        rows = pack(lens, 50)
        assert sorted(i for one in rows for i in one) == list(range(len(lens)))
        assert all(sum(lens[i] for i in one) <= 50 for one in rows)

    @given(st.lists(st.integers(1, 50), min_size=1, max_size=80))
    def test_no_two_rows_would_fit_into_one(self, lens: list[int]) -> None:
        smallest = sorted(sum(lens[i] for i in one) for one in pack(lens, 50))[:2]
        assert len(smallest) < 2 or sum(smallest) > 50

    def test_each_goes_where_it_leaves_the_least_room(self) -> None:
        assert pack([6, 4, 7, 3, 2], 10) == [(2, 3), (0, 1), (4,)]

    @given(st.lists(st.integers(1, 50), min_size=2, max_size=60), st.integers(0, 99))
    def test_how_many_rows_come_out_depends_on_the_lengths_alone(self, lens: list[int], seed: int) -> None:
        shuffled = list(lens)
        random.Random(seed).shuffle(shuffled)
        assert len(pack(shuffled, 50)) == len(pack(lens, 50))


class TestSampler:
    lens = tuple(random.Random(3).choices(range(1, 40), k=70))

    def samples(self, sampler: Sampler, epoch: int) -> list[int]:
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        return [i for step in steps for one in sampler.step(step) for i in one]

    @pytest.mark.parametrize("batch", [{"batch_tokens": 64}, {"batch_rows": 3}])
    def test_every_epoch_has_every_sample_once_and_in_another_order(self, batch: dict[str, int]) -> None:
        sampler = Sampler(self.lens, TrainConfig(accumulation=4, **batch))  # type: ignore[arg-type]
        first, second = self.samples(sampler, 0), self.samples(sampler, 1)
        assert sorted(first) == sorted(second) == list(range(70)) and first != second

    def test_a_step_follows_from_its_number_and_the_seed(self) -> None:
        one, other = (Sampler(self.lens, TrainConfig(batch_tokens=64)) for _ in range(2))
        ahead = [one.step(step) for step in range(50)]
        assert [other.step(step) for step in reversed(range(50))] == ahead[::-1]
        assert [Sampler(self.lens, TrainConfig(batch_tokens=64, seed=1)).step(step) for step in range(50)] != ahead

    def test_an_epochs_last_step_takes_what_is_left(self) -> None:
        sampler = Sampler([5] * 7, TrainConfig(batch_rows=1, accumulation=3, epochs=2))
        assert [len(sampler.step(step)) for step in range(6)] == [3, 3, 1, 3, 3, 1]
        assert sampler.total_steps == 6

    def test_epochs_may_be_broken_and_steps_overrule_them(self) -> None:
        assert Sampler([5] * 10, TrainConfig(batch_rows=1, epochs=1.25)).total_steps == 13
        assert Sampler([5] * 10, TrainConfig(batch_rows=1, steps=4)).total_steps == 4


class TestSchedule:
    @pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
    def test_it_rises_to_the_peak_and_stays_or_falls_to_nothing(self, name: str) -> None:
        share = schedule(TrainConfig(schedule=name, warmup_steps=4), 20)
        assert [share(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
        falling = [share(step) for step in range(4, 21)]
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] == pytest.approx(1 if name == "constant" else 0, abs=1e-9)
        assert share(12) == pytest.approx({"cosine": 0.5, "linear": 0.5, "constant": 1}[name])

    def test_a_ratio_is_of_all_steps(self) -> None:
        share = schedule(TrainConfig(warmup_ratio=0.1), 50)
        assert share(4) == 0.8 and share(5) == 1
