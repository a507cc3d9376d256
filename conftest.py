"""Failures inside the contracts show their values, as those of test files do; property tests have no time limit."""

import contextlib

import pytest

pytest.register_assert_rewrite("leyden.testing.adapter_contract", "leyden.testing.store_contract")

with contextlib.suppress(ModuleNotFoundError):  # the environments of single frameworks do without
    from hypothesis import settings

    settings.register_profile("leyden", deadline=None)
    settings.load_profile("leyden")
