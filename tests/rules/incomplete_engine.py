"""The process that compiles rules, as a program with an engine that misses some of them."""

from __future__ import annotations

import sys

import hyperscan

from sensor.rules.compilation import compiler_process
from sensor.rules.engine import scan
from sensor.rules.regex.render import Renderer
from sensor.rules.regex.tree import Node

_compile = scan._compile


def compile_incompletely(mode: int, trees: list[tuple[int, Node]]) -> hyperscan.Database | None:
    """Compile a database without the expressions that contain "42"."""
    return _compile(mode, [(number, tree) for number, tree in trees if "42" not in Renderer().render(tree)])


if __name__ == "__main__":
    scan._compile = compile_incompletely
    sys.exit(compiler_process.main(*map(int, sys.argv[1:])))
