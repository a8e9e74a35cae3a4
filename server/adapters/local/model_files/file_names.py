"""Names of model files: suffixes of archives, and file names in HTTP answers and URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (".zip", *sorted(_TAR_SUFFIXES, key=len, reverse=True))
# Further suffixes of model files. A value of a query counts as a name only with one of these, since
# it may be a secret.
_MODEL_SUFFIXES = (
    *(".joblib", ".pkl", ".pickle", ".bst", ".json", ".ubj", ".txt", ".onnx", ".pmml", ".pt"),
    *(".pth", ".bin", ".safetensors", ".gguf", ".keras", ".h5", ".tflite"),
)
_LONGEST_NAME = 200
_HAS_SUFFIX = re.compile(r".\.[A-Za-z][A-Za-z0-9]{0,11}$")


def name_of_answer(uri: str, answered: str, filename: str | None) -> str:
    """Return the file name of an HTTP answer; empty if there is none.

    The first of these counts: `filename`, from Content-Disposition; the last part of the URI's
    path, if it has a suffix; a model file's name in the URI's query, in the path or in the query of
    `answered`, the URL after redirects; the last part of the URI's path.
    """
    if filename and (given := _safe(filename)):
        return given
    own = path_name(uri)
    if _HAS_SUFFIX.search(own):
        return own
    found = (*_in_query(uri), path_name(answered), *_in_query(answered))
    return next((name for name in found if _is_model_name(name)), own)


def path_name(uri: str) -> str:
    """Return the last part of a URL's path; empty if there is none."""
    return _safe(urlsplit(uri).path.rpartition("/")[2])


def query_name(uri: str) -> str:
    """Return a model file's name in a URL's query, as in `?path=/m/model.zip`; or empty."""
    return next(_in_query(uri), "")


def _in_query(uri: str) -> Iterator[str]:
    for _, value in parse_qsl(urlsplit(uri).query, max_num_fields=100):
        name = _safe(value.rpartition("/")[2])
        if _is_model_name(name):
            yield name


def _is_model_name(name: str) -> bool:
    return name.lower().endswith((*ARCHIVE_SUFFIXES, *_MODEL_SUFFIXES))


def _safe(name: str) -> str:
    """Return the name if it can be a file's on this machine, else empty."""
    last = PurePosixPath(unquote(name).replace("\\", "/")).name
    fits = last not in ("", ".", "..") and last.isprintable()
    return last if fits and len(last.encode()) <= _LONGEST_NAME else ""
