"""What every optimisation shares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refinestyle_hub.runtime.optim import (
    adam_state,
    ema_decay,
    load_adam_state,
    reduce_gradients,
    set_learning_rate,
    update_average,
    warmup_cosine,
)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    values = [warmup_cosine(p / 100, 0.1) for p in range(101)]
    assert max(values) == values[10] == 1
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[-1] == pytest.approx(0)
    assert warmup_cosine(0, 0.0) == 1


def test_each_group_keeps_its_own_rate() -> None:
    leaves = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    adam = torch.optim.Adam([{"params": [leaves[0]], "lr": 1.0}, {"params": [leaves[1]], "lr": 4.0}])
    for share in (0.5, 0.25):
        set_learning_rate(adam, share)
        assert [group["lr"] for group in adam.param_groups] == [share, 4 * share]


def test_gradients_are_averaged_and_finite() -> None:
    a, b, unused = (torch.zeros(2, requires_grad=True) for _ in range(3))
    a.grad, b.grad = torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf, -torch.inf])
    reduce_gradients([a, unused, b], lambda flat: flat / 2)
    assert a.grad.tolist() == [0.5, 0.0]
    assert b.grad.tolist() == [1e5, -1e5]
    assert unused.grad is None


def test_the_average_follows_with_its_half_life() -> None:
    assert ema_decay(10, 1000, halflife=10, ramp=0.1) == 0.5
    assert ema_decay(10, 50, halflife=10, ramp=0.1) == 0.25  # the half-life is 5 at first
    assert ema_decay(10, 0, halflife=10, ramp=0.1) == 0
    net, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(net.weight, 3.0)
    net.running_mean.fill_(7.0)  # type: ignore[union-attr]
    update_average(average, net, 0.5)
    assert average.weight.tolist() == [2.0, 2.0]
    assert torch.equal(average.running_mean, net.running_mean)  # type: ignore[arg-type]


def test_adam_goes_on_from_its_state() -> None:
    """Also where a parameter had none, such as one that no step has used so far."""

    def model() -> tuple[nn.ModuleDict, torch.optim.Adam]:
        torch.manual_seed(0)
        net = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
        return net, torch.optim.Adam(net.parameters())

    def step(net: nn.ModuleDict, adam: torch.optim.Adam) -> None:
        adam.zero_grad()
        net["used"](torch.ones(1, 2)).square().sum().backward()
        adam.step()

    (saved, adam), (again, other) = model(), model()
    step(saved, adam)
    state = adam_state(adam, dict(saved.named_parameters()))
    assert set(state) == {f"used.{p}.{key}" for p in ("weight", "bias") for key in ("step", "exp_avg", "exp_avg_sq")}
    again.load_state_dict(saved.state_dict())
    load_adam_state(other, dict(again.named_parameters()), state)
    step(saved, adam)
    step(again, other)
    assert torch.equal(saved["used"].weight, again["used"].weight)
    load_adam_state(other, dict(again.named_parameters()), {})
    assert not other.state
    with pytest.raises(KeyError, match="bias.exp_avg"):
        load_adam_state(other, dict(again.named_parameters()), {"used.bias.step": torch.ones([])})
