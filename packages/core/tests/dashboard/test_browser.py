"""The dashboard in a real headless Chromium: every page, live updates, keys, and what axe says of accessibility."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from leyden.server.serve import BackgroundServer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# Where everything must be checked a missing browser is a failure: the launch then says so.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="no Chromium: apt-get install chromium, or name one in CHROMIUM",
)

PAGES = {
    "/": "Runs",
    "/runs/sql-team-2": "sql-team-2",
    "/compare?run=sql-team&run=sql-team-2": "Compare",
    "/rollouts": "Rollouts",
    "/rollouts/sql-team-2-s8-g0-r0": "sql-team-2-s8-g0-r0",
    "/rollouts/sql-team-2-s8-g0-r4": "sql-team-2-s8-g0-r4",
    "/groups/sql-team-2-s8-g0": "Group sql-team-2-s8-g0",
    "/live": "Live",
    "/rollouts/nobody": "404",
}


@pytest.fixture(scope="module")
def browser(demo: BackgroundServer) -> Iterator[Browser]:
    """After the store is filled: Playwright keeps an event loop running in this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, demo: BackgroundServer) -> Iterator[BrowserContext]:
    """One that came by the link, as a user does."""
    context = browser.new_context(base_url=demo.url, viewport={"width": 1280, "height": 800}, color_scheme="light")
    page = context.new_page()
    page.goto(demo.dashboard)
    page.wait_for_url("**/dashboard/")
    page.close()
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def problems(page: Page) -> list[dict[str, Any]]:
    found = Axe().run(page).response["violations"]
    return [
        {"id": one["id"], "where": [node["html"][:160] for node in one["nodes"][:3]]}
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def listening(page: Page) -> None:
    expect(page.locator("#live:not([hidden])")).to_have_text("live")


@pytest.mark.parametrize("address", PAGES)
def test_a_page_has_no_errors_no_serious_findings_of_axe_and_fits_a_phone(page: Page, address: str) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    answer = page.goto(f"/dashboard{address}")
    assert answer is not None
    expect(page.locator("h1")).to_have_text(PAGES[address])
    for details in page.locator("details").all():
        details.evaluate("one => one.open = true")
    assert problems(page) == []
    page.emulate_media(color_scheme="dark")
    assert problems(page) == []
    assert [error for error in errors if answer.status == 200 or "404" not in error] == []
    page.set_viewport_size({"width": 375, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_nothing_is_asked_of_another_address(page: Page, demo: BackgroundServer) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for address in PAGES:
        page.goto(f"/dashboard{address}")
    assert len(asked) > 2 * len(PAGES)
    assert [url for url in asked if not url.startswith(f"{demo.url}/dashboard/")] == []


def test_a_new_rollout_appears_by_itself_and_the_focus_stays(page: Page, operator: httpx.Client) -> None:
    page.goto("/dashboard/rollouts")
    listening(page)
    page.keyboard.press("j")
    focused = page.locator("a:focus").get_attribute("href")
    operator.post("/api/rollouts", json={"rollouts": [{"id": "just-queued"}]}).raise_for_status()
    expect(page.get_by_role("link", name="just-queued")).to_be_visible()
    assert page.locator("a:focus").get_attribute("href") == focused


def test_curves_grow_as_steps_are_noted(page: Page, operator: httpx.Client) -> None:
    operator.post("/api/runs", json={"run": {"name": "growing"}}).raise_for_status()
    page.goto("/dashboard/runs/growing")
    expect(page.get_by_text("No step is done yet.")).to_be_visible()
    listening(page)
    for step in (1, 2):
        noted = {"run": "growing", "step": step, "metrics": {"reward": step / 4, "reward_error": 0.1}}
        operator.post("/api/steps", json={"steps": [noted]}).raise_for_status()
        curve = page.get_by_role("img", name=f"Learning curve: train from 0.25 to {step / 4:g}")
        expect(curve).to_be_visible()


def test_queue_and_policy_versions_change_on_the_live_page(page: Page, operator: httpx.Client) -> None:
    page.goto("/dashboard/live")
    listening(page)
    endpoint = {"id": "policy", "url": "http://127.0.0.1:8001/v1", "model": "smollm2", "version": 4711}
    operator.put("/api/endpoints/policy", json=endpoint).raise_for_status()
    expect(page.get_by_role("cell", name="4711")).to_be_visible()
    claimed = {"runner": "runner-new", "limit": 1, "lease_s": 60}
    operator.post("/api/rollouts/claim", json=claimed).raise_for_status()
    expect(page.get_by_role("cell", name="runner-new")).to_be_visible()


def test_keys_move_through_rollouts_and_open_them(page: Page) -> None:
    page.goto("/dashboard/")
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/dashboard/rollouts")
    page.keyboard.press("/")
    expect(page.locator("form.filter select").first).to_be_focused()
    page.goto("/dashboard/rollouts?task=churn")
    rows = page.locator("[data-row] td:first-child a")
    for key, place in (("j", 0), ("j", 1), ("k", 0), ("k", 0), ("j", 1)):
        page.keyboard.press(key)
        expect(rows.nth(place)).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/rollouts/sql-team-2-s8-g1-r4")
    page.keyboard.press("]")
    page.wait_for_url("**/dashboard/rollouts/sql-team-2-s8-g1-r5")
    page.keyboard.press("[")
    page.wait_for_url("**/dashboard/rollouts/sql-team-2-s8-g1-r4")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("l")
    page.wait_for_url("**/dashboard/live")


def test_everything_can_be_reached_by_tab_and_the_first_stop_skips_the_head(page: Page) -> None:
    page.goto("/dashboard/rollouts/sql-team-2-s8-g0-r0")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="next →")).to_be_focused()


def test_tokens_change_their_colours_with_the_switch(page: Page) -> None:
    page.goto("/dashboard/rollouts/sql-team-2-s8-g0-r0")
    unlikely = page.locator("#call-2 .tokens .l5").first

    def colour() -> str:
        return unlikely.evaluate("token => getComputedStyle(token).backgroundColor")

    seen = [colour()]
    page.get_by_label("log probability").check()
    seen.append(colour())
    page.keyboard.press("c")
    expect(page.get_by_label("mask")).to_be_checked()
    seen.append(colour())
    assert len(set(seen)) == 3
    page.reload()
    expect(page.get_by_label("mask")).to_be_checked()  # the choice stays


def test_a_choice_in_the_filter_is_applied_at_once(page: Page) -> None:
    page.goto("/dashboard/rollouts")
    page.get_by_label("Status").select_option("failed")
    page.wait_for_url("**status=failed**")
    expect(page.locator("[data-row]")).to_have_count(3)
    page.get_by_role("link", name="clear").click()
    page.wait_for_url("**/dashboard/rollouts")


def test_runs_are_chosen_and_compared(page: Page) -> None:
    page.goto("/dashboard/")
    page.get_by_label("Compare sql-team-2", exact=True).check()
    page.get_by_label("Compare sql-team", exact=True).check()
    page.get_by_role("button", name="Compare the chosen").click()
    expect(page.get_by_role("row", name="credit.method")).to_contain_text("gigpo")


def test_who_has_no_link_logs_in_with_the_key(browser: Browser, demo: BackgroundServer) -> None:
    context = browser.new_context(base_url=demo.url)
    page = context.new_page()
    page.goto("/dashboard/rollouts")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert problems(page) == []
    page.get_by_label("Operator's key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That is not the operator's key.")
    page.get_by_label("Operator's key").fill(demo.key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    context.close()


def test_pages_work_without_scripts(browser: Browser, demo: BackgroundServer) -> None:
    context = browser.new_context(base_url=demo.url, java_script_enabled=False)
    page = context.new_page()
    page.goto(demo.dashboard)
    page.wait_for_url("**/dashboard/")
    page.goto("/dashboard/rollouts")
    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**status=failed**")
    expect(page.locator("[data-row]")).to_have_count(3)
    context.close()
