"""Tests of conversations on the page: what happened around a match, and whether it succeeded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from page_samples import HOSTILE, Kept, Visit, hour, keep, serving
from playwright.sync_api import Page, expect
from test_page_layout import check

from sensor.evidence.conversation import Ending, Missing
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.model import Role
from tests.api.api_samples import open_directory
from tests.evidence.conversation_samples import (
    ACK,
    CLIENT,
    OTHER,
    PSH,
    RULE,
    SERVER,
    STEPS,
    Step,
    conversation,
    note_of,
    number_at,
    segment,
)

START_US = 1_767_607_200_000_000
"""2026-01-05 10:00 UTC."""
LOSSY_US = START_US + 60_000_000
HOSTILE_US = START_US + 120_000_000
HOSTILE_STEPS: Sequence[Step] = [
    *STEPS[:4],
    (
        False,
        PSH | ACK,
        f"HTTP/1.1 200 OK\r\nServer: Apache\r\n\r\n{HOSTILE}\u202e\x00".encode(),
        Role.HIT,
        (1,),
    ),
]
HIT = f"?last=all&rule={RULE.rule_id}&port=40000"
OTHERS = f"?last=all&rule={RULE.rule_id}&port="


def write(directory: Path) -> None:
    """Write three conversations: a complete one, one that lacks packets, and one with a hostile response."""
    parts = [(START_US, STEPS), (LOSSY_US, STEPS), (HOSTILE_US, HOSTILE_STEPS)]
    lossy = note_of(LOSSY_US, sport=40001)._replace(missing=Missing.LOST | Missing.BEGINNING, lost=12)
    with closing(IndexedWriter(directory, 3)) as writer:
        for number, (start_us, steps) in enumerate(parts):
            writer.write(conversation(start_us, steps, sport=40000 + number))
        writer.index.note(note_of(START_US))
        writer.index.note(lossy)


@pytest.fixture(scope="module")
def talks(kept: Kept) -> Iterator[str]:
    """Yield the address of a page over three conversations."""
    with open_directory() as directory:
        write(directory / "evidence")
        with serving(directory / "evidence", kept.rules) as address:
            yield address


def opened(visit: Visit, address: str, **options: Any) -> Page:
    """Open the conversation of the first match."""
    page = visit(address, **options)
    page.locator("#rows tr").first.click()
    expect(page.locator("#packet .texts")).to_be_visible()
    return page


def test_a_match_opens_its_conversation(talks: str, visit: Visit) -> None:
    """Head, packets in order with direction and time between, and request and response side by side."""
    page = opened(visit, talks + HIT)
    head = page.locator("#packet header")
    expect(head.locator("h2")).to_have_text(
        f"Conversation 2026-01-05 10:00:00.000000 TCP {CLIENT}:40000 → {SERVER}:80"
    )
    for text in (
        "Complete, closed by FIN · to the server 4 packets, 266 bytes; to the client 3 packets, 210 bytes",
        "Community ID 1:wh/NJ9XUH/PwR7vPwa0uSSZZw7c=",
        f"threat {RULE.rule_id} {RULE.name}",
        f"service {OTHER.rule_id} {OTHER.name}",
    ):
        expect(head).to_contain_text(text)
    rows = page.locator(".talk-packets tbody tr")
    assert rows.locator(".direction").all_inner_texts() == [
        "→ server" if is_client else "← client" for is_client, *_ in STEPS
    ]
    assert rows.locator(".after").all_inner_texts() == ["", *["+1 ms"] * 6]
    assert rows.locator(".role").all_inner_texts() == [
        "before", "before", "before", f"threat {RULE.rule_id} {RULE.name}",
        f"service {OTHER.rule_id} {OTHER.name}", "after", "after",
    ]  # fmt: skip
    expect(rows.nth(3)).to_have_attribute("aria-selected", "true")
    [request] = page.locator(".request pre").all()
    [response] = page.locator(".response pre").all()
    assert request.inner_text() == "GET /?id=1+union+select HTTP/1.1\nHost: \\x1b[31m\\xff\n\n"
    assert response.inner_text() == "HTTP/1.1 200 OK\nServer: Apache\n\nalice:secret\n"
    assert request.locator("mark.threat").all_inner_texts() == ["union"]
    assert response.locator("mark.service").all_inner_texts() == ["Apache"]
    left, right = request.bounding_box(), response.bounding_box()
    assert left is not None
    assert right is not None
    assert (left["y"], left["x"] + left["width"] <= right["x"]) == (right["y"], True)


def test_bytes_are_one_click_away(talks: str, visit: Visit) -> None:
    """Packets and texts lead to layers and bytes; Back and a button lead to the conversation."""
    page = opened(visit, talks + HIT)
    for at, step in enumerate(STEPS):
        page.locator(".talk-packets tbody tr").nth(at).click()
        expect(page.locator("#packet .octets")).to_be_visible()
        shown = bytes.fromhex("".join(page.locator(".line .hex").all_inner_texts()))
        assert shown == segment(step)
        page.go_back() if at % 2 else page.get_by_role("button", name="Conversation").click()
        expect(page.locator("#packet .texts")).to_be_visible()
    page.locator(".request .passage button").click()
    expect(page.locator(".octets mark.threat").first).to_be_visible()


def test_a_link_reopens_the_conversation(talks: str, visit: Visit) -> None:
    """The address has the packet, and whether its bytes are shown."""
    page = opened(visit, talks + HIT)
    again = visit(page.url)
    expect(again.locator("#packet .texts")).to_be_visible()
    page.locator(".talk-packets tbody tr").first.click()
    expect(page.locator("#packet .octets")).to_be_visible()
    again = visit(page.url)  # a packet that matches no filter of the table
    expect(again.locator("#packet .octets")).to_be_visible()
    again.get_by_role("button", name="Conversation").click()
    expect(again.locator(".talk-packets tr[aria-selected=true] .role")).to_have_text("before")


def test_it_says_what_is_missing(talks: str, visit: Visit) -> None:
    """The reasons are there in words, also if nobody knows them."""
    page = opened(visit, f"{talks}{OTHERS}40001")
    head = page.locator("#packet header")
    expect(head).to_contain_text("Incomplete: closed by FIN; its beginning was not captured, or no longer")
    expect(head).to_contain_text("frames were lost while it ran")
    expect(head).to_contain_text("12 frames of any flow lost meanwhile")
    page = opened(visit, f"{talks}{OTHERS}40002")
    expect(page.locator("#packet header")).to_contain_text("Completeness not known, because the index was")


def test_a_hostile_response_stays_text(talks: str, visit: Visit) -> None:
    """Markup is text, and characters that nobody sees are escapes."""
    page = opened(visit, f"{talks}{OTHERS}40002")
    title = page.title()
    expect(page.locator(".response pre")).to_contain_text(f"{HOSTILE}\\u202e\\x00")
    assert page.locator("#packet :is(img, script, i)").count() == 0
    assert page.title() == title
    assert not set("\u202e\x00") & set(page.content())


def test_conversation_downloads(talks: str, visit: Visit, tmp_path: Path) -> None:
    """Both formats have all packets, pcapng with their roles."""
    page = opened(visit, talks + HIT)
    for container in ("pcap", "pcapng"):
        with page.expect_download() as download:
            page.get_by_label(f"Download the conversation as {container}", exact=True).click()
        file = tmp_path / download.value.suggested_filename
        assert file.name == f"3-conversation-{number_at(START_US)}.{container}"
        download.value.save_as(file)
        command = ["tshark", "-r", file, "-T", "fields", "-e", "frame.comment"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        assert len(lines) == len(STEPS)
        assert ("before in conversation" in lines[0]) == (container == "pcapng")


def test_a_conversation_by_keys(talks: str, visit: Visit) -> None:
    """Open it, go through its packets, look at bytes, return and close, by keys alone."""
    page = visit(talks + HIT)
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    expect(page.locator("#packet .texts")).to_be_visible()
    page.keyboard.press("Enter")  # again: go there
    rows = page.locator(".talk-packets tbody tr")
    expect(rows.nth(3)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(rows.nth(4)).to_be_focused()
    expect(page.locator(".passage.chosen pre")).to_contain_text("alice:secret")
    page.keyboard.press("Tab")  # all packets are one stop; the text is the next, and scrolls
    expect(page.locator(".texts")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Home")
    expect(rows.first).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#packet .octets")).to_be_visible()
    expect(page.locator(".tree [role=treeitem]:focus")).to_have_count(1)
    page.keyboard.press("b")
    expect(rows.nth(5)).to_be_focused()
    page.keyboard.press("b")
    expect(page.locator("#packet .octets")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#packet")).to_be_hidden()
    expect(page.locator("#rows tr").first).to_be_focused()


def test_the_table_says_why_context_is_kept(talks: str, visit: Visit) -> None:
    """A packet that did not match is before or after a match."""
    page = visit(f"{talks}?last=all&port=40000")
    names = page.locator("#rows .name").all_inner_texts()
    assert names == [*["after a match"] * 2, OTHER.name, RULE.name, *["before a match"] * 3]


def test_a_conversation_that_goes_on(kept: Kept, directory: Path, visit: Visit) -> None:
    """One that is still open is loaded again on demand, with the packets that came since."""
    open_note = note_of(START_US)._replace(ended=Ending.OPEN, packets=0)
    with closing(IndexedWriter(directory / "evidence", 3)) as writer:
        whole = conversation(START_US)
        writer.write(whole.part(0, 4))
        writer.index.note(open_note)
        writer.tick(0)
        with serving(directory / "evidence", kept.rules) as site:
            page = opened(visit, site + HIT)
            expect(page.locator("#packet header")).to_contain_text("still open")
            expect(page.locator(".talk-packets tbody tr")).to_have_count(4)
            writer.write(whole.part(4, 7))
            writer.index.note(note_of(START_US))
            writer.tick(0)
            page.get_by_role("button", name="Load again").click()
            expect(page.locator(".talk-packets tbody tr")).to_have_count(7)
            expect(page.locator("#packet header")).to_contain_text("Complete, closed by FIN")
            expect(page.get_by_role("button", name="Load again")).to_have_count(0)


def test_a_capture_file(kept: Kept, directory: Path, visit: Visit) -> None:
    """An attack in a file that `sensor read` has read is shown with the handshake and the answer."""
    keep(hour(), directory / "evidence", kept.rules, context="threat")
    with serving(directory / "evidence", kept.rules) as site:
        page = opened(visit, f"{site}?last=all&rule=51001")
        expect(page.locator("#packet header")).to_contain_text("Complete, closed by FIN")
        rows = page.locator(".talk-packets tbody tr")
        expect(rows.first.locator(".role")).to_have_text("before")
        expect(rows.last.locator(".role")).to_have_text("after")
        expect(page.locator(".request mark.threat")).to_contain_text("union%20select")
        expect(page.locator(".response pre").first).to_contain_text("HTTP/1.1 200 OK")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1900, 1000), (390, 844)])
def test_a_conversation_fits_and_is_accessible(
    talks: str, visit: Visit, width: int, height: int, scheme: Literal["light", "dark"]
) -> None:
    """It fits the screen, and axe-core finds nothing, with and without matches in the text."""
    for port in (40000, 40002):
        page = opened(visit, f"{talks}{OTHERS}{port}", width=width, height=height, color_scheme=scheme)
        check(page)
