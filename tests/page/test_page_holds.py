"""Tests of holding and releasing evidence on the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from page_samples import Kept, Visit, copy_evidence, serving
from playwright.sync_api import expect


def sensor(*arguments: str | Path) -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "sensor", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_hold_and_release(kept: Kept, directory: Path, visit: Visit) -> None:
    """With a token of an administrator, the search is held with a reason, shown to all, and released."""
    evidence = directory / "evidence"
    copy_evidence(kept, evidence)
    token = sensor("token", "create", "chief", "--role", "admin", "--evidence", evidence).strip()
    with serving(evidence, kept.rules) as site:
        page = visit(f"{site}?class=threat")
        expect(page.locator("#hold-search")).to_be_hidden()
        page.get_by_role("button", name="Holds").click()
        dialog = page.get_by_role("dialog", name="Holds")
        expect(dialog).to_contain_text("requires a token with the role admin")
        expect(dialog).to_contain_text("Nothing is held")
        ask = page.get_by_role("dialog", name="Token required")
        dialog.get_by_role("button", name="Use a token").click()
        ask.get_by_role("button", name="Cancel").click()
        dialog.get_by_role("button", name="Use a token").click()
        ask.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        ask.get_by_role("button", name="Forget this token").click()
        dialog.get_by_role("button", name="Use a token").click()
        ask.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        form = dialog.get_by_role("form", name="Hold this search")
        expect(form).to_contain_text("class=threat")
        assert Axe().run(page).response["violations"] == []
        form.get_by_label("Reason").fill("case 17 \u202e<b>")
        form.get_by_role("button", name="Hold").click()
        expect(dialog).to_contain_text("case 17 \\u202e<b>")
        expect(dialog).to_contain_text("by token chief")
        assert Axe().run(page).response["violations"] == []
        [held] = map(json.loads, sensor("evidence", "holds", "--evidence", evidence, "--json").splitlines())
        assert held["query"] == "rule_class=threat"
        assert all("threat" in name for name in held["files"])
        other = visit(site)
        other.get_by_role("button", name="1 hold").click()
        expect(other.get_by_role("dialog", name="Holds")).to_contain_text("case 17")
        expect(other.get_by_role("button", name="Release")).to_have_count(0)
        release = dialog.get_by_role("form", name=f"Release {held['hold']}")
        release.get_by_label("Reason").fill("closed")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("Nothing is held")
        dialog.get_by_role("button", name="Close").click()
        expect(page.locator("#open-holds")).to_have_text("Holds")
        assert sensor("evidence", "holds", "--evidence", evidence) == ""
        page.locator("#hold-search").click()
        expect(form).to_be_visible()
