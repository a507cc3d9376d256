"""What all doors have in common: the document that tells of them, and the keys that open them."""

from typing import Any

import httpx
import pytest

from leyden.testing.fake_server import Reply

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HELLO,
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {**HELLO, "max_tokens": 9},
}


@pytest.fixture
def replies() -> list[Reply]:
    return [Reply("good morning")] * len(ASKED)


async def test_the_document_has_every_door_with_what_it_needs(doorstep) -> None:
    headers = {"Authorization": f"Bearer {doorstep.keys['a']}"}
    async with httpx.AsyncClient(base_url=doorstep.url, headers=headers) as client:
        for _ in range(2):  # the document is made once
            paths = (await client.get("/openapi.json")).json()["paths"]
        posted = {path for path, item in paths.items() if path.startswith("/v1/") and "post" in item}
        assert posted == ASKED.keys()
        for path, body in ASKED.items():
            told = paths[path]["post"]
            schema = told["requestBody"]["content"]["application/json"]["schema"]
            assert set(schema["required"]) == body.keys()
            answer = await client.post(path, json=body)
            assert (answer.status_code, "200" in told["responses"]) == (200, True)
            for name in body:
                lacking = await client.post(path, json={other: body[other] for other in body if other != name})
                assert (lacking.status_code, "400" in told["responses"]) == (400, True)


@pytest.mark.parametrize("path", [*ASKED, "/v1/models", "/v1/held"])
async def test_no_key_is_401_and_a_wrong_one_403_at_every_door(doorstep, path: str) -> None:
    method = "POST" if path in ASKED else "GET"
    async with httpx.AsyncClient(base_url=doorstep.url) as client:
        missing = await client.request(method, path, json=ASKED.get(path))
        wrong = await client.request(method, path, json=ASKED.get(path), headers={"Authorization": "Bearer wrong"})
    assert (missing.status_code, wrong.status_code) == (401, 403)
    assert f"{path} needs a key: send Authorization: Bearer KEY" in missing.json()["error"]["message"]
    assert doorstep.policy.requests == []
