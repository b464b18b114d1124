"""What the training of the encoder learns from: distortions, tasks, and how much of an error of w+ shows."""

from __future__ import annotations

from typing import Any

import torch
from tiny import faces, mild_generator
from torch import Tensor

from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.train.augment import DISTORTIONS, distort, random_tokens
from refinestyle_hub.train.encoder_objective import Objective, residual_norm, visibility
from refinestyle_hub.train.tasks import Task, Tasks, pair_rngs


def test_distortions_leave_the_range_alone_and_nothing_else() -> None:
    x = faces()
    for kind in DISTORTIONS:
        for picture, rng in zip(x, pair_rngs(0, range(4)), strict=True):
            kept = picture.clone()
            changed = kind(picture, rng)
            assert changed.shape == picture.shape
            assert (changed - kept).abs().mean() > 0.003, kind.__name__
            assert torch.equal(picture, kept), "the picture given is left alone"
    y = distort(x, pair_rngs(0, range(4)))
    assert y.min() >= -1
    assert y.max() <= 1
    assert torch.equal(y[2:], distort(x[2:], pair_rngs(0, range(2, 4)))), "a picture knows no neighbours"
    assert torch.equal(y, distort(x, pair_rngs(0, range(4))))
    assert not torch.equal(y, distort(x, pair_rngs(1, range(4))))


def test_random_tokens_are_as_strong_as_they_say() -> None:
    generator = mild_generator()
    stats = generator.kernel_stats()
    tokens = random_tokens(stats, pair_rngs(0, range(64)), strongest=0.6)
    strength = residual_norm(tokens, stats).sqrt()  # root mean square over layers, of which some sets leave out most
    assert (strength > 0).all()
    assert float(strength.max()) < 1.5  # norms of few random numbers scatter about 0.6
    assert float(strength.median()) > 0.03
    pre = tokens.own["b8.conv0"].pre
    assert pre.any()
    assert not pre.all()
    alone = random_tokens(stats, pair_rngs(0, range(5, 6)))
    assert torch.equal(alone.own["b8.conv0"].q[0], tokens.own["b8.conv0"].q[5])


def test_tasks() -> None:
    generator = mild_generator()
    portraits, tasks = faces(6), Tasks(generator, generator.kernel_stats(), ood_fraction=0.5, mixing=0.5)
    domain = tasks.in_domain(portraits, pair_rngs(0, range(6)))
    assert domain.w_plus is not None
    assert torch.equal(domain.images[:6], portraits)
    torch.testing.assert_close(domain.images[6:], generator(domain.w_plus).clamp(-1, 1))
    mixed = (domain.w_plus != domain.w_plus[:, :1]).any(dim=2).any(dim=1)
    assert mixed.any()
    assert not mixed.all()

    foreign = tasks.out_of_domain(portraits, pair_rngs(0, range(6)))
    assert torch.equal(foreign.w_plus, domain.w_plus)
    changed = [not torch.equal(a, b) for a, b in zip(foreign.images, domain.images, strict=True)]
    assert 2 <= sum(changed) <= 10
    assert foreign.target is foreign.images
    every = Tasks(generator, generator.kernel_stats(), ood_fraction=1.0, mixing=0.5).out_of_domain(
        portraits, pair_rngs(0, range(6))
    )
    assert all(not torch.equal(a, b) for a, b in zip(every.images, domain.images, strict=True))


def test_visibility_is_how_far_a_step_shows() -> None:
    generator = mild_generator().requires_grad_(False)
    w_plus = generator.map(torch.randn(400, 8, generator=torch.Generator().manual_seed(5)))
    visible = visibility(generator, torch.Generator().manual_seed(0), samples=512)
    for layer in (0, 3):
        step = torch.zeros_like(w_plus)
        step[:, layer, 2] = 1e-2
        moved = (generator(w_plus + step) - generator(w_plus)).square().mean() / 1e-4
        # both are means over random codes, the first over random projections too
        torch.testing.assert_close((visible @ visible)[layer, 2, 2], moved, rtol=0.3, atol=0)


def test_the_mean_latent_has_a_latent_error_of_one() -> None:
    generator = mild_generator().requires_grad_(False)
    objective = Objective(generator, None, None, 16)
    codes = generator.map(torch.randn(2000, 8, generator=torch.Generator().manual_seed(5)))
    task = Task(codes, codes, codes)
    mean = objective.code_losses(generator.mean_latent.expand_as(codes), task)["latent"].mean()
    torch.testing.assert_close(mean, torch.ones([]), rtol=0.1, atol=0)
    assert objective.code_losses(codes, task)["latent"].abs().max() == 0


def test_a_cycle_undoes_its_edit() -> None:
    """For an encoder that finds the w+ of a sample exactly, the move leads back to the picture before."""
    generator = mild_generator()
    tasks = Tasks(generator, generator.kernel_stats(), ood_fraction=0.0, mixing=0.5)
    task = tasks.in_domain(faces(3), pair_rngs(0, range(3)))
    assert task.w_plus is not None
    truth = task.w_plus
    encoder = Encoder.for_generator(generator, widths=(8, 8, 8, 16), width=16, heads=2, depth=1)

    def exact(pictures: Tensor) -> Any:
        found = encoder(pictures, generator)
        return found._replace(w_plus=torch.cat([found.w_plus[:3], truth]))

    cycle = tasks.cycle(task, pair_rngs(0, range(3)), exact)
    assert cycle.move is not None
    assert cycle.w_plus is None
    assert torch.equal(cycle.target, task.target)
    moved = truth - cycle.move[3:]
    torch.testing.assert_close(generator(moved).clamp(-1, 1), cycle.images[3:], rtol=0, atol=1e-5)
    back = generator(moved + cycle.move[3:]).clamp(-1, 1)
    torch.testing.assert_close(back, cycle.target[3:], rtol=0, atol=1e-5)
    assert (cycle.images - task.images).abs().mean() > 0.01


# --- Several processes ----------------------------------------------------------------------------------------------
