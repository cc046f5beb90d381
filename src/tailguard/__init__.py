"""Tailguard: risk-constrained alignment and decoding of language models.

The one idea: the target is a tilt of the reference policy,
``π_ref · exp((r − λ φ_ν(c)) / β)``. Planning finds (λ, ν), training moves weights
towards it, the portfolio mixes such tilts, decoding samples from it on the fly,
evaluation measures how far the tail really went.
"""

__version__ = "0.1.0"
