"""Rules of style that a program can check: unique names, docstrings that stand alone, a short README."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = sorted(
    path for room in ("sensor", "bench", "ansible/dashboards") for path in (ROOT / room).rglob("*.py")
)
PYTHON = [*PRODUCT, *sorted((ROOT / "tests").rglob("*.py")), ROOT / "hatch_build.py"]

NAMED_AFTER_COMMANDS = (ROOT / "sensor" / "cli", ROOT / "sensor" / "bench")
"""In these packages a module has the name of its command: ``cli/read.py`` beside ``read.py``."""
NAMED_AFTER_HEADERS = (ROOT / "sensor" / "decode", ROOT / "sensor" / "dissect")
"""One decodes a batch, the other shows a frame; in both a module has the name of the headers it reads."""

DANGLING = re.compile(r"(Of|That|What|Whether|And|So|Where|Whom)\b")


def name_of(path: Path) -> str:
    """Return a test's identifier: the path in the repository."""
    return str(path.relative_to(ROOT))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every docstring of a file with its line, those of constants and attributes too."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text.strip()


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_docstring_continues_the_line_above_it(path: Path) -> None:
    """Each says by itself what the thing is or does."""
    assert [(line, text) for line, text in docstrings(path) if DANGLING.match(text)] == []


def test_module_names_are_unique() -> None:
    """A file is known by its name, unless its package makes it obvious."""
    paths = defaultdict(set)
    for path in PRODUCT:
        if path.stem.startswith("__") or path.parent in NAMED_AFTER_COMMANDS:
            continue
        package = NAMED_AFTER_HEADERS[0] if path.parent in NAMED_AFTER_HEADERS else path.parent
        paths[path.stem].add(package / path.name)
    assert {stem: sorted(where) for stem, where in paths.items() if len(where) > 1} == {}


def test_class_names_are_unique() -> None:
    """The private ones too."""
    places = defaultdict(list)
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name_of(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_root_of_the_package_is_small() -> None:
    """Modules stand in their rooms."""
    assert len(list((ROOT / "sensor").glob("*.py"))) <= 15


def test_the_readme_is_short() -> None:
    """It is read in three minutes."""
    assert len((ROOT / "README.md").read_text().split()) <= 700
