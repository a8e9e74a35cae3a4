"""One suite that every cluster passes; a class of tests for each runs it."""

import pytest

pytest.register_assert_rewrite(
    "tests.contracts.deleting",
    "tests.contracts.deploying",
    "tests.contracts.feeding",
    "tests.contracts.guarding",
    "tests.contracts.own_writes",
    "tests.contracts.registered",
    "tests.contracts.rolling_back",
)
