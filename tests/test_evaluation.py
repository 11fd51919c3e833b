from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from sklearn import metrics as sk
from torch import distributed

from dtk.errors import ArgumentError
from dtk.evaluation import Metrics, make_metrics
from dtk.preparation import ClassTarget, NumberTarget


def make_batch(num_rows: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(num_classes, (num_rows,), generator=generator)
    outputs = torch.randn(num_rows, num_classes, generator=generator)
    outputs[torch.arange(num_rows), target] += 0.8
    return outputs, target


def sklearn_metrics(outputs: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    chance, truth = torch.softmax(outputs.double(), dim=1).numpy(), target.numpy()
    guess, average = chance.argmax(axis=1), "binary" if outputs.shape[1] == 2 else "macro"
    score = chance[:, 1] if outputs.shape[1] == 2 else chance
    return {
        "accuracy": sk.accuracy_score(truth, guess),
        "precision": sk.precision_score(truth, guess, average=average),
        "recall": sk.recall_score(truth, guess, average=average),
        "f1": sk.f1_score(truth, guess, average=average),
        "auroc": sk.roc_auc_score(truth, score, multi_class="ovr"),
        "log_loss": sk.log_loss(truth, chance),
    }


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_classification_equals_sklearn(num_classes: int) -> None:
    outputs, target = make_batch(3000, num_classes)
    metrics = Metrics("classification", num_classes=num_classes)
    for start in range(0, 3000, 700):
        metrics.update(outputs[start : start + 700], target[start : start + 700])
    assert metrics.compute() == pytest.approx(sklearn_metrics(outputs, target), abs=2e-5)


def test_auroc_of_confident_scores_is_not_lost_in_bins() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(2, (4000,), generator=generator)
    margin = -8 + 0.5 * target + 0.5 * torch.randn(4000, generator=generator)  # all chances below 0.1%
    outputs = torch.stack([torch.zeros(4000), margin], dim=1)
    metrics = Metrics("classification", num_classes=2)
    metrics.update(outputs, target)
    assert metrics.compute()["auroc"] == pytest.approx(sk.roc_auc_score(target, margin), abs=1e-4)


def test_regression_equals_sklearn_in_the_targets_unit() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(40, 7, 500)
    guess = truth + rng.normal(0, 2, 500)
    target = NumberTarget("delay", mean=40.0, scale=7.0)
    metrics = make_metrics(target)
    standard = torch.tensor((guess - 40) / 7, dtype=torch.float64)[:, None]
    metrics.update(standard, torch.tensor((truth - 40) / 7, dtype=torch.float64))
    assert metrics.compute() == pytest.approx(
        {
            "mae": sk.mean_absolute_error(truth, guess),
            "rmse": sk.root_mean_squared_error(truth, guess),
            "r2": sk.r2_score(truth, guess),
        }
    )


def test_rows_of_weight_zero_are_left_out() -> None:
    outputs, target = make_batch(100, 3)
    padded, plain = Metrics("classification", num_classes=3), Metrics("classification", num_classes=3)
    weight = (torch.arange(100) < 80).float() * 2.5
    padded.update(outputs, target, weight)
    plain.update(outputs[:80], target[:80])
    assert padded.compute() == plain.compute()
    assert padded.num_rows == 80


@pytest.mark.parametrize("num_classes", [2, 4])
def test_merging_equals_one_pass_and_leaves_the_other_as_it_is(num_classes: int) -> None:
    outputs, target = make_batch(500, num_classes)
    whole = Metrics("classification", num_classes=num_classes)
    whole.update(outputs, target)
    parts = []
    for start in (0, 100, 350):
        part = Metrics("classification", num_classes=num_classes)
        part.update(outputs[start:], target[start:], (torch.arange(500 - start) < {0: 100, 100: 250, 350: 150}[start]))
        parts.append(pickle.loads(pickle.dumps(part)))
    before = parts[1].compute()
    merged = Metrics("classification", num_classes=num_classes)
    for part in parts:
        merged.merge(part)
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert parts[1].compute() == before


def test_no_rows_one_class_and_one_row_give_nan_without_a_warning() -> None:
    assert all(math.isnan(value) for value in Metrics("classification", num_classes=2).compute().values())
    one_class = Metrics("classification", num_classes=2)
    one_class.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert math.isnan(one_class.compute()["auroc"])
    assert one_class.compute()["accuracy"] == 0.5
    one_row = Metrics("regression")
    one_row.update(torch.tensor([[1.0]]), torch.tensor([2.0]))
    assert one_row.compute()["mae"] == 1.0
    assert math.isnan(one_row.compute()["r2"])


def test_a_class_that_is_absent_is_left_out_of_auroc() -> None:
    outputs, target = make_batch(300, 3)
    target = target.clamp(max=1)
    metrics = Metrics("classification", num_classes=3)
    metrics.update(outputs, target)
    chance = torch.softmax(outputs, dim=1)
    expected = np.mean([sk.roc_auc_score(target == label, chance[:, label]) for label in (0, 1)])
    assert metrics.compute()["auroc"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_scores_that_are_nan_give_nan(num_classes: int) -> None:
    outputs, target = make_batch(50, num_classes)
    outputs[7] = math.nan
    metrics = Metrics("classification", num_classes=num_classes)
    metrics.update(outputs, target)
    merged = Metrics("classification", num_classes=num_classes)
    merged.update(*make_batch(50, num_classes))
    merged.merge(metrics)
    for computed in (metrics.compute(), merged.compute()):
        assert math.isnan(computed["auroc"])
        assert math.isnan(computed["log_loss"])


def test_one_log_odds_is_as_good_as_two_logits() -> None:
    outputs, target = make_batch(300, 2)
    one, two = Metrics("classification", num_classes=2), Metrics("classification", num_classes=2)
    two.update(outputs, target)
    one.update(outputs[:, 1:] - outputs[:, :1], target)
    assert one.compute() == pytest.approx(two.compute(), rel=1e-6)


def test_batches_of_many_scores_are_counted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, target = make_batch(301, 5)
    whole, sliced = Metrics("classification", num_classes=5), Metrics("classification", num_classes=5)
    whole.update(outputs, target)
    monkeypatch.setattr("dtk.evaluation.parts._SLICE_SCORES", 60)
    sliced.update(outputs, target)
    assert sliced.compute() == whole.compute()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="task='ranking'"):
        Metrics("ranking")
    with pytest.raises(ArgumentError, match="num_classes=1"):
        Metrics("classification", num_classes=1)


def test_make_metrics_follows_the_target() -> None:
    assert make_metrics(ClassTarget("late", (False, True), (3, 1))).task == "classification"
    assert make_metrics(NumberTarget("delay", 0.0, 1.0)).task == "regression"


def compute_on_rank(rank: int, ranks: int, meeting: str, results: torch.Tensor) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    outputs, target = make_batch(400, 2)
    metrics = Metrics("classification", num_classes=2)
    share = slice(0, 300) if rank == 0 else slice(300, 400)
    metrics.update(outputs[share], target[share])
    metrics.compute()
    results[rank] = torch.tensor(list(metrics.compute().values()), dtype=torch.float64)  # the second call adds nothing
    distributed.destroy_process_group()


def test_two_ranks_compute_the_same_as_one(tmp_path: Path) -> None:
    results = torch.zeros(2, 6, dtype=torch.float64).share_memory_()
    torch.multiprocessing.spawn(compute_on_rank, (2, str(tmp_path / "meeting"), results), nprocs=2)
    outputs, target = make_batch(400, 2)
    whole = Metrics("classification", num_classes=2)
    whole.update(outputs, target)
    expected = torch.tensor(list(whole.compute().values()), dtype=torch.float64)
    torch.testing.assert_close(results, expected.expand(2, 6), rtol=1e-12, atol=0)
