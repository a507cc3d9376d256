"""agentlightning 0.3.0's LLM proxy in its own process, as its documentation starts it: in-memory store, token ids kept.

argv: port, the policy's base URL, how many rollouts. Prints the rollouts' base URLs as JSON once it serves.
"""

import asyncio
import json
import sys

import agentlightning as agl  # pyright: ignore[reportMissingImports]  # it is in the peers' environment only


async def _serve(port: int, policy: str, rollouts: int) -> None:
    store = agl.InMemoryLightningStore(thread_safe=True)
    model = {"model_name": "stub", "litellm_params": {"model": "hosted_vllm/stub", "api_base": policy}}
    proxy = agl.LLMProxy(port=port, model_list=[model], store=store, launch_mode="thread", host="127.0.0.1")
    await proxy.start()
    attempts = [await store.start_rollout({"task": place}) for place in range(rollouts)]
    resources = [proxy.as_resource(one.rollout_id, one.attempt.attempt_id) for one in attempts]
    print("READY " + json.dumps([resource.endpoint for resource in resources]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
