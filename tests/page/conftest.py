"""Fixtures: Chromium, and a running API over evidence of `sensor read`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from page_samples import Kept, Visit, hour, keep, serving, settled, write_rules
from playwright.sync_api import Browser, Page, sync_playwright

from tests.api.api_samples import open_directory

CHROMIUM = "/usr/bin/chromium"
SWITCHES = [
    "--no-sandbox",  # Chromium has no sandbox when run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def kept(few_rules: Path) -> Iterator[Kept]:
    """Yield the evidence of an hour of traffic."""
    with open_directory() as directory:
        write_rules(few_rules, directory / "rules")
        matches = keep(hour(), directory / "evidence", directory / "rules")
        yield Kept(directory / "evidence", directory / "rules", matches)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory for the evidence of one test."""
    with open_directory() as path:
        yield path


@pytest.fixture(scope="session")
def site(kept: Kept) -> Iterator[str]:
    """Yield the address of a page over shared evidence, which no test changes."""
    with serving(kept.directory, kept.rules) as address:
        yield address


@pytest.fixture(scope="module")  # its event loop would disturb other tests
def browser() -> Iterator[Browser]:
    """Yield a running Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Yield a function that opens an address; the test fails on script errors and policy violations."""
    faults: list[str] = []
    with ExitStack() as contexts:

        def open_page(address: str, width: int = 1280, height: int = 800, **options: Any) -> Page:
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            contexts.callback(context.close)
            context.set_default_timeout(10_000)
            page = context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda message: note(message.type, message.text))
            page.goto(address)
            settled(page)
            return page

        def note(kind: str, text: str) -> None:
            if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
                faults.append(text)

        yield open_page
    assert faults == []
