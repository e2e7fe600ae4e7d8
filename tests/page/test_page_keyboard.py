"""Tests of the page with the keyboard alone."""

from __future__ import annotations

import re

from page_samples import Visit, settled
from playwright.sync_api import Page, expect

FOCUSED = "document.activeElement"


def press(page: Page, *keys: str) -> None:
    """Press keys one after the other."""
    for key in keys:
        page.keyboard.press(key)


def test_search_open_mark_close(site: str, visit: Visit) -> None:
    """Search, open a packet, mark bytes and close it, by keys alone."""
    page = visit(site)
    press(page, "/")
    page.keyboard.type("union%20select")
    press(page, "Enter")
    page.wait_for_url("**text=**")
    settled(page)
    press(page, "Escape")  # clears the field, as in every search field
    press(page, "Escape")
    page.wait_for_url(re.compile(r"^[^?]*(\?(?!.*text=).*)?$"))
    settled(page)
    expect(page.locator("#rows tr:focus")).to_have_count(1)
    press(page, "ArrowDown", "ArrowDown", "Enter")
    expect(page.locator("#packet .octets")).to_be_visible()
    expect(page.locator("#rows tr").nth(2)).to_have_attribute("aria-selected", "true")
    press(page, "ArrowUp")  # with a packet open, the next one opens
    expect(page.locator("#rows tr").nth(1)).to_have_attribute("aria-selected", "true")
    time = page.locator("#rows tr").nth(1).locator("time").inner_text()
    expect(page.locator("#packet h2")).to_contain_text(time)
    expect(page.locator("#packet .octets")).to_be_visible()
    press(page, "Enter", "ArrowDown", "End")
    focused = page.locator(".tree [role=treeitem]:focus")
    expect(focused).to_have_attribute("aria-selected", "true")
    expect(page.locator(".hex .chosen").first).to_be_visible()
    press(page, "Escape")
    expect(page.locator("#packet")).to_be_hidden()
    expect(page.locator("#rows tr").nth(1)).to_be_focused()


def test_layers_fold(site: str, visit: Visit) -> None:
    """Arrow keys fold a layer and move to its fields, as in every tree."""
    page = visit(f"{site}?rule=51001")
    press(page, "t", "Enter")
    expect(page.locator("#packet .octets")).to_be_visible()
    press(page, "Enter")
    layer = page.locator(".layer:focus")
    expect(layer).to_have_attribute("aria-expanded", "true")
    press(page, "ArrowLeft")
    expect(layer).to_have_attribute("aria-expanded", "false")
    press(page, "ArrowDown")
    expect(layer.locator(".head .name")).to_have_text("Ethernet")
    press(page, "ArrowRight")
    expect(page.locator(".field:focus .name")).to_have_text("destination")
    press(page, "ArrowLeft")
    expect(layer.locator(".head .name")).to_have_text("Ethernet")


def test_bytes_field_by_field(site: str, visit: Visit) -> None:
    """In the bytes, arrow keys move from field to field."""
    page = visit(f"{site}?rule=51001")
    press(page, "t", "Enter")
    page.locator("#packet .octets").focus()
    press(page, "Home", "ArrowRight")
    expect(page.locator(".tree [aria-selected=true] .name")).to_have_text("source")
    press(page, "ArrowDown")
    expect(page.locator(".tree [aria-selected=true] .name")).not_to_have_text("source")


def test_a_range_by_keys(site: str, visit: Visit) -> None:
    """Arrow keys move both ends of the range; Enter applies it, Escape cancels it."""
    page = visit(site)
    press(page, "h")
    start = page.get_by_role("slider", name="Start")
    expect(start).to_be_focused()
    before = start.get_attribute("aria-valuenow")
    press(page, "ArrowRight")
    assert start.get_attribute("aria-valuenow") != before
    press(page, "Escape")
    expect(start).to_have_attribute("aria-valuenow", str(before))
    press(page, "PageUp", "Tab", "PageDown")
    end = page.get_by_role("slider", name="End")
    bounds = [slider.get_attribute("aria-valuenow") for slider in (start, end)]
    limits = [end.get_attribute(f"aria-value{limit}") for limit in ("min", "max")]
    assert int(str(limits[0])) < int(str(bounds[0])) < int(str(bounds[1])) < int(str(limits[1]))
    press(page, "Enter")
    page.wait_for_url("**since_us=**")
    assert re.findall(r"_us=(\d+)", page.url) == bounds


def test_help_and_its_switch(site: str, visit: Visit) -> None:
    """`?` shows the keys, and single-key commands can be turned off there."""
    page = visit(site)
    press(page, "?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.get_by_label("Single-key commands").press("Space")
    press(page, "Escape")
    expect(page.locator("#help")).to_be_hidden()
    press(page, "?", "p", "/")
    expect(page.locator("#help")).to_be_hidden()
    expect(page.locator("#live")).to_have_text("Live")
    assert page.evaluate(f"{FOCUSED}.name") != "text"


def test_focus_is_always_visible(site: str, visit: Visit) -> None:
    """Tab reaches every control, and the focus is always visible."""
    page = visit(f"{site}?rule=51001")
    page.locator("#rows tr").first.click()
    expect(page.locator("#packet .octets")).to_be_visible()
    page.locator("#open-help").focus()
    stops = []
    for _ in range(60):
        press(page, "Tab")
        stop = page.evaluate(
            f"""() => {{
                const at = {FOCUSED};
                const style = getComputedStyle(at.matches('.layer') ? at.querySelector('.head') : at);
                return [at.id || at.name || at.textContent.slice(0, 20), style.outlineStyle, at.tagName];
            }}"""
        )
        if stop[2] == "BODY":
            break
        stops.append(stop)
    assert [name for name, outline, _ in stops if outline == "none"] == []
    names = {name for name, _, _ in stops}
    assert {"text", "network", "port", "protocol", "rule", "devid", "from", "to", "export-pcap"} <= names
    assert len(names) > 25
