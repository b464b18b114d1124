"""How a run starts: from another encoder, or from the state of the same run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..encoder.encoder import Encoder
from ..encoder.stage import EncoderStage
from ..errors import ConfigError, ModelFileError
from ..generators.base import Generator
from ..storage.fingerprint import check_base, is_related
from .encoder_settings import EncoderTraining


__all__ = ["check_same_run", "take_coordinates", "take_over"]

ADVICE = "Keep its settings, or name another folder."


def take_over(own: Encoder, encoder: Encoder, generator: Generator, *, whole: bool, first_stays: bool) -> None:
    """Copy the first stage of ``encoder``, or all of it, into ``own``, an encoder for ``generator``.

    Args:
        whole: Whether the second stage is copied too; the number of refinement iterations may differ.
        first_stays: Whether the first stage is not trained further, and so must belong to this generator.

    Raises:
        ConfigError: The whole encoder is asked for, and it has other settings of the network.
        ModelFileError: It is another network.
        BaseMismatchError: It was trained for another generator, and its first stage would stay as it is.
    """
    base, theirs = generator.fingerprint(), encoder.config.base
    if first_stays and theirs is not None:
        check_base(theirs, base, what="The encoder to start from")
    if whole and (names := _other_settings(own, encoder)):
        raise ConfigError(f"The encoder to start from has other settings: {', '.join(names)}. Take its own.")
    try:
        own.first.load_state_dict(_first_stage(own, encoder.first))
        if whole and own.second is not None:
            own.second.load_state_dict(cast(EncoderStage, encoder.second).state_dict())
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise ModelFileError(f"The encoder to start from is another network: {text}") from error
    if theirs is None or is_related(theirs, base):
        take_coordinates(own, encoder)
    else:  # its tokens are in units of another generator's kernels
        own.set_units(generator)


def take_coordinates(own: Encoder, encoder: Encoder) -> None:
    """Copy the coordinates of w: where w varies alike in all directions, rounding decides which axes they have."""
    own.w_avg.copy_(encoder.w_avg)
    own.basis.copy_(encoder.basis)


def check_same_run(config: EncoderTraining, mine: Mapping[str, Any], path: Path, state: Mapping[str, Any]) -> None:
    """Check that the ``state`` at ``path`` is of the run that ``config`` asks for.

    Args:
        mine: What the run that is asked for learns by, as ``EncoderTrainer.state`` tells it.

    Raises:
        ConfigError: It trains another network, for another generator, by another perceptual distance, or by features
            of a network that is not there.
    """
    saved, name = state["config"], mine["perceptual"]
    if config.start_whole != saved["start_whole"]:
        began = "did not begin" if config.start_whole else "began"
        raise ConfigError(f"The run at {path} {began} with a whole encoder (start_whole). {ADVICE}")
    network = json.loads(json.dumps(vars(config.network)))
    if other := [key for key, value in network.items() if saved["network"].get(key) != value]:
        raise ConfigError(f"The run at {path} has other settings of the network: {', '.join(other)}. {ADVICE}")
    if state["base"] != mine["base"]:
        raise ConfigError(f"The run at {path} is for another generator. {ADVICE}")
    if name and state["perceptual"] not in (None, name):
        raise ConfigError(f"The run at {path} learns by {state['perceptual']}, not {name}: set perceptual_backend.")
    if state["features"] and config.features and not mine["features"]:
        raise ConfigError(f"The run at {path} learns by features too: give their network again, or set features to 0.")


def _other_settings(own: Encoder, encoder: Encoder) -> list[str]:
    mine, theirs = (asdict(net.config.network) for net in (own, encoder))
    return [name for name in mine if name != "num_iters" and mine[name] != theirs[name]]


def _first_stage(own: Encoder, first: EncoderStage) -> dict[str, Tensor]:
    """The state of a first stage; where ``own`` has tokens in its only stage and ``first`` has none, fresh ones."""
    if own.second is None and not first.initial_tokens(1):
        start = copy.deepcopy(own.first)
        start.init_from(first)
        fresh = {name: x for name, x in start.state_dict().items() if ".token_heads." in name or "queries" in name}
        return first.state_dict() | fresh  # a tensor that does not fit is named by the caller's load_state_dict
    return first.state_dict()
