"""Manifests as projects ship them, in files of YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from .cluster import Manifest


def documents(file: Path) -> Iterator[Manifest]:
    """Those of this file, as they can be applied."""
    with file.open() as stream:
        # The C loader: one CRD alone is 2 MB of YAML.
        for document in yaml.load_all(stream, yaml.CSafeLoader):
            if document:
                document["metadata"] = document.get("metadata") or {}
                document["metadata"].pop("creationTimestamp", None)
                yield document
