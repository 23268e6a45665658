"""Calibration against a loop over examples, and ensembles against their members."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rebasin_fast import ensemble, evaluate, expected_calibration_error, predict, reliability_diagram


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def random_predictions(seed, count=60, classes=4):
    rng = np.random.default_rng(seed)
    return softmax(2 * rng.standard_normal((count, classes))), rng.integers(classes, size=count)


def slow_diagram(probabilities, targets, bins):
    """One example after the other: (count, confidence, accuracy) of every bin."""
    held = [[] for _ in range(bins)]
    for row, target in zip(probabilities, targets, strict=True):
        sure = max(row)
        k = next(k for k in range(bins) if sure <= (k + 1) / bins or k == bins - 1)
        held[k].append((sure, list(row).index(sure) == target))
    return held


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_agrees_with_a_loop_over_the_examples(seed, bins, classes):
    probabilities, targets = random_predictions(seed, classes=classes)
    found = reliability_diagram(probabilities, targets, bins=bins)
    held = slow_diagram(probabilities, targets, bins)
    error = largest = 0.0
    for k, examples in enumerate(held):
        assert found.count[k] == len(examples)
        if examples:
            confidence, accuracy = np.mean(examples, axis=0)
            assert found.confidence[k] == pytest.approx(confidence)
            assert found.accuracy[k] == pytest.approx(accuracy)
            error += len(examples) / len(targets) * abs(accuracy - confidence)
            largest = max(largest, abs(accuracy - confidence))
        else:
            assert np.isnan(found.confidence[k])
    assert found.error == pytest.approx(error)
    assert found.largest_error == pytest.approx(largest)
    assert found.edges.shape == (bins + 1,)
    assert expected_calibration_error(probabilities, targets, bins=bins) == found.error


def test_perfect_and_hopeless_confidence():
    sure, targets = np.eye(3), np.arange(3)
    assert expected_calibration_error(sure, targets) == 0.0
    assert expected_calibration_error(sure, np.roll(targets, 1)) == 1.0
    assert reliability_diagram(sure, targets, bins=10).count.tolist() == [0] * 9 + [3]
    assert reliability_diagram(np.full((2, 2), 0.5), np.array([0, 1]), bins=2).count.tolist() == [2, 0]


def test_a_calibrated_classifier_has_little_error():
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.standard_normal((40_000, 3)))
    drawn = (probabilities.cumsum(axis=1) < rng.random((40_000, 1))).sum(axis=1)
    assert expected_calibration_error(probabilities, drawn) < 0.01
    assert expected_calibration_error(softmax(3 * np.log(probabilities)), drawn) > 0.1


def test_torch_and_narrow_floats():
    probabilities, targets = random_predictions(1)
    want = expected_calibration_error(probabilities, targets)
    assert expected_calibration_error(torch.tensor(probabilities), torch.tensor(targets)) == want
    half = expected_calibration_error(torch.tensor(probabilities).bfloat16(), torch.tensor(targets))
    assert half == pytest.approx(want, abs=0.05)


def network_and_members(count=3):
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).double()
    generator = torch.Generator().manual_seed(0)
    return model, [
        {
            name: t if not t.is_floating_point() else 0.5 + torch.rand(t.shape, generator=generator).double()
            for name, t in model.state_dict().items()
        }
        for _ in range(count)
    ]


def examples(sizes=(4, 1, 6)):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 5, generator=generator).double(), torch.randint(4, (n,), generator=generator)) for n in sizes
    ]


def test_predictions_are_the_models_own():
    model, (params, *_) = network_and_members()
    seen = []
    found = predict(model, params, examples(), progress=lambda *now: seen.append(now))
    model.load_state_dict(params)
    with torch.no_grad():
        want = torch.cat([model.eval()(x).softmax(dim=1) for x, _ in examples()])
    np.testing.assert_allclose(found.probabilities, want.numpy(), rtol=1e-12)
    assert found.targets.tolist() == torch.cat([y for _, y in examples()]).tolist()
    whole = evaluate(model, params, examples())
    assert (found.loss, found.accuracy) == pytest.approx((whole.loss, whole.accuracy))
    assert seen == [("predict", done, 3) for done in (1, 2, 3)]


def test_the_ensemble_is_the_mean_of_its_members():
    model, members = network_and_members()
    model.train()
    alone = [predict(model, params, examples()).probabilities for params in members]
    found = ensemble(model, members, iter(examples()))
    np.testing.assert_allclose(found.probabilities, np.mean(alone, axis=0), rtol=1e-12)
    by_logits = ensemble(model, members, examples(), average="logits")
    geometric = np.exp(np.mean(np.log(alone), axis=0))
    np.testing.assert_allclose(by_logits.probabilities, geometric / geometric.sum(axis=1, keepdims=True), rtol=1e-10)
    assert all(module.training for module in model.modules())
    # Convexity of the logarithm: no worse than its members on average.
    assert found.loss <= np.mean([predict(model, params, examples()).loss for params in members])


def test_bad_input_is_named():
    probabilities, targets = random_predictions(0)
    for arguments, error, message in (
        ((probabilities.tolist(), targets), TypeError, "probabilities is of type list"),
        ((probabilities, targets.astype(float)), TypeError, "targets has dtype float64"),
        ((probabilities, targets[1:]), ValueError, r"probabilities has shape \(60, 4\) and targets \(59,\)"),
        ((probabilities[:0], targets[:0]), ValueError, "N > 0"),
        ((probabilities * 2, targets), ValueError, "does not add up to 1"),
        ((probabilities * np.nan, targets), ValueError, "negative, NaN or"),
        ((probabilities, targets + 4), ValueError, "targets are from 4 to 7; expected 0 to 3"),
    ):
        with pytest.raises(error, match=message):
            reliability_diagram(*arguments)
    with pytest.raises(ValueError, match="bins is 0"):
        reliability_diagram(probabilities, targets, bins=0)
    model, members = network_and_members()
    for change, error, message in (
        ({"members": []}, ValueError, "members is empty"),
        ({"members": members[0]}, TypeError, "members is of type dict"),
        ({"members": [{}]}, ValueError, r"members\[0\] does not fit the model"),
        ({"average": "votes"}, ValueError, "average is 'votes'"),
        ({"batches": []}, ValueError, "batches holds no examples"),
        ({"batches": [examples()[0][0]]}, TypeError, "batch 0 is a Tensor"),
        ({"batches": [(torch.zeros(2, 5).double(), torch.zeros(2, 4))]}, ValueError, r"targets of shape \(2, 4\)"),
    ):
        with pytest.raises(error, match=message):
            ensemble(**{"model": model, "members": members, "batches": examples(), **change})
