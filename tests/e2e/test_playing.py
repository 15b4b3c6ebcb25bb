"""Hearing what was said: words that play, links to a moment, hits played in place, sound that still grows."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.e2e.conftest import HANG_MS, Recorded, SignIn, finals, pick, recorder, start_file, start_microphone
from tests.fakes.tones import Talk

pytestmark = pytest.mark.browser

NEAR_MS = 400
"""An element stands at a moment when it is this close: it may have played for a while before it was asked."""


async def audio(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = await page.evaluate(
        "(({currentTime, paused, src}) => ({ms: currentTime * 1000, paused, src}))(document.querySelector('audio'))"
    )
    return found


async def plays_from(page: Page, ms: float) -> None:
    """The element plays, from `ms` on, and really goes forward."""
    heard = "(ms) => (({paused, currentTime}) => !paused && currentTime * 1000 > ms)(document.querySelector('audio'))"
    await page.wait_for_function(heard, arg=ms)
    first = (await audio(page))["ms"]
    assert ms <= first < ms + NEAR_MS * 4
    await page.wait_for_function(heard, arg=first + 200)


async def test_a_word_is_played_where_it_was_said(
    page: Page, sign_in: SignIn, spoken: Talk, recorded: Recorded
) -> None:
    await sign_in("words")
    await recorded("words", "Lecture")
    word = spoken.sentences[1][1]
    await page.locator(".segment").nth(1).locator(".word").nth(1).click()
    await plays_from(page, word.start_ms - NEAR_MS)
    await page.locator(".segment.heard .word.now").wait_for()
    player = page.get_by_role("region", name="Player")
    await player.get_by_role("button", name="Pause").click()
    await expect(player.get_by_role("button", name="Play")).to_be_visible()

    stands_at = (await audio(page))["ms"]
    await page.keyboard.press("Escape")
    await page.locator("h1").click()
    await page.keyboard.press("ArrowLeft")
    await page.wait_for_function("(ms) => document.querySelector('audio').currentTime * 1000 < ms", arg=stands_at)
    await page.keyboard.press("Space")
    await plays_from(page, max(0, stands_at - 5_000 - NEAR_MS))
    await page.keyboard.press("Space")
    await expect(player.get_by_role("button", name="Play")).to_be_visible()
    await pick(page, "Speed", "1.5×")
    assert await page.evaluate("document.querySelector('audio').playbackRate") == 1.5


async def test_a_link_leads_to_its_moment(page: Page, sign_in: SignIn, spoken: Talk, recorded: Recorded) -> None:
    await sign_in("links")
    await recorded("links", "Lecture")
    third = page.locator(".segment").nth(2)
    await third.hover()
    await third.get_by_role("button", name="Copy a link").click()
    await expect(page.get_by_text("was copied")).to_be_visible()
    link = await page.evaluate("navigator.clipboard.readText()")
    assert "?t=" in link

    other = await page.context.new_page()
    await other.goto(link)
    await expect(other.locator(".segment.target")).to_contain_text(spoken.texts[2])
    player = other.get_by_role("region", name="Player")
    start_s = spoken.sentences[2][0].start_ms // 1000
    await expect(player.get_by_role("slider", name="Position")).to_have_value(str(start_s))
    assert (await audio(other))["src"] == ""  # Nothing is loaded before somebody wants to hear it.
    await player.get_by_role("button", name="Play").click()
    await plays_from(other, spoken.sentences[2][0].start_ms - NEAR_MS)


async def test_a_hit_is_played_without_leaving_the_search(
    page: Page, sign_in: SignIn, spoken: Talk, recorded: Recorded
) -> None:
    await sign_in("in place")
    await recorded("in place", "Lecture")
    await page.get_by_role("link", name="New").click()
    word = spoken.sentences[2][0]
    await page.get_by_role("combobox").fill(word.text)
    hit = page.locator(".hit")
    await expect(hit).to_have_count(1)
    await hit.get_by_role("button", name="Play from").click()
    await plays_from(page, word.start_ms - NEAR_MS)
    await expect(hit.get_by_role("button", name="Pause")).to_be_visible()
    player = page.get_by_role("region", name="Player")
    await expect(player.get_by_role("link", name="Lecture")).to_be_visible()
    assert page.url.endswith("#/")
    await player.get_by_role("button", name="Pause").click()
    await hit.get_by_role("link").click()
    await expect(page.locator(".segment.target")).to_contain_text(spoken.texts[2])
    await expect(player.get_by_role("button", name="Back 5 seconds")).to_be_visible()


async def test_what_is_said_now_is_found_and_played_while_it_grows(
    page: Page, sign_in: SignIn, spoken: Talk, spoken_wav: Path
) -> None:
    await sign_in("growing")
    await start_file(page, spoken_wav, "Lecture")
    last = spoken.sentences[-1][0]
    await page.get_by_role("combobox").fill(last.text)  # Not said yet: it is found when it was.
    await expect(page.get_by_role("status").filter(has_text="Nothing found")).to_be_visible()
    await finals(page).first.wait_for()
    await page.locator(".word").first.click()
    await plays_from(page, max(0, spoken.sentences[0][0].start_ms - NEAR_MS))
    await expect(recorder(page)).to_be_visible()
    await expect(page.get_by_role("button", name="Jump to live")).to_be_visible()
    hit = page.locator(".hit")
    await expect(hit).to_have_count(1, timeout=HANG_MS)
    await hit.get_by_role("button", name="Play from").click()
    await plays_from(page, last.start_ms - NEAR_MS)


async def test_less_data_is_captioned_and_played_too(page: Page, sign_in: SignIn, spoken: Talk) -> None:
    await sign_in("opus")
    await pick(page, "Sound", "Less data")
    await start_microphone(page, "Stand-up")
    await finals(page).nth(1).wait_for(timeout=HANG_MS)
    await page.get_by_role("button", name="Pause").click()
    await expect(recorder(page).get_by_role("status")).to_have_text("Paused")
    await page.get_by_role("button", name="Resume").click()
    await finals(page).nth(2).wait_for(timeout=HANG_MS)
    await page.get_by_role("button", name="Stop").click()
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)
    said = {word for text in spoken.texts for word in text.split()}
    heard = [word for text in await finals(page).all_inner_texts() for word in text.split()]
    assert sum(word in said for word in heard) >= len(heard) * 0.8
    word = page.locator(".segment").nth(1).locator(".word").first
    await word.click()
    await plays_from(page, float(await word.get_attribute("data-ms") or 0) - NEAR_MS)
