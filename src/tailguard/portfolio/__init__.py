"""Few policies for every risk preference: choosing members, mapping profiles to them, training them on."""

from tailguard.portfolio.alternate import (
    Alternation,
    MeasuredMembers,
    Proposal,
    Round,
    alternate,
    estimate_progress,
    propose,
)
from tailguard.portfolio.assign import Assignment
from tailguard.portfolio.portfolio import MeasuredPortfolio, Portfolio, refit
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.select import select

__all__ = [
    "Alternation",
    "Assignment",
    "MeasuredMembers",
    "MeasuredPortfolio",
    "Portfolio",
    "Profile",
    "Proposal",
    "Round",
    "alternate",
    "estimate_progress",
    "propose",
    "refit",
    "select",
]
