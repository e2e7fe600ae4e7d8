"""Tests of one packet on the page: bytes, fields, downloads, and markup that stays text."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from page_samples import HOSTILE, Kept, Visit, copy_evidence, hour, serving, settled
from playwright.sync_api import Page, expect

INJECTION = "?rule=51001"


def open_first(page: Page) -> None:
    """Open the first packet of the table."""
    page.locator("#rows tr").first.click()
    expect(page.locator("#packet .octets")).to_be_visible()


def packets(file: Path, *options: str) -> list[str]:
    """Return what tshark prints about a file, one line per packet."""
    command = ["tshark", "-r", str(file), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_the_bytes(kept: Kept, site: str, visit: Visit) -> None:
    """All bytes of the frame are shown; those of the match are marked in hexadecimal and in text."""
    page = visit(site + INJECTION)
    open_first(page)
    match = next(match for match in reversed(kept.matches) if match["rule"] == 51001)
    [frame] = [frame for frame in hour() if frame.time_us == match["time_us"]]
    assert bytes.fromhex("".join(page.locator(".line .hex").all_inner_texts())) == frame.data
    marked = "".join(page.locator(".line .text mark.threat").all_inner_texts())
    assert marked == match["text"]
    assert bytes.fromhex("".join(page.locator(".line .hex mark.threat").all_inner_texts())).decode() == marked


def test_fields_and_bytes_mark_each_other(site: str, visit: Visit) -> None:
    """Pointing at a field highlights its bytes and the other way round; a click keeps the mark."""
    page = visit(site + INJECTION)
    open_first(page)
    port = page.locator(".field", has=page.get_by_text("destination port", exact=True))
    port.hover()
    assert page.locator(".hex .lit").all_inner_texts() == ["00 50 "]
    page.locator(".line .hex span").first.hover()
    assert page.locator(".tree .lit .name").all_inner_texts() == ["destination"]
    page.locator(".line .text span").first.click()
    assert page.locator(".tree [aria-selected=true] .name").all_inner_texts() == ["destination"]
    assert page.locator(".hex .chosen").count() > 0


def test_downloads(kept: Kept, site: str, visit: Visit, tmp_path: Path) -> None:
    """Packet, flow and search download as files that tshark reads, pcapng with rules in comments."""
    page = visit(site + INJECTION)
    open_first(page)
    found = {match["time_us"] for match in kept.matches if match["rule"] == 51001}
    for label, count in [
        ("Download the packet as pcap", 1),
        ("Download the packet as pcapng", 1),
        ("Download its flow as pcap", None),
        ("Download its flow as pcapng", None),
    ]:
        with page.expect_download() as download:
            page.get_by_label(label, exact=True).click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        lines = packets(file)
        assert len(lines) == count if count else len(lines) >= 1
        assert file.suffix == f".{label.rpartition(' ')[2]}"
        if file.suffix == ".pcapng":
            assert "51001" in "".join(packets(file, "-T", "fields", "-e", "frame.comment"))
    with page.expect_download() as download:
        page.locator("#export-pcap").click()
    download.value.save_as(tmp_path / "search.pcap")
    assert len(packets(tmp_path / "search.pcap")) == len(found)


def test_markup_in_evidence_stays_text(site: str, visit: Visit) -> None:
    """Tags in payloads and rules are shown as text, in the table and in the packet."""
    page = visit(f"{site}?rule=59999")
    open_first(page)
    title = page.title()
    assert HOSTILE in page.locator("#rows td.found").first.inner_text()
    assert page.locator("#rows .name").first.inner_text() == "A banner <b>in</b> HTML"
    assert HOSTILE in page.locator(".tree").inner_text()
    assert "<i>value</i>" in page.locator(".tree").inner_text()
    assert page.locator("img, i, body script, svg:not(#bars)").count() == 0
    page.get_by_role("button", name="203.0.113.7").click()
    settled(page)
    assert page.title() == title


def test_content_security_policy(site: str, visit: Visit) -> None:
    """The policy allows scripts, styles and requests of this site only."""
    page = visit(site)
    policy = page.request.get(site).headers["content-security-policy"]
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"


def test_a_link_reopens_the_view(site: str, visit: Visit) -> None:
    """The address contains filters, range, packet and marked field."""
    page = visit(f"{site}?class=threat")
    page.locator("#rows tr").nth(3).click()
    expect(page.locator("#packet .octets")).to_be_visible()
    page.locator(".field", has=page.get_by_text("destination port", exact=True)).click()
    again = visit(page.url)
    expect(again.locator(".tree [aria-selected=true] .name")).to_have_text("destination port")
    for part in ("#packet h2", "#shown", "#rows"):
        assert again.locator(part).inner_text() == page.locator(part).inner_text()
    for part in ("#rows tr[aria-selected=true]", "#classes [aria-pressed=true]"):
        assert again.locator(part).inner_text() == page.locator(part).inner_text()
    assert again.locator(".hex .chosen").all_inner_texts() == page.locator(".hex .chosen").all_inner_texts()


def test_a_copied_link_has_a_fixed_range(site: str, visit: Visit) -> None:
    """A range relative to the current time becomes a fixed one in a link."""
    page = visit(f"{site}?last=24h", permissions=["clipboard-read", "clipboard-write"])
    page.locator("#copy-link").click()
    expect(page.locator("#copy-link")).to_have_text("Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert "since_us=" in link
    assert "until_us=" in link
    assert "last=" not in link


def test_what_is_not_known_is_said(kept: Kept, directory: Path, visit: Visit) -> None:
    """An incomplete item is marked as such; a match without a position marks no bytes."""
    copy_evidence(kept, directory / "evidence")
    for path in (directory / "evidence").glob("*/*.sqlite"):
        with closing(sqlite3.connect(path, isolation_level=None)) as index:
            index.execute("UPDATE evidence SET incomplete = 1")
            index.execute("UPDATE rule SET text = json_set(text, '$.regex', 'absent')")
    with serving(directory / "evidence", kept.rules) as site:
        page = visit(site + INJECTION)
        expect(page.locator("#rows tr .more").last).to_have_text("incomplete")
        open_first(page)
        expect(page.locator("#packet")).to_contain_text("Incomplete: the search was cut for its cost")
        expect(page.locator(".tree .match .value").first).to_contain_text("position unknown")
        page.locator(".tree .match").first.click()
        assert page.locator(".octets mark").count() == 0


def test_the_file_is_gone(kept: Kept, directory: Path, visit: Visit) -> None:
    """If retention has deleted the file, the packet view says so."""
    copy_evidence(kept, directory / "evidence")
    with serving(directory / "evidence", kept.rules) as site:
        page = visit(site)
        for file in (directory / "evidence").glob("*/*.pcap"):
            file.unlink()
        page.locator("#rows tr").first.click()
        expect(page.locator("#packet .refusal")).to_contain_text("gone")
        expect(page.locator("#packet h2")).to_contain_text(page.locator("#rows time").first.inner_text())
        page.get_by_label("Close the packet").click()
        expect(page.locator("#packet")).to_be_hidden()


def test_text_that_turns_other_text_around(kept: Kept, directory: Path, visit: Visit) -> None:
    """Characters that nobody sees are escapes; text from right to left moves nothing around it."""
    copy_evidence(kept, directory / "evidence")
    for path in (directory / "evidence").glob("*/*.sqlite"):
        with closing(sqlite3.connect(path, isolation_level=None)) as index:
            index.execute(
                "UPDATE rule SET text = json_set(text, '$.name', ?, '$.type', ?)",
                ("a\u202eb\x1bאבג", "\u200b"),
            )
    with serving(directory / "evidence", kept.rules) as site:
        page = visit(site + INJECTION)
        name = page.locator("#rows .name").first
        assert name.inner_text() == r"a\u202eb\u001bאבג"
        assert name.evaluate("element => getComputedStyle(element).unicodeBidi") == "isolate"
        open_first(page)
        assert r"a\u202eb\u001b" in page.locator(".tree").inner_text()
        for character in "\u202e\x1b\u200b":
            assert character not in page.content()
