"""Few policies for every risk preference: choosing members, and mapping profiles to them."""

from tailguard.portfolio.assign import Assignment
from tailguard.portfolio.planned import Portfolio
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.refit import MeasuredPortfolio, refit
from tailguard.portfolio.select import select

__all__ = ["Assignment", "MeasuredPortfolio", "Portfolio", "Profile", "refit", "select"]
