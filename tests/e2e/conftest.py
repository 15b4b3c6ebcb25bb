"""A real server, a real Chromium, and a microphone that speaks in tones."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Locator, Page, async_playwright, expect

from tests.fakes.tones import Talk, random_sentences, talk, write_wav
from tests.support.process import ROOT, ServerProcess, running
from tests.support.wire import Talk as Stream
from tests.support.wire import wired

SignIn = Callable[[str], Awaitable[None]]
Recorded = Callable[[str, str], Awaitable[None]]
HANG_MS = 60_000
RATE = 48_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET_BROWSER = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@pytest.fixture(scope="session")
def spoken() -> Talk:
    """What the microphone and the file say."""
    return talk(random_sentences(7, 4, words=(3, 6)), sample_rate=RATE)


@pytest.fixture(scope="session")
def spoken_wav(tmp_path_factory: pytest.TempPathFactory, spoken: Talk) -> Path:
    return write_wav(tmp_path_factory.mktemp("speech") / "speech.wav", spoken.audio, sample_rate=RATE)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    if not (ROOT / "clients/js/app/dist/index.html").is_file():
        pytest.skip("the page is not built: npm ci && npm run build in clients/js")
    with running(tmp_path_factory.mktemp("page") / "data") as started:
        yield started


@pytest.fixture
async def context(spoken_wav: Path) -> AsyncIterator[BrowserContext]:
    """A browser without memory, whose microphone plays `spoken_wav` from its start, over and over."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    arguments = [*QUIET_BROWSER, f"--use-file-for-fake-audio-capture={spoken_wav}"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, headless=True, args=arguments)
        context = await browser.new_context(permissions=["microphone", "clipboard-read", "clipboard-write"])
        context.set_default_timeout(HANG_MS)
        yield context
        await browser.close()


@pytest.fixture
def errors() -> list[str]:
    """What went wrong inside of the page: uncaught errors and violations of the content policy."""
    return []


@pytest.fixture(autouse=True)
def _no_errors_in_the_page(errors: list[str]) -> Iterator[None]:
    yield
    assert errors == []


@pytest.fixture
async def page(context: BrowserContext, errors: list[str]) -> Page:
    page = await context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda told: errors.append(told.text) if "Content Security Policy" in told.text else None)
    return page


@pytest.fixture
def sign_in(server: ServerProcess, page: Page) -> SignIn:
    """Sign in as the owner of a tenant by pasting a token."""

    async def enter(tenant: str) -> None:
        account = await server.account(tenant)
        await page.goto(server.url)
        await page.get_by_label("access token").fill(account.token)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_text("Connected", exact=True).wait_for()

    return enter


@pytest.fixture
def recorded(server: ServerProcess, page: Page, spoken: Talk) -> Recorded:
    """Record what is spoken, for who signed in, and open it. A page streams at the pace of talk, this does not."""

    async def record(tenant: str, title: str) -> None:
        account = await server.account(tenant)
        async with wired(server.url, account.token) as wire:
            live = Stream(wire, spoken.audio.tobytes(), rate=RATE)
            await live.start(title=title)
            await live.send()
            await live.stop()
        await page.goto(f"{server.url}/#/r/{live.recording_id}")
        await page.get_by_role("heading", name=title).wait_for()
        await expect(finals(page)).to_have_text(spoken.texts, timeout=HANG_MS)

    return record


def finals(page: Page) -> Locator:
    """Finished segments, without the times beside them."""
    return page.locator(".segment:not(.running) .said-text")


def recorder(page: Page) -> Locator:
    """The bar of the running recording."""
    return page.get_by_role("region", name="Recording", exact=True)


async def start_file(page: Page, file: Path, title: str) -> None:
    await page.get_by_label("Title").fill(title)
    async with page.expect_file_chooser() as chooser:
        await page.get_by_role("button", name="Stream a file").click()
    await (await chooser.value).set_files(file)
    await page.get_by_role("heading", name=title).wait_for()


async def start_microphone(page: Page, title: str) -> None:
    await page.get_by_label("Title").fill(title)
    await page.get_by_role("button", name="Record", exact=True).click()
    await page.get_by_role("heading", name=title).wait_for()


async def pick(page: Page, label: str, choice: str) -> None:
    """Choose from one of the page's lists."""
    await page.get_by_role("button", name=label).click()
    await page.get_by_role("option", name=choice).click()
