"""Python that the pages show but that needs a decoder: its imports and fields are there."""

import ast
import importlib
import inspect
from dataclasses import fields

import pytest

from tailguard.decoding import ScoreSummary
from tailguard.decoding.chosen import Chosen
from tailguard.decoding.decoder import Decoder, ServedAnswer


@pytest.fixture(scope="module")
def shown(blocks):
    pages = ("README.md", "docs/commands.md")
    return [b for b in blocks if b.language == "python" and b.page in pages]


def test_imports(shown):
    assert len(shown) == 2
    for block in shown:
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Import):
                for name in node.names:
                    importlib.import_module(name.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, name.name) for name in node.names), str(block)


def test_fields_of_an_answer(shown):
    """``answer.cost.mean`` and ``["served"]`` are fields of an answer."""
    known = {field.name for kind in (Chosen, ServedAnswer, ScoreSummary) for field in fields(kind)}
    used = set()
    for block in shown:
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("answer."):
                used.add(node.attr)
            if isinstance(node, ast.Subscript) and "['tailguard']" in ast.unparse(node.value):
                used.add(ast.literal_eval(node.slice))
    assert used >= {"text", "cost", "served"}
    assert used <= known


def test_loading_and_generating(shown):
    (readme,) = [block for block in shown if block.page == "README.md"]
    call = next(
        node
        for node in ast.walk(ast.parse(readme.text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "decoder.generate"
    )
    taken = set(inspect.signature(Decoder.generate).parameters)
    assert {keyword.arg for keyword in call.keywords} <= taken
    tailguard = importlib.import_module("tailguard")
    assert callable(tailguard.load_decoder)
