"""What a trainer finds on a server that it shares, after a run that did not end in order."""

from pathlib import Path

from leyden.store import SqlStore
from leyden.types import Endpoint
from leyden_trainer.experience import hold_policies


async def test_requests_wait_for_the_new_policy_and_other_endpoints_are_left_alone(tmp_path: Path) -> None:
    store = SqlStore.open(tmp_path / "store.sqlite")
    for name in ("policy", "policy-0", "policy-15", "policymaker", "teacher"):
        await store.publish(Endpoint(id=name, url="http://127.0.0.1:9/v1", model="m"))
    await hold_policies(store)
    states = {endpoint.id: endpoint.state for endpoint in await store.endpoints()}
    await store.close()
    assert states == dict.fromkeys(("policy", "policy-0", "policy-15"), "held") | dict.fromkeys(
        ("policymaker", "teacher"), "ready"
    )
