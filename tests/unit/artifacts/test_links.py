"""What would be read without being hashed is refused; a link to a file counts by what is in the file."""

import os
import shutil
from pathlib import Path

import pytest

from tailguard.artifacts import Header, build_artifact, content_hash, require_sealed
from tailguard.errors import InputError


@pytest.fixture
def artifact(tmp_path) -> Path:
    def write(directory: Path) -> dict[str, object]:
        (directory / "adapter").mkdir()
        (directory / "adapter" / "weights").write_text("1")
        return {}

    return build_artifact(tmp_path, Header("Numbers", "count", 1), write)[0]


def link_to_the_same_file(artifact: Path) -> None:
    weights = artifact / "adapter" / "weights"
    shutil.copy(weights, artifact.parent / "outside")
    weights.unlink()
    weights.symlink_to(artifact.parent / "outside")


def link_to_a_folder(artifact: Path) -> None:
    outside = artifact.parent / "adapter"
    shutil.move(artifact / "adapter", outside)
    (artifact / "adapter").symlink_to(outside)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (link_to_the_same_file, "'weights' in it is a link"),
        (link_to_a_folder, "'adapter' in it is a link"),
        (lambda path: (path / "more").symlink_to("/etc"), "'more' in it is a link"),
        (lambda path: (path / "more").symlink_to("nowhere"), "'more' in it is a link"),
        (lambda path: (path / ".more").symlink_to("more"), "'.more' in it is a link"),
        (lambda path: os.mkfifo(path / "pipe"), "'pipe' in it is neither a file nor a folder"),
        (lambda path: (path / "a\nb").write_text("1"), "not those it was sealed with"),
    ],
)
def test_an_artifact_holds_files_alone(artifact, fault, said):
    require_sealed(artifact)
    fault(artifact)
    with pytest.raises(InputError, match=said) as caught:
        require_sealed(artifact)
    assert "\n" not in str(caught.value)


def test_hard_links_are_files(artifact):
    weights = artifact / "adapter" / "weights"
    os.link(weights, artifact.parent / "outside")
    require_sealed(artifact)


def test_a_model_may_be_made_of_links_to_files_as_the_hub_keeps_it(tmp_path):
    plain, linked = tmp_path / "plain", tmp_path / "linked"
    for folder in (plain, linked, tmp_path / "blobs"):
        folder.mkdir()
    (plain / "config.json").write_text("1")
    (tmp_path / "blobs" / "x").write_text("1")
    (linked / "config.json").symlink_to("../blobs/x")
    assert content_hash(linked) == content_hash(plain)
    (tmp_path / "blobs" / "x").write_text("2")
    assert content_hash(linked) != content_hash(plain)


@pytest.mark.parametrize("fault", ["folder", "nothing", "pipe"])
def test_what_a_model_folder_may_not_hold(tmp_path, fault):
    folder = tmp_path / "model"
    folder.mkdir()
    if fault == "pipe":
        os.mkfifo(folder / "model.safetensors")
    else:
        (folder / "more").symlink_to(tmp_path if fault == "folder" else "nowhere")
    with pytest.raises(InputError, match=r"in it is (a link|neither)"):
        content_hash(folder)
