"""Tests of searching: the table shows what `sensor read` found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_samples import HOUR_US, START_US, Kept, Visit, copy_evidence, hour, keep, serving, settled
from playwright.sync_api import Page, expect

Say = Callable[[dict[str, Any]], bool]


def shown_us(page: Page) -> list[int]:
    """Return the times in the table from the top, after loading all older pages."""
    while page.locator("#older").is_visible():
        count = page.locator("#rows tr").count()
        page.locator("#older").evaluate("button => button.scrollIntoView()")
        page.wait_for_function("count => document.querySelectorAll('#rows tr').length > count", arg=count)
    texts = page.locator("#rows time").evaluate_all("all => all.map(one => one.dateTime)")
    return [micros(text) for text in texts]


def micros(text: str) -> int:
    """Convert RFC 3339 to microseconds; all times are of one morning."""
    hours, minutes, seconds, rest = map(int, re.findall(r"T(\d\d):(\d\d):(\d\d)\.(\d{6})Z", text)[0])
    return START_US + (((hours - 10) * 60 + minutes) * 60 + seconds) * 1_000_000 + rest


def found_us(kept: Kept, say: Say) -> list[int]:
    """Return the times of the items with such a match, newest first."""
    return sorted({match["time_us"] for match in kept.matches if say(match)}, reverse=True)


def test_everything_newest_first(kept: Kept, site: str, visit: Visit) -> None:
    """The whole hour is listed page by page, each item once."""
    assert len(kept.times_us) > 200  # more than two pages
    assert shown_us(visit(site)) == kept.times_us


@pytest.mark.parametrize(
    ("name", "value", "say"),
    [
        ("port", "53", lambda match: 53 in (match["sport"], match["dport"])),
        ("protocol", "UDP", lambda match: match["protocol"] == "UDP"),
        ("network", "203.0.113.7", lambda match: "203.0.113.7" in (match["sip"], match["dip"])),
        ("network", "2001:db8::/32", lambda match: ":" in match["sip"]),
        ("rule", "51001", lambda match: match["rule"] == 51001),
        ("rule", "union sel", lambda match: match["rule"] == 51001),
        ("rule", "remote access", lambda match: match["rule"] == 11001),
        ("text", "union select", lambda match: match["rule"] == 51001),
        ("text", "UNION%20SELECT", lambda match: match["rule"] == 51001),
        ("devid", "3", lambda _: True),
    ],
)
def test_a_filter(kept: Kept, site: str, visit: Visit, name: str, value: str, say: Say) -> None:
    """Each filter shows the matching items and appears in the address."""
    page = visit(site)
    field = page.locator(f"#filters [name={name}]")
    if field.evaluate("field => field.tagName") == "SELECT":
        field.select_option(value)
    else:
        if name == "rule":
            page.wait_for_selector("#rules option", state="attached")
        field.press_sequentially(value)
        assert field.input_value() == value  # it takes as many characters
        field.press("Enter")
    page.wait_for_url(re.compile(f"[?&]{name}="))
    settled(page)
    assert shown_us(page) == found_us(kept, say)


def test_a_class(kept: Kept, site: str, visit: Visit) -> None:
    """A class button filters by class; pressed again, it clears the filter."""
    page = visit(site)
    page.get_by_role("button", name="threat").click()
    page.wait_for_url("**class=threat**")
    settled(page)
    threats = found_us(kept, lambda match: match["class"] == "threat")
    assert shown_us(page) == threats
    assert page.locator("#classes .threat .count").inner_text() == str(len(threats))
    page.get_by_role("button", name="threat").click()
    expect(page.locator("#shown")).to_contain_text(f"of {len(kept.times_us)},")


def test_a_range_by_drag(kept: Kept, site: str, visit: Visit) -> None:
    """Dragging over the timeline limits the table to that range; Back undoes it."""
    page = visit(site)
    box = page.locator("#chart").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=5)
    page.mouse.up()
    page.wait_for_url("**since_us=**until_us=**")
    settled(page)
    bounds = dict(re.findall(r"(since_us|until_us)=(\d+)", page.url))
    since_us, until_us = int(bounds["since_us"]), int(bounds["until_us"])
    length_us = kept.times_us[0] - kept.times_us[-1]
    assert since_us == pytest.approx(kept.times_us[-1] + length_us * 0.25, abs=length_us * 0.01)
    assert until_us == pytest.approx(kept.times_us[-1] + length_us * 0.5, abs=length_us * 0.01)
    assert shown_us(page) == [time_us for time_us in kept.times_us if since_us <= time_us < until_us]
    page.go_back()
    expect(page.locator("#shown")).to_contain_text(f"of {len(kept.times_us)},")


def test_the_bars_add_up(kept: Kept, site: str, visit: Visit) -> None:
    """Each threat among thousands of items has a visible bar."""
    page = visit(f"{site}?rule=51001")
    settled(page)
    assert page.locator("#bars rect.threat").count() == len(
        found_us(kept, lambda match: match["rule"] == 51001)
    )


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("?network=300.1.2.3", "network"),
        ("?port=70000", "port"),
        (f"?since_us={START_US + 9}&until_us={START_US}", "until_us"),
        ("?class=nonsense", "class"),
    ],
)
def test_errors_are_shown(site: str, visit: Visit, address: str, text: str) -> None:
    """An error of the API is shown in place of the evidence."""
    expect(visit(site + address).locator("#state .refusal")).to_contain_text(text)


def test_a_name_of_several_rules(site: str, visit: Visit) -> None:
    """If several rules have the text in their name, the page asks to choose one."""
    page = visit(site)
    page.wait_for_selector("#rules option", state="attached")
    page.locator("#filters [name=rule]").fill("s")
    page.keyboard.press("Enter")
    message = page.locator("#filters [name=rule]").evaluate("field => field.validationMessage")
    assert "choose one" in message
    assert "rule=" not in page.url


def test_nothing_found(kept: Kept, site: str, visit: Visit) -> None:
    """An empty table says why and offers to clear the filters."""
    page = visit(f"{site}?text=nothing-like-it")
    expect(page.locator("#state")).to_contain_text("No evidence matches these filters")
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator("#shown")).to_contain_text(f"of {len(kept.times_us)},")


def test_evidence_arrives(kept: Kept, directory: Path, visit: Visit) -> None:
    """New evidence appears on top without moving the open row; pausing stops it."""
    evidence = directory / "evidence"
    keep(hour(), evidence, kept.rules)
    with serving(evidence, kept.rules) as site:
        page = visit(site)
        first = page.locator("#rows tr").first
        first.click()
        expect(page.locator("#packet .octets")).to_be_visible()
        opened = first.get_attribute("data-key")
        later = [frame._replace(time_us=frame.time_us + HOUR_US) for frame in hour(seed=2)[:40]]
        added = len({match["time_us"] for match in keep(later, evidence, kept.rules)})
        assert added
        expect(page.locator("#rows tr[aria-selected=true]")).to_have_attribute("data-key", str(opened))
        page.wait_for_function(
            "key => [...document.querySelectorAll('#rows tr')].findIndex(row => row.dataset.key === key) > 0",
            arg=opened,
        )
        above = page.locator(f"#rows tr:has(~ tr[data-key='{opened}'])").count()
        assert above == added
        page.get_by_role("button", name="Live").click()
        expect(page.locator("#live")).to_have_text("Paused")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        with page.expect_request("**/api/v1/status"):  # the next status request, after some seconds
            pass
        assert [url for url in asked if "/evidence?" in url] == []


def test_the_index_is_rebuilt(kept: Kept, directory: Path, visit: Visit) -> None:
    """While files are not indexed, the page says so instead of claiming that there is no evidence."""
    copy_evidence(kept, directory / "evidence")
    for database in (directory / "evidence").glob("*/*.sqlite*"):
        database.unlink()
    with serving(directory / "evidence", kept.rules) as site:
        page = visit(site)
        expect(page.locator("#notices")).to_contain_text("The index is being rebuilt")
        expect(page.locator("#notices progress")).to_have_attribute("value", re.compile(r"\d+"))
        expect(page.locator("#state")).to_contain_text("No evidence in the index yet")


def test_the_api_goes_away(kept: Kept, visit: Visit) -> None:
    """If the API stops responding, the table stays and a notice appears."""
    with serving(kept.directory, kept.rules) as site:
        page = visit(site)
    expect(page.locator("#notices .error")).to_contain_text("No connection")
    assert page.locator("#rows tr").count() == 100


def test_no_evidence_yet(kept: Kept, directory: Path, visit: Visit) -> None:
    """An empty directory is not an error."""
    (directory / "evidence").mkdir()
    with serving(directory / "evidence", kept.rules) as site:
        page = visit(site)
        expect(page.locator("#state")).to_contain_text("No evidence yet")
        expect(page.locator("#span")).to_be_empty()
