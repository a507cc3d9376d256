"""These tests need verl, which has an environment of its own: `make test-verl`."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("verl") else ["test_*.py"]
