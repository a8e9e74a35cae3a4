"""`python -m tests.measures.sizes [FOLDER]`: print how large files, functions and folders are.

Sizes are a sign for the reader and not a limit: nothing checks them. A file's lines are all of its
lines, and a function's lines those from its `def` to its end, docstring included. A private
function's name begins with one underscore; its uses are counted in its own file.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

SMALL_FILE = 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A Python file, with its path as printed."""

    path: str
    lines: int
    tree: ast.Module

    @property
    def functions(self) -> list[Function]:
        """Return every function and method, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]


def modules_in(folder: Path) -> list[Module]:
    """Return every Python file below the folder, except `__init__.py`."""
    paths = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
    texts = ((path, path.read_text()) for path in paths)
    return [
        Module(str(path.relative_to(folder)), len(text.splitlines()), ast.parse(text))
        for path, text in texts
    ]


def function_lines(function: Function) -> int:
    """Count the lines from `def` to the function's end."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def uses_of_private_functions(module: Module) -> Iterator[int]:
    """Count for each private function how often its file names it, besides the definition."""
    used = Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name | ast.Attribute)
    )
    for function in module.functions:
        if function.name.startswith("_") and not function.name.startswith("__"):
            yield used[function.name]


def only_forwards(module: Module) -> bool:
    """Return whether the file has only a docstring, imports and `__all__`."""
    return all(map(_forwards, module.tree.body))


def report(folder: Path) -> Iterator[str]:
    """Yield the lines to print."""
    modules = modules_in(folder)
    lines = [module.lines for module in modules]
    functions = [function for module in modules for function in module.functions]
    uses = [n for module in modules for n in uses_of_private_functions(module)]
    folders = Counter(str(Path(folder.name, module.path).parent) for module in modules)
    largest, most = folders.most_common(1)[0]
    stems = Counter(Path(module.path).stem for module in modules)
    twice = {
        stem: [module.path for module in modules if Path(module.path).stem == stem]
        for stem, count in sorted(stems.items())
        if count > 1
    }
    forwarding = [module.path for module in modules if only_forwards(module)]

    yield f"files                        {len(modules)}"
    yield f"files of {SMALL_FILE} lines or fewer    {sum(n <= SMALL_FILE for n in lines)}"
    yield f"lines of a file              {_spread(lines)}"
    yield f"functions                    {len(functions)}"
    yield f"lines of a function          {_spread([function_lines(f) for f in functions])}"
    yield f"private functions used once  {uses.count(1)} of {len(uses)}"
    yield f"largest folder               {largest}, {most} files"
    yield f"file stems that stand twice  {len(twice)}"
    yield from (f"  {stem}: {', '.join(paths)}" for stem, paths in twice.items())
    yield f"files that only forward      {len(forwarding)}"
    yield from (f"  {path}" for path in forwarding)


def main(arguments: Sequence[str]) -> None:
    """Print the sizes of a folder, else of server/."""
    folder = Path(arguments[0] if arguments else Path(__file__).parents[2] / "server").resolve()
    print(*report(folder), sep="\n")


def _spread(numbers: Sequence[int]) -> str:
    ordered = sorted(numbers)
    p90 = ordered[len(ordered) * 9 // 10]
    return f"median {median(ordered):.0f}, p90 {p90}, max {ordered[-1]}"


def _forwards(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Expr(value=ast.Constant()):
            return True
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
