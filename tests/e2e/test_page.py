"""The web page in a real browser against a real server: what a newcomer does in the first minutes."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.e2e.conftest import HANG_MS, SignIn, finals, pick, recorder, start_file, start_microphone
from tests.fakes.tones import Talk
from tests.support.process import ServerProcess

pytestmark = pytest.mark.browser


async def test_the_printed_link_signs_in_once(server: ServerProcess, page: Page) -> None:
    await page.goto(server.login_url)
    await page.get_by_role("button", name="Record", exact=True).wait_for()
    assert "login" not in page.url
    await page.reload()
    await page.get_by_text("Connected", exact=True).wait_for()

    await page.get_by_role("button", name="Account").click()
    await page.get_by_role("menuitem", name="Sign out").click()
    await page.get_by_role("heading", name="Sign in").wait_for()
    await page.goto("about:blank")
    await page.goto(server.login_url)
    explanation = page.get_by_role("alert")
    await expect(explanation).to_contain_text("no longer works")
    await expect(explanation).to_contain_text("Restart the server")
    assert "login" not in page.url


async def test_a_wrong_token_is_explained(server: ServerProcess, page: Page) -> None:
    await page.goto(server.url)
    await page.get_by_label("access token").fill("nonsense")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("not accepted")


async def test_the_microphone_is_captioned_while_it_is_heard(page: Page, sign_in: SignIn, spoken: Talk) -> None:
    await sign_in("microphone")
    await start_microphone(page, "Stand-up")
    await page.locator(".running").first.wait_for()
    await finals(page).nth(1).wait_for(timeout=HANG_MS)
    await expect(recorder(page)).to_be_visible()
    await page.get_by_role("button", name="Stop").click()
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)
    await expect(page.locator(".running")).to_have_count(0)
    heard = await finals(page).all_inner_texts()
    said = {word for text in spoken.texts for word in text.split()}
    assert {word for text in heard for word in text.split()} <= said
    assert any(text in spoken.texts for text in heard)
    await expect(page.locator("article").get_by_text("Live", exact=True)).to_have_count(0)


async def test_a_file_is_captioned_whole_and_found(page: Page, sign_in: SignIn, spoken: Talk, spoken_wav: Path) -> None:
    await sign_in("file")
    await start_file(page, spoken_wav, "Lecture")
    await expect(finals(page)).to_have_text(spoken.texts, timeout=HANG_MS)
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)

    await page.get_by_role("link", name="New").click()
    word = spoken.sentences[2][0].text
    for typed in range(1, len(word) + 1):
        await page.get_by_role("combobox").fill(word[:typed])
    hits = page.locator(".hit")
    await expect(hits.locator("mark")).to_have_text([word])  # its first letter marks other words too, for a moment
    await expect(hits).to_have_count(1)
    await hits.get_by_role("link").click()
    await expect(page.locator(".segment.target")).to_contain_text(spoken.texts[2])

    await page.get_by_role("combobox").press("Escape")
    await page.get_by_role("link", name="Lecture").wait_for()


@pytest.mark.soak
async def test_nothing_is_lost_when_the_server_dies(
    server: ServerProcess, page: Page, sign_in: SignIn, spoken: Talk, spoken_wav: Path
) -> None:
    """Of a file. Of the microphone, sample for sample: `test_resume.py`."""
    await sign_in("crash")
    await start_file(page, spoken_wav, "Lecture")
    await finals(page).nth(1).wait_for()
    server.kill()
    await expect(page.get_by_text("wait on this device, nothing is lost")).to_be_visible()
    server.start()
    await expect(finals(page)).to_have_text(spoken.texts, timeout=HANG_MS)
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)


async def test_a_recording_is_followed_from_another_window(
    server: ServerProcess, page: Page, sign_in: SignIn, spoken: Talk, spoken_wav: Path
) -> None:
    await sign_in("window")
    other = await page.context.new_page()
    await other.goto(server.url)
    await page.bring_to_front()  # A page behind another is painted once a second.
    await start_file(page, spoken_wav, "Town hall")
    await other.bring_to_front()
    await other.get_by_role("link", name="Town hall").click()
    await expect(finals(other)).to_have_text(spoken.texts, timeout=HANG_MS)
    await expect(other.locator("article").get_by_text("Live", exact=True)).to_have_count(0, timeout=HANG_MS)


async def test_a_pause_stops_the_clock_and_a_resume_goes_on(page: Page, sign_in: SignIn) -> None:
    await sign_in("pause")
    await start_microphone(page, "Interview")
    await page.locator(".running").first.wait_for()
    await page.get_by_role("button", name="Pause").click()
    await expect(recorder(page).get_by_role("status")).to_have_text("Paused")
    stands_at = await recorder(page).get_by_label("Recorded time").inner_text()
    told = await finals(page).count()
    await expect(page.locator(".running")).to_have_count(0, timeout=HANG_MS)  # Its words are finished in the pause.
    await expect(recorder(page).get_by_label("Recorded time")).to_have_text(stands_at)
    await page.get_by_role("button", name="Resume").click()
    await finals(page).nth(told + 1).wait_for(timeout=HANG_MS)
    await expect(recorder(page).get_by_label("Recorded time")).not_to_have_text(stands_at)
    await page.get_by_role("button", name="Stop").click()
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)


async def test_another_microphone_is_taken_without_a_new_recording(page: Page, sign_in: SignIn) -> None:
    # A microphone cannot be pulled out of a test: its track is told that it ended.
    await page.add_init_script(
        """const ask = MediaDevices.prototype.getUserMedia;
        MediaDevices.prototype.getUserMedia = async function (wanted) {
          return (window.heard = await ask.call(this, wanted));
        };"""
    )
    await sign_in("devices")
    await start_microphone(page, "Workshop")
    await finals(page).first.wait_for()
    await page.evaluate("heard.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    told = page.get_by_role("alert").filter(has_text="microphone was disconnected")
    await expect(told).to_be_visible()
    stands_at = await recorder(page).get_by_label("Recorded time").inner_text()
    await expect(page.locator(".running")).to_have_count(0, timeout=HANG_MS)
    await expect(recorder(page).get_by_label("Recorded time")).to_have_text(stands_at)

    before = await finals(page).count()
    await pick(page, "Microphone", "Fake Audio Input 2")
    await expect(told).to_have_count(0)
    await finals(page).nth(before + 1).wait_for(timeout=HANG_MS)
    await expect(recorder(page).get_by_role("button", name="Microphone")).to_contain_text("Fake Audio Input 2")
    await page.get_by_role("button", name="Stop").click()
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)
    await expect(page.get_by_role("navigation", name="Recordings").get_by_role("listitem")).to_have_count(1)


async def test_a_microphone_that_is_not_allowed_is_explained(page: Page, sign_in: SignIn) -> None:
    await page.add_init_script(
        """MediaDevices.prototype.getUserMedia = () => Promise.reject(new DOMException("no", "NotAllowedError"));"""
    )
    await sign_in("denied")
    await page.get_by_role("button", name="Record", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("allow the microphone, and try again")
    await expect(page.get_by_role("button", name="Record", exact=True)).to_be_enabled()
