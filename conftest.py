"""Failures inside the contracts show their values, as those of test files do."""

import pytest

pytest.register_assert_rewrite("leyden.testing.adapter_contract", "leyden.testing.store_contract")
