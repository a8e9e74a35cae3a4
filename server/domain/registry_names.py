"""The registry's rules for names.

Each `..._problem` says what is wrong with a text, or None.
"""

from __future__ import annotations

import re
import unicodedata

from server.domain import syntax

LONGEST_PROJECT = 100
LONGEST_NAME = 63

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def project_problem(text: str) -> str | None:
    """A project's name, which is any text."""
    if not text:
        return "is required"
    if len(text) > LONGEST_PROJECT:
        return f"may have at most {LONGEST_PROJECT} characters"
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "has no control characters"
    return None


def name_problem(text: str) -> str | None:
    """The name of a registered model or of a serving environment."""
    return syntax.name_problem(text, LONGEST_NAME)


def version_problem(text: str) -> str | None:
    """The name of a model's version."""
    if not text:
        return "is required"
    if not _VERSION.fullmatch(text):
        return "has 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', and begins with a letter or digit"
    return None
