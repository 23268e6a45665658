import math

import numpy as np
import pytest
import torch
from torch import nn

from rebasin_fast.evaluate import barrier, evaluate


class Noted(nn.Module):
    """Writes to a buffer outside of the state dict and to one inside, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1
        self.scratch += 1
        return x


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), Noted(), nn.Linear(8, 3))
    model.train()
    model[1].eval()
    return model


def parameters(seed):
    generator = torch.Generator().manual_seed(seed)
    params = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    for name, tensor in params.items():
        if tensor.is_floating_point():
            params[name] = torch.rand(tensor.shape, generator=generator) + ("var" in name)
    return params


def batches(sizes=(5, 3, 1)):
    generator = torch.Generator().manual_seed(9)
    return [
        (torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator)) for size in sizes
    ]


def slow_evaluate(params, data):
    """Load the parameters into a fresh model, run example by example."""
    model = network().eval()
    model.load_state_dict(params)
    losses, hits = [], []
    with torch.no_grad():
        for x, y in data:
            for row, target in zip(x, y, strict=True):
                logits = model(row[None])[0].double()
                losses.append(float(torch.logsumexp(logits, 0) - logits[target]))
                hits.append(int(logits.argmax()) == int(target))
    return np.mean(losses), np.mean(hits)


def fingerprint(model):
    state = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    state |= {name: tensor.numpy().tobytes() for name, tensor in model.named_buffers()}
    addresses = [tensor.data_ptr() for tensor in model.parameters()]
    gradients = [parameter.grad for parameter in model.parameters()]
    return state, addresses, gradients, [module.training for module in model.modules()]


def test_agrees_with_one_example_at_a_time():
    params, data = parameters(1), batches()
    got = evaluate(network(), params, data)
    loss, accuracy = slow_evaluate(params, data)
    assert got.loss == pytest.approx(loss, rel=1e-6)
    assert got.accuracy == pytest.approx(accuracy)
    assert got.count == 9


def test_batch_sizes_do_not_matter():
    data = batches((9,))
    (x, y) = data[0]
    pieces = [(x[:1], y[:1]), (x[1:1], y[1:1]), [x[1:7], y[1:7]], (x[7:], y[7:])]
    whole, split = evaluate(network(), parameters(1), data), evaluate(network(), parameters(1), iter(pieces))
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (split.accuracy, split.count) == (whole.accuracy, whole.count)


def test_model_and_parameters_are_untouched():
    model, a, b = network(), parameters(1), parameters(2)
    before = fingerprint(model)
    kept = {name: tensor.clone() for name, tensor in a.items()}
    evaluate(model, a, batches())
    barrier(model, a, b, batches(), lambdas=3)
    assert fingerprint(model) == before
    assert all(torch.equal(a[name], kept[name]) for name in kept)


def test_model_is_untouched_when_the_loss_fails():
    model = network()
    before = fingerprint(model)

    def fail(outputs, targets):
        raise ZeroDivisionError("in the loss")

    with pytest.raises(ZeroDivisionError, match="in the loss"):
        evaluate(model, parameters(1), batches(), loss=fail)
    assert fingerprint(model) == before


def test_numpy_parameters_and_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    data = [(torch.eye(3), torch.tensor([0, 1, 2]))]
    twice = {"one.weight": np.eye(3, dtype=np.float32), "two.weight": np.full((3, 3), 2, np.float32) * np.eye(3)}
    twice["two.weight"] = twice["two.weight"].astype(np.float32)
    got = evaluate(Tied(), twice, data, loss=lambda outputs, _: outputs.diagonal().mean())
    assert got.loss == 2.0
    assert got.accuracy == 1.0


def test_half_precision_logits_are_measured_in_float32():
    logits = torch.tensor([[10.0, 0.0]], dtype=torch.float16)
    got = evaluate(nn.Identity(), {}, [(logits, torch.tensor([0]))])
    assert got.loss == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)


def test_accuracy_is_nan_when_targets_are_no_classes():
    data = [(torch.ones(2, 3), torch.ones(2, 3))]
    got = evaluate(nn.Identity(), {}, data, loss=nn.functional.mse_loss)
    assert got.loss == 0.0
    assert math.isnan(got.accuracy)


def test_nan_outputs_are_reported_not_hidden():
    data = [(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))]
    got = evaluate(nn.Identity(), {}, data)
    assert math.isnan(got.loss)
    assert got.accuracy == 0.0


def test_progress_of_evaluate():
    calls = []
    evaluate(network(), parameters(1), batches(), progress=lambda *call: calls.append(call))
    assert calls == [("evaluate", 1, 3), ("evaluate", 2, 3), ("evaluate", 3, 3)]


@pytest.mark.parametrize("method", ["lerp", "slerp"])
def test_barrier_agrees_with_a_slow_loop(method):
    a, b, data = parameters(1), parameters(2), batches()
    got = barrier(network(), a, b, data, lambdas=5, method=method)
    losses = []
    for lam in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixed = {name: slow_mix(a[name], b[name], lam, method) for name in a}
        losses.append(slow_evaluate(mixed, data)[0])
    np.testing.assert_allclose(got.loss, losses, rtol=1e-5)
    assert got.barrier == pytest.approx(max(losses) - (losses[0] + losses[-1]) / 2, rel=1e-4, abs=1e-6)
    np.testing.assert_array_equal(got.lambdas, [0, 0.25, 0.5, 0.75, 1])
    assert got.method == method
    assert got.count == 9


def slow_mix(a, b, lam, method):
    if not a.is_floating_point():
        return a
    x, y = a.double().flatten(), b.double().flatten()
    if method == "lerp" or not x.norm() * y.norm():
        return ((1 - lam) * a + lam * b).float()
    angle = torch.arccos((x @ y / x.norm() / y.norm()).clip(-1, 1))
    if angle.sin() < 1e-6:
        return ((1 - lam) * a + lam * b).float()
    turned = (torch.sin((1 - lam) * angle) * x / x.norm() + torch.sin(lam * angle) * y / y.norm()) / torch.sin(angle)
    return (turned * ((1 - lam) * x.norm() + lam * y.norm())).reshape(a.shape).float()


def test_barrier_from_a_to_itself_is_zero():
    a = parameters(1)
    got = barrier(network(), a, a, batches(), lambdas=7)
    assert got.barrier == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(got.loss, got.loss[0], rtol=1e-6)
    np.testing.assert_array_equal(got.accuracy, got.accuracy[0])


def test_each_position_is_evaluated_once_and_iterators_are_read_once():
    seen = []

    def note(outputs, targets):
        seen.append(len(targets))
        return outputs.sum()

    calls = []
    got = barrier(
        network(),
        parameters(1),
        parameters(2),
        iter(batches()),
        lambdas=4,
        loss=note,
        progress=lambda *call: calls.append(call),
    )
    assert seen == [5, 3, 1] * 4
    assert got.count == 9
    assert calls == [("barrier", done, 4) for done in (1, 2, 3, 4)]


def test_explicit_positions_are_sorted_and_get_their_ends():
    got = barrier(network(), parameters(1), parameters(2), batches(), lambdas=[0.5, 0.25, 0.5])
    np.testing.assert_array_equal(got.lambdas, [0, 0.25, 0.5, 1])
    assert got.loss.shape == got.accuracy.shape == (4,)


def test_nan_on_the_way_makes_the_barrier_nan():
    a, b = {"weight": torch.ones(1, 1)}, {"weight": -torch.ones(1, 1)}
    data = [(torch.ones(1, 1), torch.zeros(1, 1))]
    got = barrier(nn.Linear(1, 1, bias=False), a, b, data, lambdas=3, loss=lambda out, _: out.sum() / out.sum())
    assert math.isnan(got.barrier)
    np.testing.assert_array_equal(np.isnan(got.loss), [False, True, False])
    infinite = barrier(nn.Linear(1, 1, bias=False), a, b, data, lambdas=3, loss=lambda out, _: 1 / out.sum().abs())
    assert infinite.barrier == math.inf


@pytest.mark.parametrize("lambdas", [1, 0, -3, [-0.1, 1], [0, 1.5], [0, np.nan], [[0, 1]], [[0], [0, 1]]])
def test_positions_out_of_range(lambdas):
    with pytest.raises(ValueError, match=r"lambdas is .* expected"):
        barrier(network(), parameters(1), parameters(2), batches(), lambdas=lambdas)


@pytest.mark.parametrize("lambdas", [True, "25", None, ["a"]])
def test_positions_of_the_wrong_type(lambdas):
    with pytest.raises(TypeError, match=r"lambdas is .* expected"):
        barrier(network(), parameters(1), parameters(2), batches(), lambdas=lambdas)


def test_barrier_names_what_does_not_fit():
    a, b = parameters(1), parameters(2)
    b["0.weight"] = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"params_b\['0.weight'\] has shape \(2, 2\); expected \(8, 4\)"):
        barrier(network(), a, b, batches())
    a = parameters(1)
    a["0.bias"][0] = torch.nan
    with pytest.raises(ValueError, match=r"params_a\['0.bias'\] holds NaN"):
        barrier(network(), a, parameters(2), batches(), lambdas=2)


@pytest.mark.parametrize("empty", [[], iter(()), [(torch.ones(0, 4), torch.ones(0, dtype=torch.int64))]])
def test_no_examples(empty):
    with pytest.raises(ValueError, match="batches holds no examples"):
        barrier(network(), parameters(1), parameters(2), empty)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (torch.ones(2, 4), TypeError, r"batch 0 is a Tensor; expected a pair \(inputs, targets\)"),
        ((torch.ones(2, 4),), ValueError, "batch 0 has 1 items; expected 2"),
        ((torch.ones(2, 4), [0, 1]), TypeError, "targets of batch 0 are list; expected a torch tensor"),
        ((torch.ones(2, 4), torch.tensor(1)), TypeError, "targets of batch 0 are a tensor without dimensions"),
        ((torch.ones(2, 4), torch.tensor([1])), ValueError, r"inputs of shape \(2, 4\) but 1 targets"),
    ],
)
def test_bad_batches(batch, error, message):
    with pytest.raises(error, match=message):
        evaluate(network(), parameters(1), [batch])


def test_bad_parameters_model_and_loss():
    params = parameters(1)
    with pytest.raises(ValueError, match=r"missing: \['5.bias'\], unknown: \['six'\]"):
        evaluate(network(), {name: params[name] for name in params if name != "5.bias"} | {"six": params["5.bias"]}, [])
    with pytest.raises(ValueError, match=r"params\['5.bias'\] has shape \(2,\); expected \(3,\), as in the model"):
        evaluate(network(), params | {"5.bias": torch.ones(2)}, batches())
    with pytest.raises(TypeError, match=r"params\['5.bias'\] is a float; expected a torch tensor or a numpy array"):
        evaluate(network(), params | {"5.bias": 1.0}, batches())
    with pytest.raises(TypeError, match=r"model is a function; expected a torch\.nn\.Module"):
        evaluate(network, params, batches())
    with pytest.raises(ValueError, match=r"loss returned a tensor of shape \(5, 3\); expected one number"):
        evaluate(network(), params, batches(), loss=lambda outputs, _: outputs)
    with pytest.raises(TypeError, match="the model returned a tuple; expected a tensor of logits"):
        evaluate(nn.Identity(), {}, [((1, 2), torch.tensor([0]))])
