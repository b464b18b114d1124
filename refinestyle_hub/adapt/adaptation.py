"""Few pictures -> a domain: one token set for all samples, optimised against a frozen generator.

RefineStyle (arXiv 2410.06104): tokens enter before the modulation, in all 3x3 convolutions and toRGB layers, with
offsets to the biases. First the distributions of patches and features are matched, which is quick and coarse; then the
shipped discriminator learns the style alongside and says what is still wrong.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DivergedError, ModelFileError, ShapeError
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..inversion.optimise import OnStep, invert
from ..losses.perceptual import Perceptual
from ..losses.pixel import shrink
from ..losses.sliced import sliced_features, sliced_pictures
from ..runtime.optim import adam_state, load_adam_state
from ..tokens.parameters import TokenParameters
from ..tokens.token_set import TokenSet
from .context import Context, Features, Learner, Term
from .discriminator_term import Adversarial
from .objectives import Between, Layout, Norm, Reconstruction, SlicedFeatures, SlicedPictures, Within
from .references import References
from .settings import FEATURE_TERMS, AdaptSettings, preset
from .state import AdaptState


__all__ = ["STEPS", "Adaptation", "Preview"]

Preview: TypeAlias = Literal["now", "best", "plain"]
STEPS = 500
PREVIEWS = 8  # fixed samples, for previews and to see how near they are
PREVIEW_TRUNCATION = 0.7
TYPICAL = 64  # samples that say where the generator is before
SLACK = 1.2  # the distance does not see all that the critic improves: so much more of it is no step back


class Adaptation:
    """A run of small steps. Everything it draws by chance follows from the seed and the step.

    So the result does not depend on how the steps are called, nor on whether the run was stopped and gone on with from
    its ``state``, on the same kind of machine with the same number of threads. Nothing is written into the networks.
    """

    def __init__(
        self,
        generator: Generator,
        references: References,
        *,
        steps: int = STEPS,
        settings: AdaptSettings | None = None,
        seed: int = 0,
        discriminator: Discriminator | None = None,
        perceptual: Perceptual | None = None,
        inversions: Tensor | None = None,
        terms: Sequence[Term] = (),
        state: AdaptState | None = None,
    ) -> None:
        """Begin a run, or go on with one.

        Args:
            references: pictures of the style, of the generator's size.
            steps: of the whole run.
            settings: None: the ``preset`` for this number of pictures.
            discriminator: the generator's. Without it there is no adversarial term, and features are ``perceptual``'s.
            perceptual: needed for inversions, and for features where there is no discriminator.
            inversions: w+ [M, L, D] of the references, such as an encoder's answer; None: optimised where needed.
            terms: more terms, such as a direction in CLIP's space.
            state: of the run to go on with; the other arguments must be as they were.

        Raises:
            ShapeError: pictures, inversions or discriminator of another size.
            ConfigError: no steps; ``state`` belongs to another run.
            ModelFileError: ``state`` lacks something.
        """
        self.settings = settings or preset(len(references))
        self.steps, self.seed, self.done = steps, seed, 0
        self.base = generator.fingerprint()
        self.generator = _frozen(generator)
        device = self.generator.device
        self.references = replace(references, pictures=references.pictures.to(device))
        self.discriminator: Discriminator | None = None if discriminator is None else _frozen(discriminator)
        self.perceptual, self.inversions = perceptual, inversions
        self._check()
        self.features = self._features()
        self.terms = [*self._own_terms(discriminator), *terms]
        s = self.settings
        self.parameters = TokenParameters(
            self.generator.kernel_stats(), s.tokens, s.layers, "pre", bias=s.bias, rng=_source(seed, 0)
        ).to(device)
        self.average = copy.deepcopy(self.parameters).requires_grad_(False)
        self.best = copy.deepcopy(self.average)
        self.best_step, self.best_distance = 0, math.inf
        self.leaves: Mapping[str, Tensor] = dict(self.parameters.named_parameters())
        self.rates = {name: s.colour_rate if self._is_colour(name) else s.rate for name in self.leaves}
        self.adam = torch.optim.Adam([{"params": [leaf]} for leaf in self.leaves.values()], betas=(0.8, 0.99))
        self.seconds = 0.0
        if state is not None:
            self._restore(state)

    def _check(self) -> None:
        config = self.generator.config
        side, count = config.resolution, len(self.references)
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.steps}.")
        if self.seed < 0:
            raise ConfigError(f"A seed is a whole number from 0, not {self.seed}.")
        if self.references.pictures.shape[1:] != (3, side, side):
            raise ShapeError(
                f"This generator takes pictures [N, 3, {side}, {side}], not {list(self.references.pictures.shape)}."
            )
        if self.discriminator is not None and self.discriminator.config.resolution != side:
            raise ShapeError(
                f"The discriminator is for {self.discriminator.config.resolution} pixels, the generator for {side}."
            )
        codes = (count, config.num_ws, config.w_dim)
        if self.inversions is not None and self.inversions.shape != codes:
            raise ShapeError(f"inversions must be w+ {list(codes)}, not {list(self.inversions.shape)}.")

    def _features(self) -> Features | None:
        discriminator, perceptual = self.discriminator, self.perceptual
        if discriminator is not None:
            return discriminator.features
        return None if perceptual is None else lambda x: perceptual.embed(shrink(x, 128))

    def _own_terms(self, discriminator: Discriminator | None) -> list[Term]:
        s = self.settings
        chosen: list[Term] = [SlicedPictures(s.sliced_pictures)]
        if self.features is not None:
            chosen += [SlicedFeatures(s.sliced_features), Layout(s.layout), Between(s.between), Within(s.within)]
        chosen += [Reconstruction(s.reconstruction), Norm(s.norm)]
        chosen = [term for term in chosen if term.weight]
        starts = s.critic_starts(self.steps)
        if discriminator is not None and (s.adversarial or s.patches) and starts < 1:
            chosen.append(
                Adversarial(
                    discriminator,
                    s.adversarial,
                    s.patches,
                    rate=s.critic_rate,
                    starts=starts,
                    frozen_above=s.frozen_above,
                    penalty=s.penalty,
                    seed=self.seed,
                )
            )
        return chosen

    def _is_colour(self, leaf: str) -> bool:
        """Whether ``layers.<place>.<tensor>`` is part of a layer of colours or a bias: these have far to go."""
        _, place, tensor = leaf.split(".")
        return tensor == "bias" or self.parameters.roles[int(place)] == "rgb"

    @property
    def left_out(self) -> list[str]:
        """Terms that the settings ask for and this model cannot have: it lacks a discriminator."""
        s, there = self.settings, {term.name for term in self.terms}
        if self.discriminator is not None:
            there.add("adversarial")  # a run too short for it is not for want of a model
        wanted = {name: getattr(s, name) for name in FEATURE_TERMS} | {"adversarial": s.adversarial or s.patches}
        return [name for name, weight in wanted.items() if weight and name not in there]

    # --- The loop ---

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.steps

    def step(self, count: int = 1) -> dict[str, float]:
        """Do ``count`` steps, fewer where the run ends before; returns the figures of the last: each term, unweighted,
        and "distance" where fixed samples were looked at.

        Raises:
            DivergedError: a term is no longer finite; the tokens stay as they were.
        """
        began = time.monotonic()
        figures: dict[str, float] = {}
        self._invert()
        for _ in range(min(count, self.steps - self.done)):
            figures = self._step()
        self.seconds += time.monotonic() - began
        return figures

    def run(self, on_step: OnStep | None = None, state: str | os.PathLike[str] | None = None) -> bool:
        """Do the steps that are left; False when ``on_step`` stopped it. What there is then is kept.

        Args:
            on_step: called with (step, steps, figures) after each; True stops.
            state: file that ``self.state()`` is saved to whenever fixed samples were looked at, and at the end.
        """
        going = True
        while going and not self.finished:
            figures = self.step()
            going = on_step is None or not on_step(self.done, self.steps, figures)
            if state is not None and ("distance" in figures or not going):
                self.state().save(state)
        return going

    def make(
        self,
        metadata: Mapping[str, Any] | None = None,
        on_step: OnStep | None = None,
        state: str | os.PathLike[str] | None = None,
    ) -> TokenSet:
        """``run`` and ``token_set`` in one; the error of a run that diverges has the domain as ``kept``."""
        try:
            self.run(on_step, state)
        except DivergedError as error:
            error.kept = self.token_set(metadata)
            raise
        return self.token_set(metadata)

    def _invert(self) -> None:
        """w+ of the references, where a term wants them: part of the first step."""
        if self.inversions is None and self.settings.reconstruction and not self.finished:
            found = invert(
                self.generator,
                self.references.pictures,
                w_steps=self.settings.inversion_steps,
                token_steps=0,
                seed=self.seed,
                perceptual=self.perceptual,
            )
            self.inversions = torch.stack([one.w_plus for one in found])

    def _step(self) -> dict[str, float]:
        context = self._context()
        losses = {term.name: term(context) for term in self.terms}
        total = sum((term.weight * losses[term.name] for term in self.terms), context.adapted.new_zeros([]))
        if not bool(total.isfinite()):
            wrong = ", ".join(name for name, loss in losses.items() if not bool(loss.isfinite()))
            raise DivergedError(
                f"The run diverged at step {self.done + 1} of {self.steps}: {wrong} is not finite.\n"
                "Lower the rates of the settings. What was reached before is kept."
            )
        gradients = torch.autograd.grad(total, list(self.leaves.values()), allow_unused=True)
        for leaf, gradient in zip(self.leaves.values(), gradients, strict=True):
            leaf.grad = gradient
        share = _rate(self.done / self.steps)
        for group, rate in zip(self.adam.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate * share
        self.adam.step()
        figures = {name: float(loss.detach()) for name, loss in losses.items()}
        for term in self.terms:
            if isinstance(term, Learner):
                figures |= term.learn(context)
        self.done += 1
        self._blend()
        if self.done % self.settings.check_every == 0 or self.finished:
            figures["distance"] = self._look()
        return figures

    def _context(self) -> Context:
        s, config = self.settings, self.generator.config
        rng = _source(self.seed, 1, self.done)
        device = self.generator.device
        with torch.no_grad():
            w_plus = self.generator.map(torch.randn(s.batch, config.z_dim, generator=rng).to(device), s.truncation)
        order = torch.randperm(len(self.references), generator=rng).repeat(s.batch)[: s.batch]
        tokens = self.parameters.token_set()
        return Context(
            step=self.done,
            progress=self.done / self.steps,
            w_plus=w_plus,
            adapted=self.generator(w_plus, tokens),
            references=self.references,
            chosen=self.references.pictures[order.to(device)],
            reference_features=self._reference_features,
            typical_features=self._typical_features if self.settings.layout else (),
            inversions=self.inversions,
            parameters=self.parameters,
            rng=rng,
            draw=lambda w: self.generator(w, tokens),
            plain=self.generator,
            features=self.features,
        )

    @cached_property
    def _reference_features(self) -> Sequence[Tensor]:
        """They never change."""
        with torch.no_grad():
            return () if self.features is None else self.features(self.references.pictures)

    @cached_property
    def _typical_features(self) -> Sequence[Tensor]:
        """What the samples of the generator have before it is adapted: maps [TYPICAL, C, h, w]."""
        if self.features is None:
            return ()
        z = torch.randn(TYPICAL, self.generator.config.z_dim, generator=_source(self.seed, 4))
        with torch.no_grad():
            w = self.generator.map(z.to(self.generator.mean_latent), self.settings.truncation)
            parts = [self.features(self.generator(some)) for some in w.split(self.settings.batch)]
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]

    @torch.no_grad()
    def _blend(self) -> None:
        """The running average, over fewer steps at first."""
        decay = min(self.settings.average, self.done / (self.done + 10))
        for name, mean in self.average.named_parameters():
            mean.lerp_(self.leaves[name].detach(), 1 - decay)

    def _look(self) -> float:
        """How near fixed samples are with the average; the last that was about the nearest is the result."""
        distance = self._distance()
        self.best_distance = min(self.best_distance, distance)
        if self._is_good(distance):
            self.best_step = self.done
            self.best.load_state_dict(self.average.state_dict())
        return distance

    def _is_good(self, distance: float) -> bool:
        return distance <= SLACK * self.best_distance

    @torch.no_grad()
    def _distance(self) -> float:
        drawn, rng = self._samples(1.0, self.average), _source(self.seed, 3)
        if self.features is None:
            return float(sliced_pictures(drawn, self.references.pictures, rng))
        return float(sliced_features(self.features(drawn), self._reference_features, rng))

    # --- What comes of it ---

    @torch.no_grad()
    def preview(self, count: int = PREVIEWS, which: Preview = "now") -> Tensor:
        """Fixed samples [count, 3, R, R] in [-1, 1]: with the tokens as they stand "now", with the "best", that are
        kept, or "plain", without.
        """
        tokens = None if which == "plain" else self._kept()[0] if which == "best" else self.average
        return self._samples(PREVIEW_TRUNCATION, tokens, count)

    def _samples(self, truncation: float, tokens: TokenParameters | None, count: int = PREVIEWS) -> Tensor:
        config = self.generator.config
        z = torch.randn(count, config.z_dim, generator=_source(self.seed, 2)).to(self.generator.mean_latent)
        adapted = None if tokens is None else tokens.token_set()
        drawn: Tensor = self.generator(self.generator.map(z, truncation), adapted)
        return drawn.clamp(-1, 1)

    def _kept(self) -> tuple[TokenParameters, int]:
        """The best so far and its step: where it is time for a look, the average may be it."""
        looked = self.done % self.settings.check_every == 0 or self.finished
        if not looked and self._is_good(self._distance()):
            return self.average, self.done
        return self.best, self.best_step

    def token_set(self, metadata: Mapping[str, Any] | None = None) -> TokenSet:
        """The best so far, as a domain; ``metadata`` is added to what says how it was made."""
        best, step = self._kept()
        made = {
            "method": "few-shot adaptation",
            "pictures": len(self.references),
            "aligned_pictures": sum(self.references.aligned),
            "seed": self.seed,
            "steps": step,
            "planned_steps": self.steps,
            "objectives": {term.name: term.weight for term in self.terms},
            "left_out": self.left_out,
            "settings": _plain(asdict(self.settings)),
        }
        return best.token_set(self.base, {**made, **(metadata or {})}).detach()

    def state(self) -> AdaptState:
        """All it takes to go on later, elsewhere: plain tensors and numbers."""
        tensors: dict[str, Tensor] = {f"average.{name}": t for name, t in self.average.named_parameters()}
        tensors |= {f"best.{name}": t for name, t in self.best.named_parameters()}
        tensors |= {f"tokens.{name}": t for name, t in {**self.leaves, **adam_state(self.adam, self.leaves)}.items()}
        if self.inversions is not None:
            tensors["inversions"] = self.inversions
        for term in self.terms:
            if isinstance(term, Learner):
                tensors |= {f"term.{term.name}.{name}": t for name, t in term.state().items()}
        numbers = {
            "run": self._run(),
            "step": self.done,
            "best": None if math.isinf(self.best_distance) else [self.best_step, self.best_distance],
            "seconds": round(self.seconds, 3),
        }
        return AdaptState({name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}, numbers)

    def _run(self) -> dict[str, Any]:
        """What must be the same to go on."""
        return {
            "base": self.base.digest,
            "pictures": self.references.digest,
            "settings": _plain(asdict(self.settings)),
            "steps": self.steps,
            "seed": self.seed,
            "terms": {term.name: term.weight for term in self.terms},
        }

    def _restore(self, state: AdaptState) -> None:
        mine, other = self._run(), state.numbers.get("run")
        if not isinstance(other, Mapping):
            raise ModelFileError("The saved state does not say of which run it is. Remove it to begin anew.")
        if different := [key for key in mine if mine[key] != other.get(key)]:
            raise ConfigError(
                f"The saved state is of another run: its {' and '.join(different)} differ.\n"
                "Ask for what was asked then, or remove the state (or name another folder) to begin anew."
            )
        tensors = state.tensors
        try:
            for part, module in (("average", self.average), ("best", self.best), ("tokens", self.parameters)):
                with torch.no_grad():
                    for name, leaf in module.named_parameters():
                        leaf.copy_(tensors[f"{part}.{name}"])
            load_adam_state(self.adam, self.leaves, _under(tensors, "tokens."))
            for term in self.terms:
                if isinstance(term, Learner):
                    term.restore(_under(tensors, f"term.{term.name}."))
            numbers = state.numbers
            self.done, self.seconds = int(numbers["step"]), float(numbers["seconds"])
            if numbers["best"] is not None:
                self.best_step, self.best_distance = int(numbers["best"][0]), float(numbers["best"][1])
            if "inversions" in tensors:
                self.inversions = tensors["inversions"].to(self.references.pictures.device)
                self._check()
        except (KeyError, IndexError, RuntimeError, ShapeError, TypeError, ValueError) as error:
            raise ModelFileError(f"The saved state is damaged: {error!r}. Remove it to begin anew.") from error


def _frozen(network: Any) -> Any:
    """The same numbers without gradients, in float32 throughout; the caller's network keeps its flags."""
    config = network.config.full_precision()
    return type(network).from_state(config, network.state_dict()).float().requires_grad_(False)


def _source(*path: int) -> torch.Generator:
    """A source of chance for a place in the run."""
    (number,) = np.random.SeedSequence(path).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(number) >> 1)


def _rate(progress: float) -> float:
    """Share of the peak rate: up over the first twentieth, down by a cosine over the last third."""
    return min(1.0, progress / 0.05 + 0.1) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, 3 * (1 - progress))))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON reads it back: lists, not tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
