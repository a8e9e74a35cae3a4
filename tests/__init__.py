"""The tests. A failed assertion of any module here, helpers too, says what was compared."""

import pytest

pytest.register_assert_rewrite("tests")
