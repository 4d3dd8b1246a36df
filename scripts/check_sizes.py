#!/usr/bin/env python3
"""Check the style's size limits in the package: lines of modules and functions, parameters of functions.

A Typer command, the function named like its module in `commands/`, may take any number of parameters.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "videollava_cli"
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 7
FOREIGN_SIGNATURES = ("redirect_request",)  # overrides urllib's own

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> int:
    """Print every violation, then the largest sizes; return 1 if there was one."""
    num_violations = 0
    longest = (0, "")
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE.parent))
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]
        for violation in _violations(path, name, len(text.splitlines()), functions):
            print(violation)
            num_violations += 1
        longest = max([longest, *((_num_body_lines(f), f"{name}: {f.name}") for f in functions)])
    print(f"longest function: {longest[0]} lines ({longest[1]})")
    return 1 if num_violations else 0


def _num_body_lines(function: Function) -> int:  # without the docstring
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _violations(path: Path, name: str, num_lines: int, functions: list[Function]) -> Iterator[str]:
    if num_lines > MAX_MODULE_LINES:
        yield f"{name}: {num_lines} lines, at most {MAX_MODULE_LINES} are allowed"
    for function in functions:
        where = f"{name}:{function.lineno}: {function.name}"
        if (count := _num_body_lines(function)) > MAX_FUNCTION_LINES:
            yield f"{where} has {count} lines, at most {MAX_FUNCTION_LINES} are allowed"
        is_command = "commands" in path.parts and function.name == path.stem
        arguments = function.args
        named = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - {"self", "cls"}
        if len(named) > MAX_PARAMETERS and not is_command and function.name not in FOREIGN_SIGNATURES:
            yield f"{where} has {len(named)} parameters, at most {MAX_PARAMETERS} are allowed"


if __name__ == "__main__":
    sys.exit(main())
