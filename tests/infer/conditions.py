"""Breaks every condition that names a case, and shows that its case notices.

  python -m tests.infer.conditions [MODULE...]

A comment `# folder/case: why` names a case of the zoo that needs the statement
around or below it. Each condition in there is made true, false, or loses an
operand; if none of these changes the case's verdicts, the exit status is 1.
"""

import ast
from collections.abc import Iterator
import copy
import functools
import importlib
import pathlib
import re
import sys
import types
from typing import Any

import jax

import optax_gc
from optax_gc._infer import api
from tests.infer.zoo import CASES, SIZES

PACKAGE = pathlib.Path(optax_gc.__file__).parent / '_infer'
# In the order in which they import each other.
ENGINE = (
  *('names', 'dims', 'facts', 'forward', 'terms', 'policy', 'moves'),
  *('products', 'entries', 'backward', 'judge'),
)
_NAME = re.compile(r'\b([a-z]+/[a-z]\w+)')


def named(module: str) -> Iterator[tuple[int, str]]:
  """The lines of comments that name a case, and the case."""
  lines = (PACKAGE / f'{module}.py').read_text().splitlines()
  for number, line in enumerate(lines, 1):
    if '# ' in line:
      for name in _NAME.findall(line.split('# ', 1)[1]):
        if name in CASES:
          yield number, name


def around(tree: ast.Module, line: int) -> list[ast.AST]:
  """The smallest statement that holds a line, or follows it, and its `if`."""
  parents = {
    child: node
    for node in ast.walk(tree)
    for child in ast.iter_child_nodes(node)
  }
  nodes = [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
  leaves = [n for n in nodes if not hasattr(n, 'body')]
  inside = [n for n in leaves if n.lineno <= line <= (n.end_lineno or 0)]
  after = [n for n in nodes if n.lineno > line]
  first = min(inside or after, key=lambda n: n.lineno)
  parent = parents[first]
  return [first, parent] if isinstance(parent, ast.If) else [first]


def broken(statements: list[ast.AST]) -> Iterator[tuple[ast.AST, str, Any]]:
  """The conditions of statements, and what to put in place of their parts."""
  first, *parents = statements
  for node in (*ast.walk(first), *parents):
    if isinstance(node, ast.If | ast.IfExp):
      yield node, 'test', ast.Constant(True)
      yield node, 'test', ast.Constant(False)
    elif isinstance(node, ast.BoolOp):
      for part in node.values:
        yield node, 'values', [v for v in node.values if v is not part] * 2
    elif isinstance(node, ast.comprehension) and node.ifs:
      yield node, 'ifs', []
    elif isinstance(node, ast.Return | ast.Assign) and node.value:
      yield node, 'value', ast.Constant(True)
      yield node, 'value', ast.Constant(False)


@functools.cache
def compiled(name: str) -> types.CodeType:
  """The code of a module as it stands."""
  path = PACKAGE / f'{name.rpartition(".")[2]}.py'
  return compile(path.read_text(), str(path), 'exec')


def engine(module: str, code: types.CodeType) -> types.ModuleType:
  """The engine's last module, with other code for one of its modules."""
  start = ENGINE.index(module)
  names = [f'{PACKAGE.parent.name}._infer.{name}' for name in ENGINE]
  package = sys.modules[f'{PACKAGE.parent.name}._infer']
  kept = {name: importlib.import_module(name) for name in names}
  try:
    for name in names[start:]:
      new = types.ModuleType(name)
      sys.modules[name] = new
      setattr(package, name.rpartition('.')[2], new)
      exec(code if name == names[start] else compiled(name), vars(new))
    return sys.modules[names[-1]]
  finally:
    sys.modules.update(kept)
    for name, old in kept.items():
      setattr(package, name.rpartition('.')[2], old)


@functools.cache
def traced(case: str) -> list[Any]:
  """A case's programs, with what the judge wants to know of their inputs."""
  found = []
  for sizes in SIZES.values():
    built = CASES[case](sizes)
    flat, treedef = jax.tree.flatten((built.params, *built.inputs))
    fn = lambda *x: built.fn(*jax.tree.unflatten(treedef, x))  # noqa: B023, E731
    count = len(jax.tree.leaves(built.params))
    leaves = [i if i < count else None for i in range(len(flat))]
    found.append((jax.make_jaxpr(fn)(*flat), leaves))
  return found


def verdicts(judge: Any, case: str) -> list[str]:
  """What a case's leaves get, or the error."""
  try:
    return [str(judge.read(*program)) for program in traced(case)]
  except Exception as error:  # Broken code may do anything.
    return [type(error).__name__]


def main(modules: list[str]) -> int:
  idle = 0
  for module in modules or ENGINE:
    tree = ast.parse((PACKAGE / f'{module}.py').read_text())
    for line, case in named(module):
      before = verdicts(api._judge, case)
      noticed = tried = 0
      for node, field, value in broken(around(tree, line)):
        kept = copy.copy(getattr(node, field))
        setattr(node, field, value)
        code = compile(ast.fix_missing_locations(tree), module, 'exec')
        setattr(node, field, kept)
        tried += 1
        noticed += verdicts(engine(module, code), case) != before
      idle += not noticed
      mark = 'IDLE' if not noticed else 'ok'
      print(f'{mark:4} {module}:{line} {case}: {noticed} of {tried}')
  return int(idle > 0)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
