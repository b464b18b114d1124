"""What the steps of an adaptation minimise: the terms that its settings ask for, and their weighted sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ..errors import ConfigError, DivergedError, printable
from ..generators.discriminator import Discriminator
from ..losses.correspondence import between_samples, within_samples
from ..storage.tensors import under
from .context import Context, Learner, Term
from .discriminator_term import Adversarial
from .domain_terms import Correspondence, Lattice, Layout, Norm, Reconstruction, SlicedFeatures, SlicedPictures
from .settings import FEATURE_TERMS, AdaptSettings


__all__ = ["Objective"]


class Objective:
    """The terms of a run, and their sum at a step.

    terms: Those that the settings give a weight, as far as the model has what they need, and those of the caller.
    left_out: Names of those that the settings ask for, and that need a discriminator which the model lacks.
    """

    def __init__(
        self,
        settings: AdaptSettings,
        steps: int,
        seed: int,
        discriminator: Discriminator | None,
        with_features: bool,
        terms: Sequence[Term] = (),
    ) -> None:
        """Gather the terms.

        Args:
            settings: The weights and rates.
            steps: Length of the run.
            seed: The seed of the discriminator's new head.
            discriminator: It is copied. Without it there is no adversarial term.
            with_features: Whether there is a network for the terms that compare features.
            terms: More terms, of the caller's own.

        Raises:
            ConfigError: Two terms have one name, or one is no term.
        """
        if not isinstance(terms, Iterable):
            raise ConfigError(f"terms must be a list of terms, not {printable(repr(terms))}.")
        self.settings, self.steps = settings, steps
        self.terms = [*_domain_terms(settings, steps, seed, discriminator, with_features), *terms]
        for term in self.terms:
            if not (callable(term) and hasattr(term, "name") and hasattr(term, "weight")):
                raise ConfigError(f"A term has a name, a weight and a call, which {printable(repr(term))} lacks.")
        names = [term.name for term in self.terms]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"Two terms are called {twice[0]!r}. Give yours another name.")
        self.left_out = _left_out(settings, names, discriminator)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term by its name."""
        return {term.name: term.weight for term in self.terms}

    def at(self, step: int) -> list[Term]:
        """The terms of a step: all, or reconstruction and the others by turns. The norm always counts."""
        if not self.settings.alternate:
            return self.terms
        redrawn = step % 2 == 0
        return [term for term in self.terms if term.name == "norm" or (term.name == "reconstruction") == redrawn]

    def __call__(self, context: Context) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the terms of a step, a scalar, and each of them without its weight.

        Raises:
            DivergedError: A term is not finite.
        """
        terms = self.at(context.step)
        losses = [term(context) for term in terms]
        weighted = (term.weight * loss for term, loss in zip(terms, losses, strict=True))
        total = sum(weighted, context.w_plus.new_zeros([]))
        if not bool(total.isfinite()):
            wrong = [term.name for term, loss in zip(terms, losses, strict=True) if not bool(loss.isfinite())]
            raise DivergedError(
                f"The run diverged at step {context.step + 1} of {self.steps}: {', '.join(wrong)} is not finite.\n"
                "Lower the rates of the settings. What was reached before is kept."
            )
        return total, {term.name: float(loss.detach()) for term, loss in zip(terms, losses, strict=True)}

    # --- Terms that learn as well, such as the discriminator's ---

    def learn(self, context: Context) -> dict[str, float]:
        """Let them make a step of their own after that of the tokens, and return their metrics."""
        return {name: value for term in self._learners().values() for name, value in term.learn(context).items()}

    def state(self) -> dict[str, Tensor]:
        """What they have learnt, as tensors by name."""
        return {
            f"term.{name}.{key}": tensor
            for name, term in self._learners().items()
            for key, tensor in term.state().items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from ``state()``, beside which ``tensors`` may hold others."""
        for name, term in self._learners().items():
            term.restore(under(tensors, f"term.{name}."))

    def _learners(self) -> dict[str, Learner]:
        return {term.name: term for term in self.terms if isinstance(term, Learner)}


def _domain_terms(
    s: AdaptSettings, steps: int, seed: int, discriminator: Discriminator | None, with_features: bool
) -> list[Term]:
    terms: list[Term] = [SlicedPictures(s.sliced_pictures), Lattice(s.lattice)]
    if with_features:
        terms += [SlicedFeatures(s.sliced_features), Layout(s.layout)]
        terms += [Correspondence(s.between, "between", between_samples)]
        terms += [Correspondence(s.within, "within", within_samples)]
    terms += [Reconstruction(s.reconstruction, s.mixing), Norm(s.norm)]
    terms = [term for term in terms if term.weight]
    start = s.adversarial_start(steps)
    if discriminator is not None and (s.adversarial or s.patches) and start < 1:
        terms.append(Adversarial(discriminator, s, start, seed))
    return terms


def _left_out(settings: AdaptSettings, there: Sequence[str], discriminator: Discriminator | None) -> list[str]:
    wanted = {name: getattr(settings, name) for name in FEATURE_TERMS}
    if discriminator is None:  # with one, the adversarial term is missing only because the run is too short
        wanted["adversarial"] = settings.adversarial or settings.patches
    return [name for name, weight in wanted.items() if weight and name not in there]
