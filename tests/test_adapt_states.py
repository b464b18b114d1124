"""Adaptation as a run that stops and goes on: its states, its chunks, and what it keeps."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt_parts import QUICK, begin, quiet_generator, references, small_discriminator
from tiny import tiny_generator

from refinestyle_hub.adapt import Adaptation, AdaptState, preset
from refinestyle_hub.adapt.domain_terms import Norm
from refinestyle_hub.errors import ConfigError, ModelFileError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.discriminator import Discriminator
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.tokens.token_set import TokenSet


@pytest.fixture(scope="module")
def generator() -> Generator:
    return quiet_generator()


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    return small_discriminator()


def same(a: TokenSet, b: TokenSet) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) and a.metadata == b.metadata


def changed(state: AdaptState, **numbers: Any) -> AdaptState:
    return AdaptState(state.tensors, {**state.numbers, **numbers})


@pytest.fixture(scope="module")
def whole(generator: Generator, discriminator: Discriminator) -> TokenSet:
    run = begin(generator, discriminator)
    run.step(6)
    return run.token_set()


def test_the_size_of_chunks_does_not_matter(
    whole: TokenSet, generator: Generator, discriminator: Discriminator
) -> None:
    run = begin(generator, discriminator)
    for count in (1, 3, 5):  # more than are left
        run.step(count)
        run.preview(), run.token_set(), run.state()  # looking changes nothing
    assert run.finished
    assert same(run.token_set(), whole)


@pytest.mark.parametrize("count", [1, 3])
def test_presets_for_few_pictures_stop_and_go_on_too(
    generator: Generator, discriminator: Discriminator, count: int
) -> None:
    """With inversions and all other terms, as they are but for the time they take."""

    def make(state: AdaptState | None = None) -> Adaptation:
        settings = replace(
            preset(count),
            batch=2,
            inversion_steps=2,
            discriminator_start=0.25,
            discriminator_min_steps=0,
            check_every=2,
        )
        return Adaptation(
            generator, references(count), steps=4, settings=settings, discriminator=discriminator,
            perceptual=perceptual, state=state,
        )  # fmt: skip

    perceptual = Perceptual.load("st-lpips-alex")
    whole, first = make(), make()
    assert {"reconstruction", "adversarial"} <= set(whole.step(4))
    first.step(3)
    again = make(pickle.loads(pickle.dumps(first.state())))
    again.step(1)
    assert same(again.token_set(), whole.token_set())


@pytest.mark.parametrize("stop", [0, 3, 4])
def test_pickled_or_saved_it_goes_on_as_if_it_had_not_stopped(
    whole: TokenSet, generator: Generator, discriminator: Discriminator, tmp_path: Path, stop: int
) -> None:
    run = begin(generator, discriminator)
    run.step(stop)
    state = pickle.loads(pickle.dumps(run.state()))
    state.save(tmp_path / "state.safetensors")
    again = begin(generator, discriminator, state=AdaptState.load(tmp_path / "state.safetensors"))
    again.step(6)
    assert same(again.token_set(), whole)
    assert again.seconds >= run.seconds * 0.99


def test_a_state_is_a_snapshot(generator: Generator, discriminator: Discriminator) -> None:
    run = begin(generator, discriminator)
    run.step(3)
    state = run.state()
    before = {name: t.clone() for name, t in state.tensors.items()}
    run.step(3)
    assert all(torch.equal(t, before[name]) for name, t in state.tensors.items())


def test_stopping_keeps_the_best_so_far(
    generator: Generator, discriminator: Discriminator, tmp_path: Path, whole: TokenSet
) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(step: int, steps: int, metrics: Mapping[str, float]) -> bool:
        seen.append((step, steps))
        return step == 3

    path = tmp_path / "state.safetensors"
    run = begin(generator, discriminator)
    assert not run.run(on_step, path)
    assert seen == [(1, 6), (2, 6), (3, 6)]
    domain = run.token_set()
    assert 2 <= domain.metadata["steps"] <= 3
    again = begin(generator, discriminator, state=AdaptState.load(path))
    assert again.done == 3
    assert same(again.token_set(), domain)
    assert again.run(None, path)
    assert same(again.token_set(), whole)
    assert AdaptState.load(path).numbers["step"] == 6
    assert begin(generator, discriminator, steps=2).run(lambda step, steps, _: step == steps)


def test_the_last_average_about_as_near_as_any_is_the_result(
    generator: Generator, discriminator: Discriminator
) -> None:
    run = begin(generator, discriminator)
    found = {}
    while not run.finished:
        metrics = run.step()
        if "distance" in metrics:
            found[run.done] = (metrics["distance"], run.best.now.token_set().detach())
    distances = [found[at][0] for at in found]
    step = max(at for n, at in enumerate(found) if found[at][0] <= 1.2 * min(distances[: n + 1]))
    domain = run.token_set()
    assert domain.metadata["steps"] == step
    assert all(torch.equal(t, domain.state_dict()[name]) for name, t in found[step][1].state_dict().items())


@pytest.mark.parametrize(("slack", "kept"), [(1.0, 1), (1.2, 2), (2.0, 4)])
def test_how_far_from_the_nearest_a_result_may_be(
    generator: Generator, discriminator: Discriminator, slack: float, kept: int
) -> None:
    best = begin(generator, discriminator, settings=replace(QUICK, slack=slack)).best
    for step, distance in enumerate((0.1, 0.12, 0.21, 0.2), 1):
        best.add(step, distance)
    assert best.step == kept


def test_the_seed_decides(generator: Generator, discriminator: Discriminator, whole: TokenSet) -> None:
    other = begin(generator, discriminator, seed=1)
    other.step(6)
    assert not same(other.token_set(), whole)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"steps": 7}, "steps"),
        ({"seed": 2}, "seed"),
        ({"settings": replace(QUICK, tokens=3)}, r"settings \(tokens\)\."),
    ],
)
def test_a_state_of_another_run(
    generator: Generator, discriminator: Discriminator, how: dict[str, Any], what: str
) -> None:
    state = begin(generator, discriminator).state()
    with pytest.raises(ConfigError, match=f"another run: not the same {what}") as told:
        begin(generator, discriminator, state=state, **how)
    run = state.numbers["run"]
    assert f"asked then (steps {run['steps']}, tokens {QUICK.tokens}, seed {run['seed']})" in str(told.value)
    with pytest.raises(ConfigError, match="base"):
        begin(tiny_generator(5), discriminator, state=state)
    weighted = begin(generator, discriminator, terms=[Norm(0.5, "mine")]).state()
    with pytest.raises(ConfigError, match="another run: not the same terms"):
        begin(generator, discriminator, terms=[Norm(0.6, "mine")], state=weighted)


def test_damaged_states(generator: Generator, discriminator: Discriminator, tmp_path: Path, whole: TokenSet) -> None:
    run = begin(generator, discriminator)
    run.step()
    state = run.state()
    short = AdaptState({k: t for k, t in state.tensors.items() if k != "average.layers.0.p"}, state.numbers)
    with pytest.raises(ModelFileError, match=r"average\.layers\.0\.p"):
        begin(generator, discriminator, state=short)
    for numbers in ({"run": None}, {"step": "first"}, {"best": 3}, {"best": []}):
        with pytest.raises(ModelFileError, match="saved state"):
            begin(generator, discriminator, state=changed(state, **numbers))
    path = tmp_path / "state.safetensors"
    state.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match="damaged"):
        AdaptState.load(path)
    whole.save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="not the state of an adaptation"):
        AdaptState.load(tmp_path / "tokens.safetensors")
