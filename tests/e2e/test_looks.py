"""The page for everybody: light and dark, a phone, the keyboard alone, and what axe-core finds."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.e2e.conftest import HANG_MS, Recorded, SignIn, finals, recorder
from tests.fakes.tones import Talk
from tests.support.process import ROOT, ServerProcess

pytestmark = pytest.mark.browser

AXE = ROOT / "clients/js/node_modules/axe-core/axe.min.js"
PHONE = {"width": 360, "height": 740}
FOCUSED = "(({ariaLabel, innerText, name}) => ariaLabel || innerText || name || '')(document.activeElement)"


async def faults(page: Page, where: str) -> list[str]:
    """What axe-core has against the page as it stands, one line for each element."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci in clients/js")
    if not await page.evaluate("typeof axe === 'object'"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{where}: {violation['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


async def is_too_wide(page: Page) -> bool:
    too_wide: bool = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return too_wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(
    server: ServerProcess, page: Page, sign_in: SignIn, spoken: Talk, recorded: Recorded, scheme: str
) -> None:
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.goto(server.url)
    await page.get_by_role("button", name="Sign in").wait_for()
    found = await faults(page, "sign-in")
    await sign_in(f"axe {scheme}")
    found += await faults(page, "start")
    await recorded(f"axe {scheme}", "Lecture")
    found += await faults(page, "recording")
    await page.get_by_role("combobox").fill(spoken.sentences[2][0].text)
    await page.locator(".hit").wait_for()
    found += await faults(page, "hits")
    await page.locator("h1").click()
    await page.keyboard.press("?")
    await page.get_by_role("dialog").wait_for()
    found += await faults(page, "shortcuts")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Speed").click()
    await page.get_by_role("listbox").wait_for()
    found += await faults(page, "list")
    assert found == []


async def test_the_dark_colours_are_remembered(page: Page, sign_in: SignIn) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    await page.emulate_media(color_scheme="light")
    await sign_in("dark")
    light = await page.evaluate(ground)
    await page.get_by_role("button", name="Colours").click()
    await page.get_by_role("menuitemradio", name="Dark").click()
    await page.wait_for_function(f"(light) => {ground} !== light", arg=light)
    dark = await page.evaluate(ground)
    await page.reload()
    await page.get_by_text("Connected", exact=True).wait_for()
    assert await page.evaluate(ground) == dark
    await page.get_by_role("button", name="Colours").click()
    await page.get_by_role("menuitemradio", name="As the system").click()
    await page.wait_for_function(f"(light) => {ground} === light", arg=light)
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(ground) == dark


async def test_a_phone_needs_no_scrolling_sideways(page: Page, sign_in: SignIn, spoken: Talk, spoken_wav: Path) -> None:
    await page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    await sign_in("phone")
    assert not await is_too_wide(page)
    await page.get_by_label("Title").fill("A rather long title for a rather narrow screen")
    await page.get_by_role("button", name="Record", exact=True).click()
    await finals(page).first.wait_for()
    assert not await is_too_wide(page)
    await expect(page.get_by_role("button", name="Stop")).to_be_in_viewport()
    await page.get_by_role("button", name="Stop").click()
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)
    await page.get_by_role("link", name="Back to the start").click()
    await page.get_by_role("combobox").fill(spoken.sentences[0][0].text)
    await page.locator(".hit").first.wait_for()
    assert not await is_too_wide(page)


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on what has this name."""
    reached = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(FOCUSED)
        reached.append(focused.strip()[:40])
        if focused.strip().startswith(name):
            return
    raise AssertionError(f"the Tab key does not reach {name!r}, but {reached}")


async def test_the_keyboard_is_enough(server: ServerProcess, page: Page, spoken: Talk) -> None:
    account = await server.account("keyboard")
    await page.goto(server.url)
    await page.get_by_role("button", name="Sign in").wait_for()
    await tab_to(page, "token")
    await page.keyboard.type(account.token)
    await page.keyboard.press("Enter")
    await page.get_by_text("Connected", exact=True).wait_for()

    await page.keyboard.press("r")
    await finals(page).first.wait_for()
    await page.keyboard.press("r")
    question = page.get_by_role("alertdialog", name="Stop the recording?")
    await question.wait_for()
    await page.keyboard.press("Escape")
    await expect(question).to_have_count(0)
    await expect(recorder(page)).to_be_visible()
    await page.keyboard.press("r")
    await question.wait_for()
    await page.keyboard.press("Enter")
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)

    await tab_to(page, "Play from")
    await page.keyboard.press("Enter")
    await page.wait_for_function("() => document.querySelector('audio').currentTime > 0.5")
    await page.keyboard.press("/")
    await expect(page.get_by_role("combobox")).to_be_focused()
    await page.keyboard.type(spoken.sentences[0][0].text)
    await page.locator(".hit").first.wait_for()
    await tab_to(page, "Recording of")
    await page.keyboard.press("Enter")
    await page.locator(".segment.target").wait_for()
