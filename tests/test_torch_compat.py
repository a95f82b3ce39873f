"""Private names of torch are used in ``clrfast/_torch_compat.py`` only, and every one of them exists."""

from __future__ import annotations

import ast
import functools
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import clrfast
from clrfast import _torch_compat

PACKAGE = Path(clrfast.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_torch_compat.py")

PRIVATE_PROTOCOLS = {"__dlpack_c_exchange_api__"}
"""Dunder names of torch that are no part of Python's data model and in none of torch's documents."""

DEFINED_FOR_TORCH = {"_step_supports_amp_scaling"}
"""Private names that torch looks for on objects of others."""


def is_private(name: str) -> bool:
    return (name.startswith("_") and not name.startswith("__")) or name in PRIVATE_PROTOCOLS


@functools.cache
def private_attributes() -> frozenset[str]:
    """Private attributes of torch's tensors, modules, optimizers, scalers, streams and graphs."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    objects = [nn.Linear(1, 1), optimizer, torch.Tensor, torch.amp.GradScaler, torch.cuda.Stream, torch.cuda.CUDAGraph]
    found = {name for one in objects for name in dir(one) if is_private(name)}
    source = inspect.getsource(torch.amp.GradScaler)  # only an enabled scaler has all, which takes a CUDA device
    found |= {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return frozenset(name for name in found if is_private(name)) - DEFINED_FOR_TORCH


def torch_names(tree: ast.AST) -> set[str]:
    """The names by which a module knows torch, its modules and what is in them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(one.asname or one.name).split(".")[0] for one in node.names if one.name.split(".")[0] == "torch"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch" and not node.level:
            found |= {one.asname or one.name for one in node.names}
    return found


def own_names(tree: ast.AST) -> set[str]:
    """The attributes that the classes of a module define for themselves."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            body = [*node.body, *ast.walk(node)]
            found |= {one.name for one in body if isinstance(one, ast.FunctionDef)}
            found |= {
                one.attr
                for one in body
                if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and is_self(one.value)
            }
    return found


@functools.cache
def own_to_package() -> frozenset[str]:
    return frozenset().union(*(own_names(ast.parse(path.read_text())) for path in MODULES))


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def private_names(source: str, own_elsewhere: frozenset[str] = frozenset()) -> list[str]:
    """The private names of torch that a module uses.

    A name is private if it begins with one underscore or is in PRIVATE_PROTOCOLS, and it is torch's if it is
    - a part of an imported module's name, or imported from torch;
    - a part of an attribute chain that begins with something imported from torch, as in ``torch.autograd._name``;
    - in ``private_attributes()``, as an attribute of any object or as a string; not one that the module's own classes
      define, nor one of ``self`` in ``own_elsewhere``, which the package's other classes define.
    """
    tree = ast.parse(source)
    roots, own, found = torch_names(tree), own_names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [one.name for one in node.names]
            names = [f"{node.module}.{one}" for one in names] if isinstance(node, ast.ImportFrom) else names
            at_top = not getattr(node, "level", 0)
            found += [
                name
                for name in names
                if at_top and name.split(".")[0] == "torch" and any(map(is_private, name.split(".")))
            ]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            defined = is_self(node.value) and node.attr in own | own_elsewhere
            if (isinstance(root, ast.Name) and root.id in roots) or (node.attr in private_attributes() and not defined):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and node.value in private_attributes() - own:
            found.append(repr(node.value))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_uses_no_private_name_of_torch(path):
    assert private_names(path.read_text(), own_to_package()) == [], "reach it through clrfast/_torch_compat.py"


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch._C",
        "import torch; torch.autograd._profiler_enabled()",
        "import torch.distributed as dist; dist._functional_collectives",
        "from torch import nn; nn.modules.batchnorm._NormBase",
        "from torch.utils import _pytree",
        "from torch.utils._pytree import tree_map",
        "import torch._dynamo",
        "module._parameters.values()",
        "scaler._found_inf_per_device(optimizer)",
        "self._buffers",
        "getattr(module, '_modules')",
        pytest.param(
            "getattr(tensor, '__dlpack_c_exchange_api__')",
            marks=pytest.mark.skipif(
                not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="torch has it from 2.11 on"
            ),
        ),
    ],
)
def test_the_search_finds_a_private_name(line):
    assert len(private_names(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.nn.Linear.__init__",
        "from .torch import _own",
        "from ._parameters import Parameter",
        "class A:\n    def __init__(self): self._buffers = {}\n    def f(self): return self._buffers",
        "self._private_name_of_ours",
    ],
)
def test_the_search_leaves_other_names_alone(line):
    assert private_names(line) == []


def test_the_names_are_exported_and_each_is_used():
    sources = "\n".join(path.read_text() for path in MODULES)
    assert [name for name in _torch_compat.__all__ if not hasattr(_torch_compat, name) or name not in sources] == []
