"""Parts for tests of agents, adapters and stores: a scripted model server on a real socket, and contracts to pass."""

from leyden.testing.fake_server import FakeServer, Received, Reply
from leyden.testing.serving import serve

__all__ = ["FakeServer", "Received", "Reply", "serve"]
