"""Training: optimisers and schedules against a plain loop, repeatability, errors."""

from __future__ import annotations

import math

import pytest
import torch

from rebasin_fast.datasets import Dataset
from rebasin_fast.training import make_mlp, train


@pytest.fixture
def dataset():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(50, 6, generator=generator), torch.randint(3, (50,), generator=generator)
    return Dataset(x, y, x, y, "random", 3)


def plain_sgd(model, dataset, orders, lr, longest=math.inf):
    """Momentum 0.9 written out; `lr` maps the number of a step to its learning rate, gradients are cut to `longest`."""
    velocity = [torch.zeros_like(parameter) for parameter in model.parameters()]
    step = 0
    for order in orders:
        for batch in order.split(20):
            loss = torch.nn.functional.cross_entropy(model(dataset.train_x[batch]), dataset.train_y[batch])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            length = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
            gradients = [gradient * min(1.0, longest / length) for gradient in gradients]
            with torch.no_grad():
                for parameter, speed, gradient in zip(model.parameters(), velocity, gradients, strict=True):
                    speed.mul_(0.9).add_(gradient)
                    parameter.sub_(lr(step) * speed)
            step += 1


def recorded(dataset, **options):
    """Train, and return the untrained parameters, the order of the examples in each epoch and the trained model."""
    start, orders = {}, []
    permute = torch.randperm

    def watched(*arguments, **keywords):
        orders.append(permute(*arguments, **keywords))
        return orders[-1]

    torch.randperm = watched
    try:
        result = train(
            lambda: make_mlp((6, 8, 3)),
            dataset,
            batch_size=20,
            after_epoch=lambda done, model: (
                done or start.update({name: value.clone() for name, value in model.state_dict().items()})
            ),
            **options,
        )
    finally:
        torch.randperm = permute
    return start, orders, result.model


def test_sgd_is_the_plain_loop(dataset):
    start, orders, trained = recorded(dataset, epochs=3, lr=0.1, optimizer="sgd")
    model = make_mlp((6, 8, 3))
    model.load_state_dict(start)
    plain_sgd(model, dataset, orders, lambda _: 0.1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value)


def test_long_gradients_are_shortened(dataset):
    start, orders, trained = recorded(dataset, epochs=3, lr=0.1, optimizer="sgd", max_gradient_norm=0.3)
    cut, whole = make_mlp((6, 8, 3)), make_mlp((6, 8, 3))
    for model, longest in ((cut, 0.3), (whole, math.inf)):
        model.load_state_dict(start)
        plain_sgd(model, dataset, orders, lambda _: 0.1, longest)
    for name, value in cut.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value)
        assert not torch.allclose(value, whole.state_dict()[name])


@pytest.mark.parametrize("longest", [0.0, -1.0, math.nan, math.inf])
def test_a_longest_gradient_that_makes_no_sense_is_told(dataset, longest):
    with pytest.raises(ValueError, match="max_gradient_norm is"):
        train(lambda: make_mlp((6, 8, 3)), dataset, epochs=1, max_gradient_norm=longest)


def test_the_learning_rate_rises_and_falls_along_a_cosine(dataset):
    start, orders, trained = recorded(dataset, epochs=20, lr=0.1, optimizer="sgd", schedule="warmup_cosine")
    model = make_mlp((6, 8, 3))
    model.load_state_dict(start)
    steps, warmup = 60, 3

    def lr(step):
        if step < warmup:
            return 0.1 * (step + 1) / warmup
        return 0.1 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    plain_sgd(model, dataset, orders, lr)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_the_first_epochs_do_not_depend_on_how_many_follow(dataset):
    states = {}
    for epochs in (2, 4):
        train(
            lambda: make_mlp((6, 8, 3)),
            dataset,
            epochs=epochs,
            after_epoch=lambda done, model, epochs=epochs: states.update(
                {(epochs, done): {name: value.clone() for name, value in model.state_dict().items()}}
            ),
        )
    assert sorted(states) == [(2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 2), (4, 3), (4, 4)]
    for name, value in states[2, 2].items():
        assert torch.equal(value, states[4, 2][name])
        assert not torch.equal(value, states[4, 4][name])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"optimizer": "adagrad"}, r"optimizer is 'adagrad'; expected 'adam' or 'sgd'"),
        ({"schedule": "step"}, r"schedule is 'step'; expected 'constant' or 'warmup_cosine'"),
    ],
)
def test_unknown_choices_are_told(dataset, option, message):
    with pytest.raises(ValueError, match=message):
        train(lambda: make_mlp((6, 8, 3)), dataset, epochs=1, **option)


def test_no_epoch_and_a_schedule_leave_the_model_as_it_is(dataset):
    seen = []
    result = train(
        lambda: make_mlp((6, 8, 3)),
        dataset,
        epochs=0,
        schedule="warmup_cosine",
        after_epoch=lambda done, _: seen.append(done),
    )
    assert (seen, result.losses) == ([0], ())


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "sgd", "schedule": "warmup_cosine", "weight_decay": 1e-3, "lr": 0.1, "max_gradient_norm": 1.0}],
)
def test_training_goes_on_from_a_kept_state_to_the_same_bits(dataset, options, tmp_path):
    """Through a file, and with a model that draws random numbers on the way."""

    def model():
        return torch.nn.Sequential(
            make_mlp((6, 8, 8)), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(8), make_mlp((8, 3))
        )

    def keep(state):
        torch.save(state(), tmp_path / f"{len(list(tmp_path.iterdir()))}.pt")

    settings = {"epochs": 4, "batch_size": 20, **options}
    whole = train(model, dataset, **settings, keep_state=keep)
    assert len(list(tmp_path.iterdir())) == 3
    for done in range(1, 4):
        state, seen = torch.load(tmp_path / f"{done - 1}.pt", weights_only=True), []
        rest = train(model, dataset, **settings, state=state, after_epoch=lambda epoch, _, to=seen: to.append(epoch))
        assert seen == list(range(done + 1, 5))
        assert rest.losses == whole.losses
        expected = whole.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in rest.model.state_dict().items())
