"""Which generator a token set, an encoder or a direction was made for.

The digest covers what the picture of a code depends on: the weights in float16, so that the full and the
half-precision file of one model agree, without the constant noise and the mean latent, which may be replaced at will.
Token sets belong to these weights. Codes, directions and encoders of w+ belong to a latent space, which the mapping
network makes: generators that share one share them. Its mean does not count, since it is only an estimate. One mapping
network reaches us in files of several formats, whose numbers differ by rounding. So a latent space is told not by a
digest but by projections of the network's tensors, which are compared with a tolerance.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..config import Fingerprint, GeneratorConfig
from ..errors import BaseMismatchError


__all__ = [
    "check_base",
    "check_latent_space",
    "digest",
    "fingerprint",
    "is_related",
    "share_codes",
    "youngest",
]

NOT_WEIGHTS = ("noise_const", "w_avg")
UNIT, DIGITS = 1000, 4  # of a projection, whose deviation is 1: counted in thousandths, in hexadecimal digits
TOLERANCE = 10  # thousandths: rounding to float16 moves a projection by less than 1, another network by some 1000


def fingerprint(config: GeneratorConfig, tensors: Mapping[str, Tensor]) -> Fingerprint:
    """The fingerprint of a generator, from its config and its tensors by name."""
    mapping = {name: tensor for name, tensor in tensors.items() if name.startswith("mapping.")}
    return Fingerprint(config.architecture, digest(tensors), tuple(config.parents), latent_space(mapping))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits that the weights of a network decide, given as its ``state_dict()``."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if name.rpartition(".")[2] in NOT_WEIGHTS:
            continue
        values = tensor.detach().to("cpu", torch.float16).contiguous()
        found.update(f"{name}{list(values.shape)}".encode())
        found.update(values.numpy().astype("<f2", copy=False).tobytes())
    return found.hexdigest()[:32]


def latent_space(mapping: Mapping[str, Tensor]) -> str:
    """Four hexadecimal digits for each tensor of a mapping network: its projection, relative to its norm, on a fixed
    sequence of numbers."""
    words = []
    for name, tensor in sorted(mapping.items()):
        if name.rpartition(".")[2] in NOT_WEIGHTS:
            continue
        # Half precision rounds as the smaller file does; what it cannot hold becomes its largest number, not infinity.
        values = tensor.detach().to("cpu", torch.float16).nan_to_num().double().flatten()
        sequence = math.sqrt(2) * torch.cos(torch.arange(len(values), dtype=torch.float64).square())
        projection = float(values @ sequence / values.norm().clamp_min(1e-12))
        level = min(max(round(UNIT * projection) + 16**DIGITS // 2, 0), 16**DIGITS - 1)
        words.append(f"{level:0{DIGITS}x}")
    return "".join(words)


def _same_space(a: str, b: str) -> bool:
    if not a or len(a) != len(b):
        return False
    levels = [[int(text[i : i + DIGITS], 16) for i in range(0, len(text), DIGITS)] for text in (a, b)]
    return all(abs(x - y) <= TOLERANCE for x, y in zip(*levels, strict=True))


def is_related(base: Fingerprint, generator: Fingerprint) -> bool:
    """Whether two generators are the same, or parent and descendant of each other."""
    same = base.digest == generator.digest or base.digest in generator.parents or generator.digest in base.parents
    return same and base.architecture == generator.architecture


def share_codes(base: Fingerprint, generator: Fingerprint) -> bool:
    """Whether two unrelated generators have one mapping network, so that a code means the same to both."""
    return _same_space(base.latent_space, generator.latent_space) and not is_related(base, generator)


def youngest(bases: Iterable[Fingerprint | None]) -> Fingerprint | None:
    """The last of generators that were fine-tuned one from the other: what was made for any of them applies to it.

    ``None``, an unknown one, agrees with all; None if there is no other.

    Raises:
        BaseMismatchError: None of them descends from all the others.
    """
    known = list(dict.fromkeys(base for base in bases if base is not None))
    for candidate in known:
        ancestors = (candidate.digest, *candidate.parents)
        if all(b.architecture == candidate.architecture and b.digest in ancestors for b in known):
            return candidate
    if known:
        raise BaseMismatchError(
            f"Token sets of different generators do not mix: {', '.join(sorted(map(str, known)))}."
        )
    return None


def check_base(
    base: Fingerprint, generator: Fingerprint, *, what: str = "The token set", allow_base_mismatch: bool = False
) -> None:
    """Check that something made for ``base`` may be used with ``generator``.

    The same weights pass. Parent and descendant of each other pass with a warning: results will differ somewhat.

    Args:
        what: The name of the thing in messages.
        allow_base_mismatch: Whether other weights are accepted; another architecture never fits.

    Raises:
        BaseMismatchError: The architecture differs, or the weights are unrelated.
    """
    if base.architecture != generator.architecture:
        raise BaseMismatchError(
            f"{what} was made for a generator of another architecture and cannot be used with this one.\n"
            f"made for: {base}\nthis one: {generator}"
        )
    if base.digest == generator.digest or allow_base_mismatch:
        return
    if is_related(base, generator):
        warnings.warn(
            f"{what} was made for {base}, a relative of this generator ({generator}) by fine-tuning; "
            "results may differ from those on its own base.",
            stacklevel=2,
        )
        return
    raise BaseMismatchError(
        f"{what} was made for other weights ({base}) than this generator has ({generator}).\n"
        "Load the generator it names, or pass allow_base_mismatch=True to use it here all the same."
    )


def check_latent_space(
    base: Fingerprint, generator: Fingerprint, *, what: str, allow_base_mismatch: bool = False
) -> bool:
    """Check that codes, or what moves or finds them, made for ``base`` may be used with ``generator``.

    Returns whether the two share nothing but the latent space.

    What ``check_base`` lets pass does. So do, with a warning, other weights and even another architecture behind the
    same mapping network.

    Raises:
        BaseMismatchError: Another latent space.
    """
    if share_codes(base, generator):
        warnings.warn(
            f"{what} was made for {base}, which has the same mapping network as this generator ({generator}): codes "
            "mean the same to both, but pictures differ.",
            stacklevel=2,
        )
        return True
    check_base(base, generator, what=what, allow_base_mismatch=allow_base_mismatch)
    return False
