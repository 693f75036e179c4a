"""What stops or marks a run, with literal numbers."""

from dataclasses import replace

import pytest
import torch

from finetune.chat import IGNORE, Encoded
from finetune.config.schema import TrainConfig
from finetune.dataset import TrainingRows
from finetune.errors import MachineError, RefusedError
from finetune.guards import (
    SpikeWatch,
    is_out_of_memory,
    require_finite_step,
    require_trained_tokens,
    smaller_micro_batch,
)


def test_a_spike_stands_six_robust_deviations_above_the_median() -> None:
    before = [1.0, 1.2] * 8  # median 1.1, median absolute deviation 0.1: a spike lies above 1.1 + 6 * 0.14826
    watch = SpikeWatch(deviations=6)
    assert not any(watch.update(loss) for loss in before)
    assert not SpikeWatch(6, before).update(1.98)
    assert SpikeWatch(6, before).update(2.0)
    assert not SpikeWatch(6, before).update(0.0)


def test_fifteen_losses_are_too_few_and_a_constant_loss_has_no_spikes() -> None:
    watch = SpikeWatch(deviations=6)
    assert not any(watch.update(loss) for loss in [1.0] * 15 + [9.0])
    constant = SpikeWatch(deviations=6, losses=[1.0] * 64)
    assert not constant.update(9.0)


def test_a_spike_watch_goes_on_where_it_was() -> None:
    watch = SpikeWatch(deviations=6, losses=[1.0, 1.2] * 8)
    again = SpikeWatch(deviations=6)
    again.restore(watch.state())
    assert again.update(2.0)


def test_a_bad_loss_is_named_by_the_rows_of_its_micro_batch() -> None:
    batches = [["a", "b"], ["c", "d"]]
    require_finite_step(3, 1.0, [0.5, 0.6], batches)
    with pytest.raises(
        RefusedError, match="step 3: the loss is not a number, found before the weights moved;.* rows c, d"
    ):
        require_finite_step(3, float("nan"), [0.5, float("inf")], batches)
    with pytest.raises(RefusedError, match="step 3: the gradient is not a number.* rows a, b, c, d"):
        require_finite_step(3, float("inf"), [0.5, 0.6], batches)


def test_a_step_without_a_trained_token_is_refused() -> None:
    learned, masked = Encoded([1, 2], [IGNORE, 2]), Encoded([1, 2], [IGNORE, IGNORE])
    first = Encoded([1, 2], [1, IGNORE])  # nothing predicts the first token of a row
    train = TrainConfig(global_batch=2)
    rows = TrainingRows([learned, masked, first], [0, 1, 1, 2], {}, ["a", "b", "c"])
    with pytest.raises(RefusedError, match="step 2 has no trained token; look at the rows b, c"):
        require_trained_tokens(rows, train)
    require_trained_tokens(replace(rows, order=[0, 1, 2, 0]), train)


@pytest.mark.parametrize(
    ("rows", "of", "smaller"), [(8, 16, 4), (16, 16, 8), (6, 12, 3), (5, 20, 2), (7, 21, 3), (3, 9, 1)]
)
def test_the_micro_batch_halves_and_still_divides_the_global_batch(rows: int, of: int, smaller: int) -> None:
    assert smaller_micro_batch(TrainConfig(micro_batch=rows, global_batch=of)) == smaller


def test_one_row_that_does_not_fit_is_the_end() -> None:
    with pytest.raises(
        MachineError, match="out of memory with one row a micro-batch; lower train.max_tokens"
    ):
        smaller_micro_batch(TrainConfig(micro_batch=1, global_batch=8))


def test_torchs_own_words_for_no_memory_are_known() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    assert not is_out_of_memory(RuntimeError("shapes differ"))
