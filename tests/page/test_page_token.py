"""Tests of the page when the API requires a token."""

from __future__ import annotations

import subprocess
import sys

from page_samples import Kept, Visit, serving
from playwright.sync_api import expect


def test_the_page_asks_for_a_token(kept: Kept, visit: Visit) -> None:
    """A wrong token is refused; a right one gives access, also to downloads, until it is forgotten."""
    create = [sys.executable, "-m", "sensor", "token", "create", "analyst", "--evidence", str(kept.directory)]
    token = subprocess.run(create, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with serving(kept.directory, kept.rules, "--token-required") as site:
        page = visit(site)
        dialog = page.get_by_role("dialog", name="Token required")
        expect(dialog).to_be_visible()
        dialog.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("refused")
        dialog.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator("#rows tr").first).to_be_visible()
        expect(dialog).to_be_hidden()
        assert token not in page.url
        assert page.evaluate("Object.values(localStorage)") == []
        with page.expect_download():
            page.locator("#export-pcap").click()
        page.reload()
        expect(page.locator("#rows tr").first).to_be_visible()
        page.get_by_role("button", name="Forget token").click()
        expect(dialog).to_be_visible()
