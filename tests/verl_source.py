"""A package's source, looked up by name without running it: for verl_names.py.

What a name means is followed as far as text tells: through packages, imports, base classes, annotations. Beyond that
is UNTOLD, and nothing is claimed of it.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

UNTOLD = object()
# Bases from elsewhere that give a class nothing that is asked for here.
BARE = ("object", "pydantic.BaseModel", "collections.abc.Mapping")


@dataclass(frozen=True)
class Thing:
    """What a name stands for: a module, class, function, or where something is assigned."""

    module: str
    node: ast.AST


@dataclass(frozen=True)
class Signature:
    """positional, named: parameters that can be given so. required: those without a default. extra, extra_named: it
    takes any more of them."""

    positional: tuple[str, ...]
    named: frozenset[str]
    required: frozenset[str]
    extra: bool
    extra_named: bool

    @classmethod
    def of(cls, arguments: ast.arguments, bound: bool) -> "Signature":
        positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
        only = [argument.arg for argument in arguments.kwonlyargs]
        required = positional[: len(positional) - len(arguments.defaults)]
        required += [name for name, default in zip(only, arguments.kw_defaults) if default is None]
        given = set(positional[:1]) if bound else set()
        positional = positional[1:] if bound else positional
        named = {*(argument.arg for argument in arguments.args), *only} - given
        extra, extra_named = arguments.vararg is not None, arguments.kwarg is not None
        return cls(tuple(positional), frozenset(named), frozenset(required) - given, extra, extra_named)


Call = tuple[int | None, tuple[str | None, ...]]


def call_of(node: ast.Call) -> Call:
    """How many positional arguments it gives (None: any number), and which by name (None among them: any more)."""
    any_number = any(isinstance(argument, ast.Starred) for argument in node.args)
    return None if any_number else len(node.args), tuple(keyword.arg for keyword in node.keywords)


class Source:
    """A package.

    Args:
        folder: where it is.
        name: with which every name of it begins.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self._trees: dict[str, ast.Module | None] = {}
        self._of_modules: dict[str, dict[str, ast.AST | str]] = {}

    def find(self, name: str) -> Thing | object | None:
        """UNTOLD where text does not tell; None: there is no such thing."""
        thing = Thing(self.name, self._tree(self.name))
        for part in name.split(".")[1:]:
            thing = self._member(thing, part)
            if thing is None or thing is UNTOLD:
                return thing
        return thing

    def signature(self, name: str) -> Signature | None:
        """None where text does not tell."""
        thing = self.find(name)
        if not isinstance(thing, Thing):
            return None
        if isinstance(thing.node, ast.ClassDef):
            return self._construction(thing)
        if not isinstance(thing.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        owner = self.find(name.rpartition(".")[0])
        static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in thing.node.decorator_list)
        # Without saying so, too, where it is called by the class alone.
        static |= [argument.arg for argument in thing.node.args.args[:1]] not in (["self"], ["cls"])
        return Signature.of(thing.node.args, isinstance(owner, Thing) and _is_class(owner) and not static)

    def abstract(self, name: str) -> set[str]:
        """Methods that a subclass of this class has to have."""
        missing, there = set(), set()
        for place in self._ancestry(self.find(name)):
            if place is UNTOLD:
                continue
            for node in place.node.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in there:
                    there.add(node.name)
                    if any("abstractmethod" in ast.unparse(mark) for mark in node.decorator_list):
                        missing.add(node.name)
        return missing

    def mentions(self, name: str) -> set[str]:
        """Every literal text, name, attribute, parameter and keyword within."""
        thing, found = self.find(name), set()
        if isinstance(thing, Thing):
            for node in ast.walk(thing.node):
                for field in ("value", "id", "attr", "arg"):
                    if isinstance(text := getattr(node, field, None), str):
                        found.add(text)
        return found

    def calls(self, name: str, called: str) -> Iterator[Call]:
        """Of `….called` within."""
        thing = self.find(name)
        for node in ast.walk(thing.node) if isinstance(thing, Thing) else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f".{called}"):
                yield call_of(node)

    def _tree(self, module: str) -> ast.Module | None:
        if module not in self._trees:
            path = self.folder.joinpath(*module.split(".")[1:])
            files = (path / "__init__.py", path.with_suffix(".py"))
            file = next((file for file in files if file.is_file()), None)
            empty = ast.Module([], []) if path.is_dir() else None  # a folder without __init__.py is a package, too
            self._trees[module] = ast.parse(file.read_text("utf-8")) if file else empty
        return self._trees[module]

    def _member(self, thing: Thing, name: str) -> Thing | object | None:
        if isinstance(thing.node, ast.Module):
            return self._in_module(thing.module, name)
        if _is_class(thing):
            for place in self._ancestry(thing):
                if place is UNTOLD:
                    return UNTOLD
                if name in (members := _members(place.node)):
                    return Thing(place.module, members[name])
            return None
        return self._member(kind, name) if isinstance(kind := self._kind(thing), Thing) else UNTOLD

    def _in_module(self, module: str, name: str) -> Thing | object | None:
        names = self._names(module)
        if name in names and names[name] != f"{module}.{name}":  # a package may import from itself
            found = names[name]
            return self._from(found) if isinstance(found, str) else Thing(module, found)
        if (tree := self._tree(f"{module}.{name}")) is not None:
            return Thing(f"{module}.{name}", tree)
        return UNTOLD if "__getattr__" in names else None

    def _from(self, imported: str) -> Thing | object | None:
        return self.find(imported) if imported.split(".")[0] == self.name else UNTOLD

    def _names(self, module: str) -> dict[str, ast.AST | str]:
        """The module's own names; of imported ones, what was imported."""
        if module in self._of_modules:
            return self._of_modules[module]
        names = self._of_modules[module] = {}
        path = self.folder.joinpath(*module.split(".")[1:])
        package = module if path.is_dir() else module.rpartition(".")[0]
        for node in _statements(self._tree(module) or ast.Module([], [])):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    names[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
                base = base if node.level else node.module
                for alias in node.names:
                    if alias.name != "*":
                        names[alias.asname or alias.name] = f"{base}.{alias.name}"
                    elif base.split(".")[0] == self.name:
                        names |= {name: f"{base}.{name}" for name in self._names(base)}
            else:
                names |= _defined(node)
        return names

    def _ancestry(self, thing: Thing) -> Iterator[Thing | object]:
        """The class and its bases; UNTOLD for one outside of the package."""
        yield thing
        for base in thing.node.bases:
            found = self._meant(thing.module, base)
            if isinstance(found, Thing) and _is_class(found):
                yield from self._ancestry(found)
            elif not self._is_bare(thing.module, base):
                yield UNTOLD

    def _is_bare(self, module: str, base: ast.expr) -> bool:
        """One of BARE, or of a module of such."""
        name = ast.unparse(base).split("[")[0]
        head, *rest = name.split(".")
        imported = self._names(module).get(head, head)
        full = ".".join([imported, *rest]) if isinstance(imported, str) else name
        return full in BARE or full.split(".")[0] in ("abc", "enum", "typing")

    def _meant(self, module: str, expression: ast.expr) -> Thing | object | None:
        """By an annotation, a base or the class that is called."""
        if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
            expression = ast.parse(expression.value, mode="eval").body
        if isinstance(expression, ast.Subscript):
            inner = expression.slice if ast.unparse(expression.value).endswith("Optional") else expression.value
            return self._meant(module, inner)
        if isinstance(expression, ast.Name):
            return self._in_module(module, expression.id)
        if isinstance(expression, ast.Attribute):
            owner = self._meant(module, expression.value)
            return self._member(owner, expression.attr) if isinstance(owner, Thing) else UNTOLD
        return UNTOLD

    def _kind(self, thing: Thing) -> Thing | object | None:
        """The class of what is assigned there."""
        node = thing.node
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            return self._meant(thing.module, node.annotation)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            kind = self._meant(thing.module, node.value.func)
            return kind if isinstance(kind, Thing) and _is_class(kind) else UNTOLD
        return UNTOLD

    def _construction(self, thing: Thing) -> Signature | None:
        fields: dict[str, bool] = {}
        for place in self._ancestry(thing):
            if place is UNTOLD:
                return None
            if "__init__" in (members := _members(place.node)) and not fields:
                return Signature.of(members["__init__"].args, bound=True)
            for node in place.node.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    fields.setdefault(node.target.id, node.value is None)
        required = frozenset(name for name, is_required in fields.items() if is_required)
        return Signature(tuple(fields), frozenset(fields), required, extra=False, extra_named=False)


def _is_class(thing: Thing) -> bool:
    return isinstance(thing.node, ast.ClassDef)


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Those that a module or class runs in its own scope, within `if`, `try` and `with` too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.ExceptHandler):
            yield from _statements(node)


def _defined(node: ast.stmt) -> dict[str, ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name: node}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id: node for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


@cache
def _members(node: ast.ClassDef) -> dict[str, ast.AST]:
    """A class's own: what its body defines, and what its methods assign to self. Of the latter an annotated parameter
    where one is assigned."""
    members: dict[str, ast.AST] = {}
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        parameters = {argument.arg: argument for argument in (*method.args.args, *method.args.kwonlyargs)}
        for part in ast.walk(method):
            targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]
            for target in (inner for outer in targets if outer is not None for inner in ast.walk(outer)):
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    value = getattr(part, "value", None)
                    given = parameters.get(value.id) if isinstance(value, ast.Name) else None
                    members.setdefault(target.attr, given or part)
    for statement in _statements(node):
        members |= _defined(statement)
    return members
