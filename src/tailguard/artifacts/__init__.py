"""Directories with a manifest written last, and content hashes. Torch-free."""

from tailguard.artifacts.calls import read_calls, record_call, require_recordable
from tailguard.artifacts.hashing import content_hash, files_below, hash_of
from tailguard.artifacts.manifest import (
    SCHEMA_VERSION,
    Manifest,
    find_artifact,
    read_index,
    read_manifest,
)
from tailguard.artifacts.store import Header, build_artifact, locked, require_sealed
from tailguard.artifacts.text import Json, read_json, write_json

__all__ = [
    "SCHEMA_VERSION",
    "Header",
    "Json",
    "Manifest",
    "build_artifact",
    "content_hash",
    "files_below",
    "find_artifact",
    "hash_of",
    "locked",
    "read_calls",
    "read_index",
    "read_json",
    "read_manifest",
    "record_call",
    "require_recordable",
    "require_sealed",
    "write_json",
]
