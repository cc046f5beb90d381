"""The page of recipe keys says what the schema says."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def generator():
    path = DOCS / "generate_recipe_reference.py"
    spec = importlib.util.spec_from_file_location("generate_recipe_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(generator):
    written = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert written == generator.render(), "run python docs/generate_recipe_reference.py"


def test_every_key_has_its_meaning(generator):
    for _, model in generator.SECTIONS:
        assert set(generator.read_attributes(model)) == set(model.model_fields)
