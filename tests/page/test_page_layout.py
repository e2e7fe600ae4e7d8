"""Tests of the layout: desktop and phone, light and dark, accessibility."""

from __future__ import annotations

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_samples import Visit, settled
from playwright.sync_api import Page, expect

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def check(page: Page) -> None:
    """Assert that nothing scrolls sideways and that axe-core finds no violation."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    report = Axe().run(page, options=RULES)
    assert report.violations_count == 0, report.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_fits_and_is_accessible(
    site: str, visit: Visit, width: int, height: int, scheme: Literal["light", "dark"]
) -> None:
    """List, packet, help and error fit the screen and are accessible."""
    page = visit(f"{site}?class=threat", width, height, color_scheme=scheme)
    check(page)
    page.locator("#rows tr").nth(2).click()
    expect(page.locator("#packet .octets")).to_be_visible()
    page.locator(".field").nth(4).click()
    check(page)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    check(page)
    page.goto(f"{site}?port=70000")
    settled(page)
    check(page)


def test_packet_covers_the_page_on_a_phone(site: str, visit: Visit) -> None:
    """The page below cannot be reached; closing the packet returns to its row."""
    page = visit(f"{site}?rule=51001", 390, 844, has_touch=True)
    page.locator("#rows tr").first.tap()
    expect(page.locator("#packet .octets")).to_be_visible()
    assert page.locator("#results").evaluate("element => element.inert")
    box = page.locator("#packet").bounding_box()
    assert box == {"x": 0, "y": 0, "width": 390, "height": 844}
    page.get_by_label("Close the packet").tap()
    expect(page.locator("#rows tr").first).to_be_visible()
    assert not page.locator("#results").evaluate("element => element.inert")


def test_colours_follow_the_system(site: str, visit: Visit) -> None:
    """The page is dark or light as the system is."""
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert max(visit(site, color_scheme="dark").evaluate(ground)) < 64
    assert min(visit(site, color_scheme="light").evaluate(ground)) > 192


def test_reduced_motion(site: str, visit: Visit) -> None:
    """There are no transitions or animations if the user prefers reduced motion."""
    page = visit(site, reduced_motion="reduce")
    moving = """[...document.querySelectorAll('*')].filter(each => {
        const style = getComputedStyle(each);
        return style.transitionDuration !== '0s' || style.animationName !== 'none';
    }).length"""
    assert page.evaluate(moving) == 0
