"""Tailguard: risk-constrained alignment and decoding of language models.

The one idea: the target is a tilt of the reference policy,
``π_ref · exp((r − λ φ_ν(c)) / β)``. Planning finds (λ, ν), training moves weights
towards it, the portfolio mixes such tilts, decoding samples from it on the fly,
evaluation measures how far the tail really went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailguard import hooks

if TYPE_CHECKING:
    import os

    import tailguard.decoding
    from tailguard import scorers

__all__ = ["__version__", "load_decoder", "scorers"]
__version__ = "0.1.0"


def load_decoder(
    path: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    trust_remote_code: bool = False,
    device: str = "auto",
) -> tailguard.decoding.Decoder:
    """The decoder that ``tailguard calibrate`` or ``tailguard run`` left in a folder.

    Args:
        path: its artifact, or the run's folder.
        batch_size: rows in one forward pass.
        trust_remote_code: let the code run that the decoder's model brings, and ask the endpoints and
            run the Python functions that it names as scorers. Only you decide: a folder that says
            so itself is refused without it.
        device: where to put its models: ``auto`` (a GPU where CUDA has one), ``cpu``, ``cuda``,
            ``cuda:N`` or ``mps``.

    Raises:
        InputError: not a decoder, its reference model is gone or another one, or it names a function
            or an endpoint and is not trusted.
    """
    # Imported here, so that `import tailguard` costs neither torch nor NumPy.
    from pathlib import Path

    from tailguard.pipeline import decoder_artifact

    return decoder_artifact.load_decoder(
        Path(path), batch_size=batch_size, trust_remote_code=trust_remote_code, device=device
    )


hooks.load_decoder = load_decoder


def __getattr__(name: str) -> object:
    # `tailguard.scorers` without a further import, and without torch until it is asked for.
    if name == "scorers":
        from tailguard import scorers

        return scorers
    raise AttributeError(f"module 'tailguard' has no attribute '{name}'")
