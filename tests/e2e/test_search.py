"""Search in a real browser: what it offers while somebody types, what narrows and widens it, and being told later."""

import re
from collections.abc import Iterator

import pytest
from playwright.async_api import Locator, Page, expect

from tests.e2e.conftest import HANG_MS, SignIn, pick
from tests.e2e.test_looks import faults, is_too_wide
from tests.fakes.tones import talk
from tests.support.process import ServerProcess
from tests.support.wire import Talk, wired

pytestmark = pytest.mark.browser

PAGE = 30
"""Hits on a page of the list."""


@pytest.fixture(autouse=True)
def _patient() -> Iterator[None]:
    """Everything here waits for a server that may be busy."""
    expect.set_options(timeout=HANG_MS)
    yield
    expect.set_options(timeout=5_000)


async def say(server: ServerProcess, tenant: str, title: str, *sentences: str) -> None:
    """Somebody else of the tenant records this, and stops."""
    account = await server.account(tenant, "somebody")
    spoken = talk([sentence.split() for sentence in sentences], silence_ms=1_000)
    async with wired(server.url, account.token) as wire:
        live = Talk(wire, spoken.audio.tobytes())
        await live.start(title=title)
        await wire.ok("room:join", {"room": live.room, "after_seq": 0})
        await live.send()
        await live.stop()
        await wire.wait("recording:ended")
        said = [event["text"] for event in wire.named("transcript:final")]
        assert said == list(sentences)


def hits(page: Page) -> Locator:
    return page.get_by_role("list", name="Places", exact=True).locator("> .hit")


async def found(page: Page, *texts: str) -> None:
    """Exactly these places are listed, in any order."""
    await expect(hits(page)).to_have_count(len(texts))
    for text in texts:
        await expect(hits(page).filter(has_text=text)).to_have_count(1)


async def test_a_search_is_completed_narrowed_and_widened(server: ServerProcess, page: Page, sign_in: SignIn) -> None:
    tenant = "search"
    await say(server, tenant, "Budget", "harbour money")
    await say(
        server, tenant, "Council", "good morning all", "the harbour is closed", "who pays for it", "harbour again"
    )
    await sign_in(tenant)
    box = page.get_by_role("combobox")

    # Typing: the places of each keystroke, and above them what the word may become.
    await box.press_sequentially("harb")
    await page.get_by_role("option", name="harbour", exact=True).wait_for()
    await found(page, "the harbour is closed", "harbour again", "harbour money")
    wrong = await faults(page, "suggestions")
    await box.press("ArrowDown")
    await expect(page.get_by_role("option", selected=True)).to_have_text("harbour")
    await box.press("Enter")
    await expect(box).to_have_value("harbour")
    await expect(page.get_by_role("option")).to_have_count(0)
    await expect(box).to_have_attribute("aria-expanded", "false")

    # What was said before and after.
    closed = hits(page).filter(has_text="the harbour is closed")
    await closed.get_by_role("button", name="before and after").click()
    await expect(closed.get_by_role("list", name="Said before")).to_contain_text("good morning all")
    await expect(closed.get_by_role("list", name="Said after")).to_contain_text("who pays for it")
    await expect(closed.get_by_role("list", name="Said after")).to_contain_text("harbour again")

    # The best place of each recording, with the others behind it.
    await page.get_by_role("button", name="One per recording").click()
    await expect(hits(page)).to_have_count(2)
    await expect(page.get_by_text("2 recordings")).to_be_visible()
    await page.get_by_role("button", name="1 more here").click()
    await expect(page.get_by_role("list", name="More places in Council").locator(".hit")).to_have_count(1)
    wrong += await faults(page, "grouped")
    await page.get_by_role("button", name="One per recording").click()

    # Newest first, other filters, and a way out of them.
    await page.get_by_role("button", name="Filters", exact=True).click()
    await pick(page, "Order", "Newest first")
    newest = ["harbour again", "the harbour is closed", "harbour money"]
    await expect(hits(page).locator(".quote")).to_have_text(newest)
    await pick(page, "Time", "Today")
    await expect(hits(page)).to_have_count(3)
    wrong += await faults(page, "filters")
    await pick(page, "Any language", "Finnish")
    await page.get_by_text("with these filters").wait_for()
    await page.get_by_role("button", name="Search everywhere").click()
    await expect(hits(page)).to_have_count(3)
    await page.get_by_role("button", name="Filters", exact=True).click()

    # A word that nobody said: what was looked for as well is told, and can be taken.
    await box.fill("harbuor")
    await page.get_by_text("Also looked for").wait_for()
    await found(page, *newest)
    await page.get_by_role("button", name="harbour", exact=True).click()
    await expect(box).to_have_value("harbour")
    await expect(page.get_by_text("Also looked for")).to_have_count(0)

    # Within the recording on screen; opening a place is told to the server.
    await hits(page).filter(has_text="harbour money").get_by_role("link").click()
    await page.get_by_role("heading", name="Budget").wait_for()
    await page.get_by_role("button", name="In this recording").click()
    await found(page, "harbour money")

    await box.fill("zebra")
    await page.get_by_text("Nothing found for “zebra”").wait_for()
    await page.get_by_role("button", name="Search everywhere").click()
    await page.get_by_text("Try another word").wait_for()

    # What people search, for owners.
    await page.get_by_role("button", name="Account").click()
    await page.get_by_role("menuitem", name="What people search").click()
    dialog = page.get_by_role("dialog", name="What people search")
    row = dialog.get_by_role("region", name="Searched most").get_by_role("row", name=re.compile(r"^harbour \d+ 1$"))
    await expect(row).to_have_count(1)
    await expect(dialog.get_by_role("region", name="Not found").get_by_role("row", name="zebra 1")).to_have_count(1)
    wrong += await faults(page, "what people search")
    await page.keyboard.press("Escape")

    # An empty box offers one's own searches, and forgets them.
    await box.fill("")
    await page.get_by_role("heading", name="Budget").click()
    await box.click()
    await page.get_by_role("option", name="zebra").wait_for()
    wrong += await faults(page, "last searches")
    await page.get_by_role("button", name="Forget my searches").click()
    await expect(page.get_by_role("option")).to_have_count(0)
    assert wrong == []


async def test_more_places_are_there_on_request_also_on_a_phone(
    server: ServerProcess, page: Page, sign_in: SignIn
) -> None:
    count = PAGE + 3
    await page.set_viewport_size({"width": 390, "height": 844})
    await say(server, "pages", "Long talk", *(f"lamp n{at:02}" for at in range(count)))
    await sign_in("pages")
    await page.get_by_role("combobox").fill("lamp")
    await expect(hits(page)).to_have_count(PAGE)
    await expect(page.get_by_text(f"{PAGE}+ places")).to_be_visible()
    await page.get_by_role("button", name="Show more").click()
    await found(page, *(f"lamp n{at:02}" for at in range(count)))
    await expect(page.get_by_role("button", name="Show more")).to_have_count(0)
    await page.get_by_role("button", name="Filters", exact=True).click()
    assert not await is_too_wide(page)

    # From within a recording the search is one press away.
    await hits(page).first.get_by_role("link").click()
    await page.get_by_role("heading", name="Long talk").wait_for()
    await expect(page.get_by_role("combobox")).not_to_be_visible()
    await page.get_by_role("button", name="Search", exact=True).click()
    await expect(page.get_by_role("combobox")).to_be_focused()
    await page.get_by_role("button", name="In this recording").click()
    await hits(page).nth(1).get_by_role("link").click()
    await expect(page.locator(".segment.target")).to_be_visible()


async def test_somebody_is_told_when_it_is_said_also_after_a_reload_and_once(
    server: ServerProcess, page: Page, sign_in: SignIn
) -> None:
    tenant = "alerts"
    bell = page.get_by_role("button", name="Alerts")
    card = page.get_by_role("region", name="Alert: harbour")
    toast = page.get_by_role("region", name="Just said")

    async def told(*texts: str) -> None:
        await bell.click()
        await expect(card.locator(".hit .quote")).to_have_text(list(texts))
        await page.keyboard.press("Escape")
        await expect(card).to_have_count(0)

    await sign_in(tenant)
    await page.get_by_role("combobox").fill("harbour")
    await page.get_by_text("Nothing found").wait_for()
    await page.get_by_role("button", name="Tell me when this is said").click()
    await page.wait_for_function('() => Object.values(localStorage).some((kept) => kept.includes(\'"cursor":"\'))')

    await say(server, tenant, "First", "nothing of it", "the harbour opens")
    await expect(toast).to_contain_text("the harbour opens")
    await expect(toast.get_by_role("button", name="Play from")).to_be_visible()
    wrong = await faults(page, "told")
    await expect(bell).to_have_accessible_name("Alerts: 1 new")
    await bell.click()
    # Screen readers get a button to dismiss a popover from react-aria, which puts it beside the dialog.
    wrong += [fault for fault in await faults(page, "alerts") if "display: contents" not in fault]
    await page.keyboard.press("Escape")
    await told("the harbour opens")
    await expect(bell).to_have_accessible_name("Alerts")

    await page.goto("about:blank")
    await say(server, tenant, "Second", "a harbour closes")
    await page.goto(server.url)
    await expect(bell).to_have_accessible_name("Alerts: 1 new")
    await page.reload()
    await say(server, tenant, "Third", "harbour for sale")
    await expect(bell).to_have_accessible_name("Alerts: 2 new")
    await told("harbour for sale", "a harbour closes", "the harbour opens")

    await bell.click()
    await page.get_by_role("button", name="Remove the alert").click()
    await expect(card).to_have_count(0)
    await page.keyboard.press("Escape")
    assert wrong == []
