"""Who may look at the dashboard, and what nobody sees."""

import re
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from leyden.keys import Keys
from leyden.server.serve import BackgroundServer

HTML = {"Accept": "text/html"}
PAGES = (
    "/",
    "/runs/sql-team",
    "/compare?run=sql-team&run=sql-team-2",
    "/rollouts",
    "/rollouts/sql-team-2-s8-g0-r0",
    "/groups/sql-team-2-s8-g0",
    "/calls/sql-team-2-s8-g0-r0-1",
    "/live",
    "/events",
)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_opens_without_a_key_on_loopback_either(demo: BackgroundServer, page: str) -> None:
    rollout_key = Keys(demo.key).rollout_key("sql-team-2-s8-g0-r0", 1)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {rollout_key}"}):
        assert httpx.get(f"{demo.url}/dashboard{page}", headers=headers).status_code == 401
    browser = httpx.get(f"{demo.url}/dashboard{page}", headers=HTML)
    assert browser.headers.get("location", "") == "/dashboard/login" or browser.status_code == 401


def test_the_link_gives_a_cookie_that_scripts_and_other_sites_cannot_use(demo: BackgroundServer) -> None:
    with httpx.Client(headers=HTML) as browser:
        entered = browser.get(demo.dashboard)
        assert entered.status_code == 200
        cookie = entered.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/dashboard"} <= set(cookie.split("; "))
        assert browser.get(f"{demo.url}/dashboard/").status_code == 200
        assert browser.get(f"{demo.url}/api/runs").status_code == 401  # it opens pages, and no verb of the store


def test_a_link_of_another_server_or_of_last_week_opens_nothing(demo: BackgroundServer) -> None:
    def status(secret: bytes, **claims: Any) -> int:
        token = jwt.encode({"aud": "link", "exp": time.time() + 60, **claims}, secret, algorithm="HS256")
        return httpx.get(f"{demo.url}/dashboard/login?token={token}").status_code

    secret = Keys(demo.key).secret("dashboard")
    assert status(secret) == 200
    assert status(secret, exp=time.time() - 1) == 403
    assert status(secret, aud="browser") == 403
    assert status(Keys("another").secret("dashboard")) == 403


def test_the_operators_key_lets_in_and_another_does_not(demo: BackgroundServer) -> None:
    with httpx.Client(headers=HTML) as browser:
        refused = browser.post(f"{demo.url}/dashboard/login", data={"key": "wrong"})
        assert refused.status_code == 403
        assert "not the operator" in refused.text
        browser.post(f"{demo.url}/dashboard/login", data={"key": demo.key})
        assert browser.get(f"{demo.url}/dashboard/").status_code == 200


def test_names_that_only_pretend_to_be_this_machine_are_refused(operator: httpx.Client) -> None:
    for host, status in (("evil.example", 421), ("localhost:4700", 200), ("127.0.0.1", 200), ("[::1]:80", 200)):
        assert operator.get("/dashboard/live", headers={"Host": host}).status_code == status
    assert operator.get("/dashboard/login", headers={"Host": "evil.example"}).status_code == 403


def test_other_sites_can_neither_post_nor_frame_nor_read(demo: BackgroundServer, operator: httpx.Client) -> None:
    origin = {"Origin": "https://evil.example"}
    posted = httpx.post(f"{demo.url}/dashboard/login", data={"key": demo.key}, headers=origin)
    assert posted.status_code == 403
    assert operator.post("/dashboard/rollouts").status_code == 405
    answer = operator.get("/dashboard/rollouts")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers


def test_nothing_secret_and_no_other_address_is_on_any_page(demo: BackgroundServer, operator: httpx.Client) -> None:
    config = {"reward": {"api_key": "sk-secret", "url": "https://me:sk-secret@judge.example/v1"}, "seed": 3}
    run = {"run": {"name": "judged", "config": config}}
    assert operator.post("/api/runs", json=run).status_code == 200
    for page in (*PAGES[:-1], "/runs/judged", "/compare?run=sql-team&run=judged"):
        for form in ("", "as=json"):
            shown = operator.get(f"/dashboard{page}{'&' if '?' in page else '?'}{form}")
            assert shown.status_code == 200
            for secret in ("sk-secret", "never shown", demo.key):
                assert secret not in shown.text
            assert not re.search(r'(src|href|action)="(https?:)?//', shown.text)
    assert "(not shown)" in operator.get("/dashboard/runs/judged").text


def test_a_stream_of_events_ends_when_the_server_stops(tmp_path: Path) -> None:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        headers = {"Authorization": f"Bearer {server.key}"}
        client = httpx.Client(base_url=server.url, headers=headers, timeout=60)
        request = client.build_request("GET", "/dashboard/events")
        stream = client.send(request, stream=True)
        lines = stream.iter_lines()
        assert next(lines).startswith("data: ")
    assert [line for line in lines if line.startswith("data: ")] == []
    client.close()
