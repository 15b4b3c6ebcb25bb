"""A recording in a real browser that loses its server, and what the page says meanwhile."""

import asyncio
import hashlib
import io
import re
import time
import wave
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Page, expect

from tests.e2e.conftest import HANG_MS, SignIn, finals, recorder, start_microphone
from tests.fakes.tones import Talk
from tests.support.process import ServerProcess

pytestmark = pytest.mark.browser

LISTEN = """
  window.taken = [];
  const Real = AudioWorkletNode;
  window.AudioWorkletNode = class extends Real {
    constructor(...given) {
      super(...given);
      this.port.addEventListener("message", ({ data }) => data.pcm && taken.push(new Uint8Array(data.pcm.slice(0))));
    }
  };
"""
"""Keeps what the microphone gave, before any of our code that could lose it."""
DIGEST = """async () => {
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(taken).arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}"""
WAITS = re.compile(r"No connection\. Recording goes on: ([5-9]|\d\d) s of sound wait on this device, nothing is lost\.")


async def words(page: Page) -> list[str]:
    return [word for text in await finals(page).all_inner_texts() for word in text.split()]


async def kept(server: ServerProcess, tenant: str, recording_id: str) -> bytes:
    """The samples that the server has."""
    headers = {"Authorization": f"Bearer {(await server.account(tenant)).token}"}
    url = f"{server.url}/v1/recordings/{recording_id}/media"
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as answer:
        with wave.open(io.BytesIO(await answer.read())) as file:
            return file.readframes(file.getnframes())


async def test_a_server_that_is_killed_while_the_microphone_speaks_costs_no_sample(
    server: ServerProcess, page: Page, sign_in: SignIn
) -> None:
    await page.add_init_script(LISTEN)
    await sign_in("killed")
    await start_microphone(page, "Lecture")
    await finals(page).nth(1).wait_for(timeout=HANG_MS)
    told: list[str] = []
    await page.expose_function("told", lambda state: told.append(state))
    await page.evaluate(
        """() => new MutationObserver(() => told(document.querySelector('.recorder-bar').dataset.state)).observe(
             document.querySelector('.recorder-bar'), {attributes: true})"""
    )
    await asyncio.to_thread(server.kill)
    try:
        standing = recorder(page).get_by_role("status")
        await expect(standing).to_have_text(WAITS, timeout=HANG_MS)

        # The recording is the page's, not the screen's.
        await page.get_by_role("link", name="New").click()
        await expect(page.get_by_role("heading", name="Speak, and read along")).to_be_visible()
        await expect(standing).to_have_text(WAITS)
        assert await leaving_is_asked(page)
        await recorder(page).get_by_role("link", name="Show captions").click()
    finally:
        await asyncio.to_thread(server.start)  # also for the tests after this one
    await expect(page.get_by_role("heading", name="Lecture")).to_be_visible(timeout=HANG_MS)
    await expect(standing).not_to_contain_text("wait on this device", timeout=HANG_MS)
    heard = len(await words(page))
    await page.wait_for_function(
        "(count) => document.querySelectorAll('.segment:not(.running)').length > count",
        arg=await finals(page).count() + 1,
        timeout=HANG_MS,
    )
    await page.get_by_role("button", name="Stop").click()
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)
    assert not await leaving_is_asked(page)
    assert (told[0], told[-1]) == ("reconnecting", "stopping")
    assert {"live", "catching up"} & {*told}

    assert len(await words(page)) > heard
    recording_id = page.url.rpartition("/")[2]
    samples = await kept(server, "killed", recording_id)
    assert hashlib.sha256(samples).hexdigest() == await page.evaluate(DIGEST)


async def leaving_is_asked(page: Page) -> bool:
    """Whether the page would hold somebody back who leaves it now."""
    asked: bool = await page.evaluate(
        "!dispatchEvent(new Event('beforeunload', {cancelable: true}))",
    )
    return asked


async def test_the_session_is_renewed_before_it_ends_and_the_recording_goes_on(
    server: ServerProcess, page: Page, spoken: Talk
) -> None:
    """A token of a few seconds: the page asks /v1/auth/refresh, and the server never closes the socket."""
    account = await server.account("short", ttl_s=8)
    refreshed: list[int] = []
    page.on("response", lambda got: refreshed.append(got.status) if got.url.endswith("/v1/auth/refresh") else None)
    states: list[str] = []

    async def short(route: Any) -> None:
        # The server gives tokens of hours; this page's last as long as its first.
        answer = await route.fetch()
        fresh = await server.account("short", ttl_s=8)
        body = {**await answer.json(), "token": fresh.token, "expires_at": int(time.time()) + 8}
        await route.fulfill(status=200, json=body)

    await page.route("**/v1/auth/refresh", short)
    await page.goto(server.url)
    await page.get_by_label("access token").fill(account.token)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_text("Connected", exact=True).wait_for()
    await page.expose_function("told", lambda state: states.append(state))
    await page.evaluate(
        """() => new MutationObserver(() => told(document.querySelector('.connection').dataset.state)).observe(
             document.querySelector('.connection'), {attributes: true})"""
    )
    await start_microphone(page, "Long talk")
    signed_in = len(refreshed)
    while len(refreshed) < signed_in + 3:  # More than one life of a token.
        await page.wait_for_event("response", lambda got: got.url.endswith("/v1/auth/refresh"), timeout=HANG_MS)
    await page.get_by_role("button", name="Stop").click()
    await expect(recorder(page)).to_have_count(0, timeout=HANG_MS)
    assert set(refreshed) == {200}
    assert states == []
    assert {*await words(page)} <= {word for text in spoken.texts for word in text.split()}
