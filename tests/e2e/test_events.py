"""A page's own EventSource, opened with a ticket: the browser resumes by itself."""

import pytest
from playwright.async_api import Page

from tests.fakes.tones import random_sentences, talk
from tests.support.process import ServerProcess
from tests.support.wire import Talk, wired

pytestmark = pytest.mark.browser

FOLLOW = """async ([token, room]) => {
  const path = `/v1/events?room=${room}`;
  const answer = await fetch("/v1/tickets", {
    method: "POST", headers: { Authorization: `Bearer ${token}` }, body: JSON.stringify({ path }),
  });
  const { ticket } = await answer.json();
  const url = new URL(path, location.href);
  url.searchParams.set("ticket", ticket);
  url.searchParams.set("after_seq", "0");
  return await new Promise((resolve, reject) => {
    const source = new EventSource(url), seen = [];
    const take = (event) => seen.push([event.lastEventId, event.type, JSON.parse(event.data)]);
    source.onerror = () => source.readyState === EventSource.CLOSED && reject(new Error("refused"));
    source.addEventListener("transcript:final", take);
    source.addEventListener("recording:ended", (event) => { take(event); source.close(); resolve(seen); });
  });
}"""


async def test_an_event_source_with_a_ticket_gets_every_event(page: Page, server: ServerProcess) -> None:
    alice = await server.account("e2e-events")
    async with wired(server.url, alice.token) as wire:
        live = Talk(wire, talk(random_sentences(80, 3), silence_ms=700).audio.tobytes())
        await live.start()
        await live.send()
        await live.stop()
        log = await live.log()
    await page.goto(server.url)
    seen = await page.evaluate(FOLLOW, [alice.token, live.room])
    assert seen == [[str(event["seq"]), event["event"], event] for event in log]
