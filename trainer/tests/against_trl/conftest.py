"""These tests need trl, which has an environment of its own: `make test-trl`."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("trl") else ["test_*.py"]
