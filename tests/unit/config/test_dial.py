import pytest
from pydantic import ValidationError

from tailguard.config.dial import DialSection


def test_what_is_certified_must_be_within_reach():
    with pytest.raises(ValidationError, match="certified_margin: 1 is below margin"):
        DialSection(certified_margin=1.0)
    assert DialSection(margin=1.0, certified_margin=1.0).certified_margin == 1.0
