"""What ``import tailguard`` gives, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import tailguard
from tailguard.decoding import Decoder
from tailguard.errors import InputError


@pytest.mark.parametrize("load", [tailguard.load_decoder, Decoder.from_pretrained])
def test_a_folder_without_a_decoder_is_refused_by_both_names(load, tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        load(tmp_path)
    with pytest.raises(InputError):
        load(str(tmp_path / "nowhere"), batch_size=2)


def test_importing_the_package_imports_no_library():
    program = "import sys; import tailguard; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    ours = {name for name in done.stdout.split() if name.startswith("tailguard")}
    assert not loaded & {"torch", "numpy", "transformers", "pydantic", "scipy", "jaxtyping"}
    assert ours == {"tailguard", "tailguard.hooks"}


def test_no_import_is_hidden_from_the_linter():
    source = Path(tailguard.__file__).parent
    hidden = [
        str(file.relative_to(source))
        for file in source.rglob("*.py")
        if "import_module" in file.read_text(encoding="utf-8")
    ]
    assert hidden == ["scorers/function.py"]  # imports what a user's recipe names, never ours
