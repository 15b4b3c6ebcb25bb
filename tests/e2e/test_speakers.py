"""Names, voices and corrections in the page: what one does is seen by everybody in the room."""

import re

import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect

from server.store import speakers
from server.store.pool import Database
from streaming.diariser.voices import Speaker
from tests.e2e.conftest import HANG_MS, Recorded, SignIn, finals
from tests.e2e.test_looks import PHONE, faults, is_too_wide
from tests.fakes.tones import Talk
from tests.support.library import vector
from tests.support.process import ServerProcess

pytestmark = pytest.mark.browser


async def diarise(server: ServerProcess, page: Page) -> None:
    """Two people took turns in the recording that is shown, and the first was heard for long enough."""
    recording_id = re.sub(r".*#/r/", "", page.url).partition("?")[0]
    async with server._database_url() as dsn:
        database = Database(dsn)
        await database.open()
        try:
            async with database.shared_tx() as tx:
                tenants = await tx.fetch("SELECT tenant_by_name('people') AS id")
            async with database.tenant_tx(tenants[0]["id"]) as tx:
                await tx.execute(
                    "UPDATE segments SET speaker = 'S' || 2 - ordinal % 2 WHERE recording_id = $1", recording_id
                )
                heard = [Speaker("S1", vector(3, 4), 6_000), Speaker("S2", vector(4, -3), 400)]
                await speakers.upsert(tx, tenants[0]["id"], recording_id, "voices-1", heard)
        finally:
            await database.close()


def labels(page: Page) -> Locator:
    return page.locator("button.speaker")


async def test_what_people_say_about_speakers(
    server: ServerProcess, page: Page, context: BrowserContext, sign_in: SignIn, spoken: Talk, recorded: Recorded
) -> None:
    await sign_in("people")
    await recorded("people", "Two people")
    await diarise(server, page)
    await page.reload()
    await expect(labels(page)).to_have_text(["Speaker 1", "Speaker 2", "Speaker 1", "Speaker 2"])
    other = await context.new_page()
    await other.goto(page.url)
    await expect(labels(other)).to_have_count(4)
    await page.bring_to_front()  # A page behind another is painted once a second, and what it shows is waited for.

    # A name, and the voice
    await labels(page).first.click()
    dialog = page.get_by_role("dialog", name="Who is Speaker 1?")
    await expect(dialog.get_by_label("Name")).to_be_focused()
    await expect(dialog.get_by_text("no audio")).to_be_visible()
    found = await faults(page, "naming")
    await page.keyboard.type("Ada")
    await dialog.get_by_text("Recognise this voice in later recordings").click()
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    for shown in (page, other):
        await expect(labels(shown)).to_have_text(["Ada", "Speaker 2", "Ada", "Speaker 2"])
    await labels(page).nth(1).click()
    await expect(page.get_by_text("Wants 5 s of this voice alone; 0 s were heard.")).to_be_visible()
    await expect(page.get_by_role("switch")).to_be_disabled()
    await page.keyboard.press("Escape")

    # The list of voices
    await page.get_by_role("button", name="Account").click()
    await page.get_by_role("menuitem", name="Voices").click()
    voices = page.get_by_role("dialog", name="Voices")
    await expect(voices.get_by_role("listitem")).to_contain_text(
        ["2 numbers that tell what the voice sounds like. No audio."]
    )
    await expect(voices.get_by_role("listitem")).to_contain_text("by owner")
    found += await faults(page, "voices")
    await voices.get_by_role("button", name="Delete the voice of Ada").click()
    await voices.get_by_role("button", name="Delete for good").click()
    await expect(voices.get_by_text("No voice is stored.")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(labels(page).first).to_have_text("Ada")

    # Two labels that are one person
    await labels(page).nth(1).click()
    dialog = page.get_by_role("dialog", name="Who is Speaker 2?")
    await dialog.get_by_role("button", name="is the same person as").wait_for()
    await dialog.get_by_role("button", name="Merge").click()
    for shown in (page, other):
        await expect(labels(shown)).to_have_text(["Ada"])
    assert found == []


async def test_a_text_is_corrected_in_its_place(
    page: Page, context: BrowserContext, sign_in: SignIn, spoken: Talk, recorded: Recorded
) -> None:
    await sign_in("corrections")
    await recorded("corrections", "Corrected")
    other = await context.new_page()
    await other.goto(page.url)
    await expect(finals(other)).to_have_text(spoken.texts)

    async def begin(shown: Page, number: int = 0) -> Locator:
        await shown.bring_to_front()  # A page behind another is painted once a second.
        await shown.locator(".segment").nth(number).hover()
        await shown.get_by_role("button", name="Correct the text").nth(number).click()
        box = shown.get_by_role("textbox", name="Text of this paragraph")
        await expect(box).to_be_focused()
        return box

    box = await begin(page)
    found = await faults(page, "editing")
    await box.fill("never mind")
    await page.keyboard.press("Escape")
    await expect(finals(page)).to_have_text(spoken.texts)
    await expect(page.get_by_role("button", name="Correct the text").first).to_be_focused()

    await page.keyboard.press("Enter")
    box = page.get_by_role("textbox", name="Text of this paragraph")
    await box.fill("What was really said")
    await page.keyboard.press("Enter")
    for shown in (page, other):
        await expect(finals(shown)).to_have_text(["What was really said", *spoken.texts[1:]])

    # Two at the same paragraph
    box = await begin(page)
    await box.fill("mine")
    await (await begin(other)).fill("theirs")
    await other.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("This was changed meanwhile: “theirs”")
    await page.bring_to_front()
    found += await faults(page, "conflict")
    await box.press("Enter")
    await expect(box).to_have_value("mine")
    await page.get_by_role("button", name="Go on with mine").click()
    await page.get_by_role("button", name="Save", exact=True).click()
    for shown in (page, other):
        await expect(finals(shown)).to_have_text(["mine", *spoken.texts[1:]], timeout=HANG_MS)

    await page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    await begin(page, 1)
    assert not await is_too_wide(page)
    assert found == []
