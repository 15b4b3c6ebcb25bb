"""The web page in a real browser against a real server: what a newcomer does in the first minutes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.e2e.conftest import HANG_MS, SignIn
from tests.fakes.tones import Talk
from tests.support.process import ServerProcess

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def _no_errors_in_the_page(errors: list[str]) -> Iterator[None]:
    yield
    assert errors == []


def finals(page: Page) -> Locator:
    return page.locator(".segment:not(.running) > span")


async def start_file(page: Page, file: Path, title: str) -> None:
    await page.get_by_label("Title").fill(title)
    async with page.expect_file_chooser() as chooser:
        await page.get_by_role("button", name="Stream a file").click()
    await (await chooser.value).set_files(file)
    await page.get_by_role("heading", name=title).wait_for()


async def test_the_printed_link_signs_in_once(server: ServerProcess, page: Page) -> None:
    await page.goto(server.login_url)
    await page.get_by_role("button", name="Record").wait_for()
    assert "login" not in page.url
    await page.reload()
    await page.get_by_text("Connected", exact=True).wait_for()

    await page.get_by_role("button", name="Sign out").click()
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
    await page.get_by_label("Title").fill("Stand-up")
    await page.get_by_role("button", name="Record").click()
    await page.get_by_role("heading", name="Stand-up").wait_for()
    await page.locator(".running").first.wait_for()
    await finals(page).nth(1).wait_for(timeout=HANG_MS)
    await expect(page.get_by_role("region", name="Recording")).to_be_visible()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("region", name="Recording")).to_have_count(0, timeout=HANG_MS)
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
    await expect(page.get_by_role("region", name="Recording")).to_have_count(0, timeout=HANG_MS)

    await page.get_by_role("link", name="New").click()
    word = spoken.sentences[2][0].text
    for typed in range(1, len(word) + 1):
        await page.get_by_role("searchbox").fill(word[:typed])
    hits = page.locator(".hit")
    await expect(hits).to_have_count(1)
    await expect(hits.locator("mark")).to_have_text(word)
    await hits.click()
    await expect(page.locator(".segment.target")).to_contain_text(spoken.texts[2])

    await page.get_by_role("searchbox").press("Escape")
    await page.get_by_role("link", name="Lecture").wait_for()


async def test_nothing_is_lost_when_the_server_dies(
    server: ServerProcess, page: Page, sign_in: SignIn, spoken: Talk, spoken_wav: Path
) -> None:
    await sign_in("crash")
    await start_file(page, spoken_wav, "Lecture")
    await finals(page).nth(1).wait_for()
    server.kill()
    await expect(page.get_by_text("No connection")).to_be_visible()
    server.start()
    await expect(finals(page)).to_have_text(spoken.texts, timeout=HANG_MS)
    await expect(page.get_by_role("region", name="Recording")).to_have_count(0, timeout=HANG_MS)


async def test_a_recording_is_followed_from_another_window(
    server: ServerProcess, page: Page, sign_in: SignIn, spoken: Talk, spoken_wav: Path
) -> None:
    await sign_in("window")
    other = await page.context.new_page()
    await other.goto(server.url)
    await start_file(page, spoken_wav, "Town hall")
    await other.get_by_role("link", name="Town hall").click()
    await expect(finals(other)).to_have_text(spoken.texts, timeout=HANG_MS)
    await expect(other.locator("article").get_by_text("Live", exact=True)).to_have_count(0, timeout=HANG_MS)
