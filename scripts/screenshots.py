"""The pictures of the dashboard in docs/images, from a store that is made up: a browser of this machine takes them.

    python scripts/screenshots.py [FOLDER] [--all]

`--all` takes every page in light, in dark and as wide as a phone, for who works on the pages.
"""

import argparse
import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from leyden.server.serve import BackgroundServer
from leyden.store import SqlStore
from leyden.testing.demo_store import fill_demo, word_tokenizer

PAGES = {
    "runs": "/",
    "run": "/runs/sql-team-2",
    "compare": "/compare?run=sql-team&run=sql-team-2",
    "rollouts": "/rollouts",
    "group": "/groups/sql-team-2-s24-g0",
    "rollout": "/rollouts/sql-team-2-s24-g0-r0",
    "calls": "/rollouts/sql-team-2-s24-g0-r0#colour",
    "live": "/live",
}
DOCS = (("run", "light"), ("rollout", "light"), ("calls", "light"), ("group", "dark"))
SIZES = {"light": (1280, 860), "dark": (1280, 860), "phone": (390, 844)}


async def take(browser: Browser, server: BackgroundServer, name: str, look: str, path: Path, *, whole: bool) -> None:
    """One picture."""
    width, height = SIZES[look]
    scheme = "dark" if look == "dark" else "light"
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = await context.new_page()
    await page.goto(server.dashboard)
    await page.wait_for_url("**/dashboard/")
    await page.goto(f"{server.url}/dashboard{PAGES[name]}")
    if await page.locator("[data-live]:not([data-still])").count():
        await page.wait_for_selector("#live:not([hidden])", state="attached")
    await page.screenshot(path=path, full_page=whole)
    await context.close()


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    arguments.add_argument("--all", action="store_true")
    given = arguments.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no browser: apt-get install chromium, or name one in CHROMIUM")
    wanted = [(name, look) for name in PAGES for look in SIZES] if given.all else DOCS
    with tempfile.TemporaryDirectory() as folder:
        store = SqlStore.open(f"{folder}/store.sqlite")
        await fill_demo(store, tokenizer=f"{folder}/tokenizer.json")
        word_tokenizer(f"{folder}/tokenizer.json")
        await store.close()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            with BackgroundServer(f"{folder}/store.sqlite") as server:
                for name, look in wanted:
                    path = given.folder / (f"dashboard-{name}-{look}.png" if given.all else f"dashboard-{name}.png")
                    await take(browser, server, name, look, path, whole=given.all)
                    print(path)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
