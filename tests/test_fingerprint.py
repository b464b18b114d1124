"""Fingerprints: equal where pictures are, different where they are not, and what follows from it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from refinestyle_hub.config import Fingerprint, StyleGAN2Config
from refinestyle_hub.errors import BaseMismatchError
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.storage.fingerprint import check_base, share_codes


CONFIG = StyleGAN2Config(16, 8, 8, 2, {4: 6, 8: 4, 16: 2})


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return StyleGAN2Generator(CONFIG)


def test_half_precision_noise_and_mean_do_not_matter(generator: Generator) -> None:
    other = copy.deepcopy(generator).half()
    for name, buffer in other.named_buffers():
        buffer.normal_()
        assert name.endswith(("noise_const", "w_avg"))
    assert other.fingerprint() == generator.fingerprint()


def test_every_parameter_matters(generator: Generator) -> None:
    digests = {generator.fingerprint().digest}
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.view(-1)[0] += 1
            digests.add(generator.fingerprint().digest)
    assert len(digests) == 1 + len(list(generator.parameters()))


def test_rounding_and_a_factor_folded_in_leave_the_latent_space(generator: Generator) -> None:
    """What reading the same network from another format does: another rounding, with the learning rate in or out."""
    other = StyleGAN2Generator(replace(CONFIG, channels={4: 4, 8: 4, 16: 2}))
    with torch.no_grad():
        for name, tensor in generator.mapping.state_dict().items():
            other.mapping.state_dict()[name].copy_((tensor * 0.01).half().float() / 0.01)
    assert share_codes(other.fingerprint(), generator.fingerprint())


def test_every_parameter_of_the_mapping_makes_another_latent_space(generator: Generator) -> None:
    mapping = dict(generator.mapping.named_parameters())
    for name in mapping:
        other = copy.deepcopy(generator)
        with torch.no_grad():
            tensor = dict(other.mapping.named_parameters())[name]
            tensor += 0.1 * tensor.norm() / tensor.numel() ** 0.5 * torch.randn_like(tensor) + (tensor == 0)
        assert not share_codes(replace(other.fingerprint(), digest="0" * 32), generator.fingerprint())


@pytest.mark.parametrize("large", [1e5, -1e30])
def test_a_weight_beyond_half_precision_has_a_fingerprint(generator: Generator, large: float) -> None:
    before = generator.fingerprint()
    with torch.no_grad():
        next(generator.mapping.parameters()).view(-1)[0] = large
    assert generator.fingerprint().digest != before.digest
    assert not share_codes(generator.fingerprint(), before)


def test_fingerprint_is_pinned() -> None:
    """Files carry it: a change of this value orphans every domain ever saved."""
    generator = StyleGAN2Generator(CONFIG)
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(generator.named_parameters())):
            parameter.copy_(((torch.arange(parameter.numel()) + i) % 17 / 8 - 1).view_as(parameter))
    assert str(generator.fingerprint()) == "stylegan2-16-z8-w8-m2-c6.4.2@a234c9d91e81"
    assert generator.fingerprint().latent_space == "7f0981387ec67d93"


def test_the_same_base_passes(generator: Generator, recwarn: pytest.WarningsRecorder) -> None:
    check_base(generator.fingerprint(), generator.fingerprint())
    assert not recwarn


def test_another_architecture_never_fits(generator: Generator) -> None:
    base = Fingerprint("stylegan2-32-z8-w8-m2-c6.4.2.2", generator.fingerprint().digest)
    with pytest.raises(BaseMismatchError, match="another architecture") as error:
        check_base(base, generator.fingerprint(), what="The domain 'sketch'", allow_base_mismatch=True)
    message = str(error.value)
    assert message.count("\n") == 2
    assert str(base) in message
    assert str(generator.fingerprint()) in message


@pytest.mark.parametrize("made_for_parent", [True, False])
def test_relatives_pass_with_a_warning(made_for_parent: bool) -> None:
    parent = Fingerprint("a", "0" * 32)
    child = Fingerprint("a", "1" * 32, ("2" * 32, parent.digest))
    base, here = (parent, child) if made_for_parent else (child, parent)
    with pytest.warns(UserWarning, match="a relative of this generator"):
        check_base(base, here)


def test_parents_come_from_the_config(generator: Generator) -> None:
    parent = generator.fingerprint()
    tuned = StyleGAN2Generator(replace(CONFIG, parents=(parent.digest,)))
    with pytest.warns(UserWarning, match="a relative of this generator"):
        check_base(parent, tuned.fingerprint())


def test_unknown_weights_need_an_explicit_word() -> None:
    base, here = Fingerprint("a", "0" * 32), Fingerprint("a", "1" * 32)
    with pytest.raises(ValueError, match="allow_base_mismatch=True") as error:
        check_base(base, here)
    assert str(error.value).count("\n") <= 2
    check_base(base, here, allow_base_mismatch=True)
