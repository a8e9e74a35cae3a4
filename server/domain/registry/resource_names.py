"""The registry's rules for names.

Each `..._problem` returns None for a valid text, else what it must be and what was given.
"""

from __future__ import annotations

import re
import unicodedata

from server.domain.kubernetes import names

# Of a project from before names had a rule.
LONGEST_PROJECT = 100
LONGEST_NAME = 63

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def project_problem(text: str) -> str | None:
    """Check the name of an existing project: earlier releases accepted almost any text."""
    if not text:
        return "must be set"
    if len(text) > LONGEST_PROJECT:
        return f"must have at most {LONGEST_PROJECT} characters, got {len(text)}"
    if any(unicodedata.category(character) == "Cc" for character in text):
        return f"must have no control characters, got {names.escaped(text)}"
    return None


def name_problem(text: str) -> str | None:
    """Check the name of a registered model, a serving environment, or a new project."""
    return names.name_problem(text, LONGEST_NAME)


def version_problem(text: str) -> str | None:
    """Check the name of a version."""
    if not text:
        return "must be set"
    if not _VERSION.fullmatch(text):
        return (
            "must have 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', and begin with a letter or"
            f" digit, got {names.escaped(text)}"
        )
    return None
