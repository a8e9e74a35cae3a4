"""The tests. A failed assertion of any module here, helpers too, says what was compared."""

import pkgutil

import pytest

# This package itself is imported already, which pytest warns of.
pytest.register_assert_rewrite(*(f"{__name__}.{m.name}" for m in pkgutil.iter_modules(__path__)))
