"""Names of model files: which are archives, and what an HTTP server calls its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (".zip", *sorted(_TAR_SUFFIXES, key=len, reverse=True))
# What else model files are called. No list of all: a name within a query is only taken for one if
# it is surely no secret.
_MODEL_SUFFIXES = (
    *(".joblib", ".pkl", ".pickle", ".bst", ".json", ".ubj", ".txt", ".onnx", ".pmml", ".pt"),
    *(".pth", ".bin", ".safetensors", ".gguf", ".keras", ".h5", ".tflite"),
)
_LONGEST_NAME = 200
_HAS_SUFFIX = re.compile(r".\.[A-Za-z][A-Za-z0-9]{0,11}$")


def name_of_answer(uri: str, answered: str, filename: str | None) -> str:
    """The name of what `uri` is answered with over HTTP; empty where nothing names it.

    `answered` is the URL that answered at last, after redirects, and `filename` what its
    Content-Disposition says, which comes first. Then comes the URI itself, unless it has a mere
    word such as `download`: then its query, and what it was redirected to.
    """
    if filename and (given := _safe(filename)):
        return given
    own = path_name(uri)
    if _HAS_SUFFIX.search(own):
        return own
    found = (*_in_query(uri), path_name(answered), *_in_query(answered))
    return next((name for name in found if _is_model_name(name)), own)


def path_name(uri: str) -> str:
    """The last part of a URL's path; empty where it has none."""
    return _safe(urlsplit(uri).path.rpartition("/")[2])


def query_name(uri: str) -> str:
    """The name of a model's file within a URL's query, as in `?path=/m/model.zip`; or empty."""
    return next(_in_query(uri), "")


def _in_query(uri: str) -> Iterator[str]:
    for _, value in parse_qsl(urlsplit(uri).query, max_num_fields=100):
        name = _safe(value.rpartition("/")[2])
        if _is_model_name(name):
            yield name


def _is_model_name(name: str) -> bool:
    return name.lower().endswith((*ARCHIVE_SUFFIXES, *_MODEL_SUFFIXES))


def _safe(name: str) -> str:
    """A name for a file of this machine, or empty where it would be none."""
    last = PurePosixPath(unquote(name).replace("\\", "/")).name
    fits = last not in ("", ".", "..") and last.isprintable()
    return last if fits and len(last.encode()) <= _LONGEST_NAME else ""
