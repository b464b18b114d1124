"""Few pictures -> a domain: one token set for all samples, optimised for a frozen generator.

RefineStyle (arXiv 2410.06104): tokens enter before the modulation, in all 3x3 convolutions and toRGB layers, with
offsets to the biases. First the distributions of patches and features are matched, which is quick and coarse. Then the
generator's discriminator learns the style alongside, and tells the samples from it. Where there is none, the pictures
are redrawn from their inversions instead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..boundary.fields import text
from ..boundary.numbers import check_seed, whole
from ..boundary.paths import AnyPath
from ..config import Fingerprint
from ..errors import DivergedError, ModelFileError, ShapeError
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..inversion.optimise import OnStep, invert
from ..losses.perceptual import Perceptual
from ..runtime.defaults import standard_defaults
from ..runtime.optim import adam_state, load_adam_state, set_learning_rate, warmup_cooldown
from ..runtime.precision import plain
from ..storage.tensors import under
from ..tokens.parameters import TokenParameters
from ..tokens.token_set import TokenSet
from .best import Best
from .context import Context, Term
from .objective import Objective
from .palette import begin_with_palette
from .references import WHOLE_SIDE, References
from .sampler import PARAMETERS, Sampler, check_sizes, feature_extractor, random_source
from .settings import AdaptSettings, preset
from .state import AdaptState


__all__ = ["PREVIEWS", "STEPS", "STEPS_WITHOUT_DISCRIMINATOR", "Adaptation", "Preview"]

N = TypeVar("N", Generator, Discriminator)
Preview: TypeAlias = Literal["now", "best", "plain"]
STEPS, STEPS_WITHOUT_DISCRIMINATOR = 500, 60
PREVIEWS = 8  # fixed samples, to measure the distance by and to show
PREVIEW_TRUNCATION = 0.7
WARMUP = 0.05  # share of the run in which the rates rise


class Adaptation:
    """A run of optimisation steps whose randomness follows from the seed and the step.

    A run that was continued from its ``state`` gives the same result, on the same kind of machine with the same number
    of threads. The networks that are passed in stay as they are.
    """

    @standard_defaults()
    @torch.enable_grad()
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
        base: Fingerprint | None = None,
    ) -> None:
        """Begin a run, or continue one.

        Args:
            generator: The generator to adapt.
            references: Pictures of the style, of the generator's size.
            steps: Length of the whole run.
            settings: Weights and rates; None takes the ``preset`` for this number of pictures.
            seed: The same seed gives the same run.
            discriminator: The generator's discriminator. Without it there is no adversarial term, and ``perceptual``
                gives the features.
            perceptual: Needed for inversions, and for features where there is no discriminator.
            inversions: w+ [M, L, D] of the references, such as an encoder's; None optimises them where needed.
            terms: Further terms, such as a direction in CLIP's space.
            state: State of the run to continue; the other arguments must be as they were.
            base: The generator's fingerprint. None takes it, of its weights as they are.

        Raises:
            ShapeError: Pictures, inversions or the discriminator have another size than the generator.
            ConfigError: There are no steps, two terms have one name, or ``state`` belongs to another run.
            ModelFileError: ``state`` is incomplete.
        """
        steps, seed = whole(steps, "steps", 1), check_seed(seed)
        generator, discriminator = plain(generator), discriminator and plain(discriminator)
        self.settings = s = settings or preset(len(references), with_discriminator=discriminator is not None)
        self.steps, self.seed, self.done = steps, seed, 0
        self.base = base or generator.fingerprint()
        self.generator = _frozen(generator)
        device = self.generator.device
        self.references = replace(references, pictures=references.pictures.to(device))
        self.discriminator = None if discriminator is None else _frozen(discriminator)
        self.perceptual, self.inversions = perceptual, None if inversions is None else inversions.to(device)
        check_sizes(self.generator.config, self.references, self.discriminator, self.inversions)
        features = feature_extractor(self.discriminator, perceptual)
        self.sampler = Sampler(self.generator, self.references, features, s, seed)
        self.objective = Objective(s, steps, seed, discriminator, features is not None, terms)
        self.parameters = TokenParameters(
            self.generator.kernel_stats(), s.tokens, s.layers, "pre", bias=s.bias, rng=random_source(seed, PARAMETERS)
        ).to(device)
        if s.palette and state is None:
            begin_with_palette(self.parameters, self.generator, self.sampler.palette_samples(), self.references.pixels)
        self.leaves: Mapping[str, Tensor] = dict(self.parameters.named_parameters())
        self.adam = torch.optim.Adam(self._parameter_groups(), betas=(0.8, 0.99))
        self.best = Best(self.parameters, s.slack)
        self.seconds = 0.0
        if state is not None:
            self._restore(state)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Group the leaves by rate."""
        groups: dict[float, list[Tensor]] = {}
        for spec, layer in zip(self.parameters.specs, self.parameters.layers, strict=True):
            for tensor, leaf in layer.named_parameters():
                groups.setdefault(self.settings.rate_of(spec, tensor), []).append(leaf)
        return [{"params": leaves, "lr": rate} for rate, leaves in groups.items()]

    # --- The loop ---------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.steps

    def run(self, on_step: OnStep | None = None, state: AnyPath | None = None) -> bool:
        """Do the steps that are left, and return False when ``on_step`` stopped them early; what is done is kept.

        Args:
            on_step: Called with (step, steps, metrics) after each step; True stops.
            state: File that ``self.state()`` is saved to after each measurement of the distance, and at the end.
        """
        going = True
        while going and not self.finished:
            metrics = self.step()
            going = on_step is None or not on_step(self.done, self.steps, metrics)
            if state is not None and ("distance" in metrics or not going):
                self.state().save(state)
        return self.finished

    def make(
        self,
        metadata: Mapping[str, str] | None = None,
        on_step: OnStep | None = None,
        state: AnyPath | None = None,
    ) -> TokenSet:
        """Do ``run``, then ``token_set``; a blank text of the ``metadata`` is none.

        If the run diverges, the error has the domain so far as ``kept``.
        """
        metadata = {name: said for name, value in (metadata or {}).items() if (said := text(value, name).strip())}
        try:
            self.run(on_step, state)
        except DivergedError as error:
            error.kept = self.token_set(metadata)
            raise
        return self.token_set(metadata)

    @standard_defaults()
    @torch.enable_grad()
    def step(self, count: int = 1) -> dict[str, float]:
        """Do ``count`` steps, or the steps that are left if these are fewer.

        Returns:
            The metrics of the last step: each term, unweighted, and "distance" where it was measured.

        Raises:
            DivergedError: A term is no longer finite; the tokens stay as they were.
        """
        began = time.monotonic()
        metrics: dict[str, float] = {}
        self._invert_references()
        for _ in range(min(count, self.steps - self.done)):
            metrics = self._step()
        self.seconds += time.monotonic() - began
        return metrics

    def _invert_references(self) -> None:
        """Find w+ of the references where a term needs them. It is part of the first step."""
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

    @standard_defaults()
    @torch.enable_grad()
    def seconds_left(self) -> float:
        """About how long the steps that are left will take here: from those done, or else from a trial.

        Those done count if all kinds and a measurement are among them. The trial is of a step of each kind and a
        measurement; a discriminator that comes later is not in it.
        """
        left, checks = self.steps - self.done, -(-self.steps // self.settings.check_every)
        if self.finished or self.done >= max(self.settings.check_every, self.settings.round_steps):
            return self.seconds / self.done * left
        self._invert_references()
        self._gradients(0)  # the first of all takes longer
        began = time.monotonic()
        for step in range(self.settings.round_steps):
            self._gradients(step)
        between = time.monotonic()
        self._distance(self.best.now)
        checks -= self.done // self.settings.check_every
        return (between - began) / self.settings.round_steps * left + (time.monotonic() - between) * checks

    def _gradients(self, step: int) -> tuple[Context, dict[str, float], Sequence[Tensor | None]]:
        """Context, terms and gradients of a step; by the tokens alone, since terms have networks of their own."""
        context = self.sampler.context(step, self.steps, self.parameters, self.inversions)
        total, metrics = self.objective(context)
        return context, metrics, torch.autograd.grad(total, list(self.leaves.values()), allow_unused=True)

    def _step(self) -> dict[str, float]:
        # a step of the tokens
        context, metrics, gradients = self._gradients(self.done)
        for leaf, gradient in zip(self.leaves.values(), gradients, strict=True):
            leaf.grad = gradient
        set_learning_rate(self.adam, warmup_cooldown(self.done / self.steps, WARMUP))
        self.adam.step()
        # a step of the terms that learn, such as the discriminator
        metrics |= self.objective.learn(context)
        # the average, and at intervals its distance from the references
        self.done += 1
        self.best.update(self.parameters, self.done, self.settings.average)
        if self._is_measured():
            metrics["distance"] = self._distance(self.best.now)
            self.best.add(self.done, metrics["distance"])
        return metrics

    def _is_measured(self) -> bool:
        """Whether the distance is measured after this step."""
        return self.done % self.settings.check_every == 0 or self.finished

    def _distance(self, tokens: TokenParameters) -> float:
        """Distance from the references to fixed samples that are drawn with ``tokens``."""
        return self.sampler.distance(self.sampler.fixed_samples(self._result(tokens), PREVIEWS, 1.0))

    # --- The result -------------------------------------------------------------------------------------------------

    def _result(self, tokens: TokenParameters) -> TokenSet:
        """The domain that tokens make. Those of convolutions go on as they went, by the factor ``reach``."""
        return tokens.token_set(self.base).scale(self.settings.reached(tokens.specs))

    @standard_defaults()
    def preview(self, count: int = PREVIEWS, which: Preview = "now") -> Tensor:
        """Fixed samples [count, 3, R, R] in [-1, 1], R being at most ``references.WHOLE_SIDE``.

        Args:
            count: Number of samples.
            which: With the tokens of the moment ("now"), with those that are kept ("best"), or without ("plain").
        """
        kept = self.sampler.finished(self._result(self._kept()[0])) if which == "best" else None
        tokens = self._result(self.best.now) if which == "now" else kept
        side = min(WHOLE_SIDE, self.generator.config.resolution)
        return self.sampler.fixed_samples(tokens, count, PREVIEW_TRUNCATION, side)

    def _kept(self) -> tuple[TokenParameters, int]:
        """The best average so far and its step; between two measurements it may be the present one."""
        if not self._is_measured() and self.best.is_near(self._distance(self.best.now)):
            return self.best.now, self.done
        return self.best.tokens, self.best.step

    @standard_defaults()
    def token_set(self, metadata: Mapping[str, Any] | None = None) -> TokenSet:
        """The best so far as a domain. ``metadata`` is added to the facts about how it was made."""
        kept, step = self._kept()
        made = {
            "method": "few-shot adaptation",
            "pictures": len(self.references),
            "aligned_pictures": sum(self.references.aligned),
            "seed": self.seed,
            "steps": step,
            "planned_steps": self.steps,
            "objectives": self.objective.weights,
            "left_out": self.objective.left_out,
            "settings": self.settings.to_json(),
        }
        return replace(self.sampler.finished(self._result(kept)), metadata={**made, **(metadata or {})}).detach()

    @standard_defaults()
    def state(self) -> AdaptState:
        """All that the run needs to continue later or elsewhere: plain tensors and numbers."""
        tensors = {**self.best.tensors(), **{f"fixed.{name}": t for name, t in self.parameters.fixed().items()}}
        tensors |= {f"tokens.{name}": t for name, t in {**self.leaves, **adam_state(self.adam, self.leaves)}.items()}
        if self.inversions is not None:
            tensors["inversions"] = self.inversions
        tensors |= self.objective.state()
        numbers = {
            "run": self._run(),
            "step": self.done,
            "best": self.best.numbers(),
            "seconds": round(self.seconds, 3),
        }
        return AdaptState({name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}, numbers)

    def _run(self) -> dict[str, Any]:
        """What must be the same for a run to continue."""
        return {
            "base": self.base.digest,
            "pictures": self.references.digest,
            "settings": self.settings.to_json(),
            "steps": self.steps,
            "seed": self.seed,
            "terms": self.objective.weights,
        }

    def _restore(self, state: AdaptState) -> None:
        state.check_run(self._run())
        tensors, numbers = state.tensors, state.numbers
        try:
            with torch.no_grad():
                for name, leaf in self.leaves.items():
                    leaf.copy_(tensors[f"tokens.{name}"])
            for own in (self.parameters, self.best.now, self.best.tokens):
                own.fix(under(tensors, "fixed."))
            self.best.restore(tensors, numbers["best"])
            load_adam_state(self.adam, self.leaves, under(tensors, "tokens."))
            self.objective.restore(tensors)
            self.done, self.seconds = int(numbers["step"]), float(numbers["seconds"])
            if "inversions" in tensors:
                self.inversions = tensors["inversions"].to(self.references.pictures.device)
                check_sizes(self.generator.config, self.references, self.discriminator, self.inversions)
        except (KeyError, IndexError, RuntimeError, ShapeError, TypeError, ValueError) as error:
            raise ModelFileError(f"The saved state is damaged: {error!r}. Remove it to begin again.") from error


def _frozen(network: N) -> N:
    """A copy in float32 without gradients. The caller's network keeps its flags."""
    config = network.config.full_precision()
    return type(network).from_state(config, network.state_dict()).float().requires_grad_(False)
