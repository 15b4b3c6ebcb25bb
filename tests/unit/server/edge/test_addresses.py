"""Whose connection it is, whatever is written into X-Forwarded-For."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.edge.addresses import counted_as, networks

PROXIES = networks(["10.0.0.0/8", "fd00::/8"])
LOCAL = networks(["127.0.0.1"])


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1", None, "", "unix:/tmp/x"])
def test_this_very_machine_counts_to_no_address(peer: str | None) -> None:
    assert counted_as(peer, [], ()) is None
    assert counted_as(peer, ["6.6.6.6"], ()) is None


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_peer_counts_by_its_address_and_what_it_claims_is_not_believed(peer: str, counted: str) -> None:
    assert counted_as(peer, [], PROXIES) == counted
    assert counted_as(peer, ["6.6.6.6"], PROXIES) == counted


@pytest.mark.parametrize(
    ("forwarded", "counted"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),  # the left one is the client's own invention
        (["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.2.3.4"], "192.0.2.7"),
        (["6.6.6.6, 10.9.9.9, 192.0.2.7, 10.2.3.4", "10.2.3.5"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["  192.0.2.7  "], "192.0.2.7"),
        (["[2001:db8::1]:443"], "2001:db8::/64"),
        (["[2001:db8::1]"], "2001:db8::/64"),
        (["2001:db8::1"], "2001:db8::/64"),
        (["192.0.2.7, fd00::5"], "192.0.2.7"),
        (["10.2.3.4, 10.2.3.5"], "10.2.3.4"),  # everybody is trusted: the farthest one
        ([], "10.1.1.1"),
        ([""], "10.1.1.1"),
        (["192.0.2.7, unknown"], "10.1.1.1"),  # the proxy answers for what it passed on
        (["192.0.2.7, rubbish, 10.2.3.4"], "10.2.3.4"),
        (["192.0.2.7, 999.1.1.1"], "10.1.1.1"),
        (["127.0.0.1"], "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_is_believed_as_far_as_proxies_go(forwarded: list[str], counted: str) -> None:
    assert counted_as("10.1.1.1", forwarded, PROXIES) == counted


def test_a_proxy_on_this_machine_is_believed_when_it_is_named() -> None:
    assert counted_as("127.0.0.1", ["192.0.2.7"], LOCAL) == "192.0.2.7"
    assert counted_as("::ffff:127.0.0.1", ["192.0.2.7"], LOCAL) == "192.0.2.7"
    assert counted_as("127.0.0.1", [], LOCAL) == "127.0.0.1"


@given(st.lists(st.text(max_size=60), max_size=8))
def test_whatever_is_claimed_there_is_an_address(forwarded: list[str]) -> None:
    assert counted_as("10.1.1.1", forwarded, PROXIES)
    assert counted_as("10.1.1.1", [*forwarded, "192.0.2.7"], PROXIES) == "192.0.2.7"
