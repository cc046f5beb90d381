"""requirements.lock: everything that is needed, at exact versions that the bounds allow."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines()
    )
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def direct() -> list[Requirement]:
    listed = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["judge"],
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    return [Requirement(each) for each in listed]


@pytest.mark.parametrize("requirement", direct(), ids=lambda found: found.name)
def test_every_direct_dependency_is_locked_within_its_bounds(requirement):
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", direct(), ids=lambda found: found.name)
def test_every_direct_dependency_has_a_lower_and_an_upper_bound(requirement):
    assert {part.operator for part in requirement.specifier} == {">=", "<"}


def test_versions_are_exact():
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in LOCK.values())


def test_what_dependencies_need_is_locked_too():
    installed = {canonicalize_name(found.name): found.version for found in metadata.distributions()}
    changed = {
        name
        for name, version in LOCK.items()
        if installed.get(name, version).partition("+")[0] != version
    }
    if changed:
        pytest.skip(f"another set of versions is being tried: {', '.join(sorted(changed))}")
    waiting, seen = [(each.name, frozenset(each.extras)) for each in direct()], set()
    while waiting:
        name, extras = waiting.pop()
        key = canonicalize_name(name)
        if (key, extras) in seen:
            continue
        seen.add((key, extras))
        assert key in LOCK, f"{name} is needed and not in requirements.lock: run make update"
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(map(needed.marker.evaluate, environments)):
                waiting.append((needed.name, frozenset(needed.extras)))
    assert len(seen) > 80
