"""Latents that other tools have found -> w+: ``projected_w.npz`` of NVIDIA's projector, ``latents.pt`` of e4e and pSp.

Nothing in a file is executed: ``.npy`` and ``.npz`` are read without pickle, ``.pt`` by our own unpickler.
"""

from __future__ import annotations

from torch import Tensor

from ..boundary.paths import AnyPath, user_path
from ..errors import ModelFileError
from ..generators.codes import fit_codes
from .array_files import FINEST, read_arrays


__all__ = ["read_latents"]

MOST = 64  # single w of a file: StyleCLIP's table of 9088 style channels are none


def read_latents(path: AnyPath, num_ws: int, w_dim: int) -> Tensor:
    """The codes w+ [N, L, D] in a file; a single w of D numbers goes to all L codes.

    Of w+ for a generator of the same latent space with more codes, those of finer layers go.

    Args:
        path: ``.npy``, ``.npz`` or a file of PyTorch with an array of D, L x D or N x L x D numbers, alone or as the
            only one of its width under a name, such as "w" or "latent".
        num_ws: L of the generator.
        w_dim: D of the generator.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFileError: It holds no such array, several, or numbers that are not finite.
    """
    path = user_path(path)
    arrays = read_arrays(path)
    found = {name: t for name, t in arrays.items() if t.dim() and t.shape[-1] == w_dim}
    if len(found) != 1:
        shapes = (
            ", ".join(f"{name or 'an array'} {list(t.shape)}" for name, t in list(arrays.items())[:5]) or "no array"
        )
        raise ModelFileError(f"{path} holds no latents of {w_dim} numbers, or several: {shapes}.", path=path)
    (latent,) = found.values()
    codes = latent.float().reshape(-1, latent.shape[-2] if latent.dim() > 1 else 1, w_dim)
    if latent.dim() > 2 and num_ws < codes.shape[1] <= FINEST:
        codes = fit_codes(codes, num_ws)
    if codes.shape[1] not in (1, num_ws):
        if codes.shape[1] > MOST or latent.dim() > 2:
            raise ModelFileError(f"{path} has w+ of {codes.shape[1]} codes, this generator has {num_ws}.", path=path)
        codes = codes.reshape(-1, 1, w_dim)  # several single w
    if not bool(codes.isfinite().all()):
        raise ModelFileError(f"{path} has NaN or infinite values.", path=path)
    return codes.expand(-1, num_ws, -1).contiguous()
