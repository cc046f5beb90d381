"""Few policies for every risk preference: choosing members, and mapping profiles to them."""

from tailguard.portfolio.assign import Assignment
from tailguard.portfolio.portfolio import MeasuredPortfolio, Portfolio, refit
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.select import select

__all__ = ["Assignment", "MeasuredPortfolio", "Portfolio", "Profile", "refit", "select"]
