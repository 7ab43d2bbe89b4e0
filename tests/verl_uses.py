"""What our source takes from verl, read off without running it: for verl_names.py.

Imports are followed to where the imported is used: attributes, calls, subclasses, modules that are patched once verl
has imported them, and parameters that another file of ours is given an object of verl's for.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from verl_source import Call, call_of

CONFIG = "config"  # in front of a key of verl's config, as config.actor_rollout_ref.actor
SIGNATURE = "__signature__"
MAPPING = ("get", "items", "keys", "pop", "values")  # of a section of the config
BY_TEXT = ("getattr", "hasattr", "setattr", "mock.patch.object")  # take an object and an attribute's name


@dataclass(frozen=True)
class Use:
    """A name of verl's, or a key of its config, and where it is used.

    Attributes:
        call: what it is given.
        parameters: that it must take.
        override: the method of ours in its place.
        implemented: of a class, what our subclass has.
    """

    where: str
    name: str
    call: Call | None = None
    parameters: tuple[str, ...] = ()
    override: ast.arguments | None = None
    implemented: frozenset[str] | None = None


@dataclass
class Uses:
    """Of all files of our packages.

    Args:
        files: by module name.
        stands_for: (module, name or attribute as it is written) to what of verl's it is, where our source does not say.
        sections: (module, function) to the section of verl's config that it is given, where that is not the whole.
    """

    files: dict[str, Path]
    stands_for: dict[tuple[str, str], str]
    sections: dict[tuple[str, str], str]
    found: set[Use] = field(default_factory=set)
    given: dict[tuple[str, int | str], str] = field(default_factory=dict)  # (our function, parameter): verl's name
    classes: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)  # ours: verl's class, members of ours

    def __post_init__(self):
        trees = {module: ast.parse(path.read_text("utf-8")) for module, path in self.files.items()}
        known = None
        while known != (len(self.given), len(self.classes)):  # what one file hands on, another may, too
            known = len(self.given), len(self.classes)
            self.found.clear()
            for module, tree in trees.items():
                _File(self, module, tree).visit(tree)


class _File(ast.NodeVisitor):
    def __init__(self, uses: Uses, module: str, tree: ast.Module):
        self.uses, self.module, self.scope, self.owner = uses, module, module, ""
        self.names: list[dict[str, str | None]] = [{}]
        self.constants: dict[str, ast.expr] = {}
        of_self = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_self(node.value))
        self.called_here = {node.attr for node in of_self}
        for node in ast.walk(tree):  # wherever it stands: a name means one thing in a file
            self.names[0].update(_imported(node))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.names[0][node.name] = f"{module}.{node.name}"

    # What an expression means: a name of verl's or ours with all its dots, or a key of the config

    def meaning(self, node: ast.AST | None) -> str | None:
        if isinstance(node, ast.Name | ast.Attribute) and (
            told := self.uses.stands_for.get((self.module, ast.unparse(node)))
        ):
            return told
        if isinstance(node, ast.Name):
            return next((names[node.id] for names in reversed(self.names) if node.id in names), None)
        if isinstance(node, ast.Attribute):
            owner = self.meaning(node.value)
            if owner in self.uses.classes:
                theirs, own = self.uses.classes[owner]
                return None if node.attr in own else f"{theirs}.{node.attr}"
            return owner and f"{owner}.{node.attr}"
        if isinstance(node, ast.BoolOp):
            return next(filter(None, map(self.meaning, node.values)), None)
        return self._returned(node) if isinstance(node, ast.Call) else None

    def _returned(self, node: ast.Call) -> str | None:
        function, first = ast.unparse(node.func), node.args[0] if node.args else None
        if function == "super":
            return self.uses.classes.get(self.owner, (None,))[0]
        if function == "copy.deepcopy":
            return self.meaning(first)
        if function == "inspect.signature":
            return (meant := self.meaning(first)) and f"{meant}.{SIGNATURE}"
        if function == "importlib.import_module":
            return self._text(first)
        section, _, method = (self.meaning(node.func) or "").rpartition(".")
        if section.split(".")[0] == CONFIG and method == "get":
            return f"{section}.{self._text(first)}"
        return None

    def _text(self, node: ast.expr | None) -> str | None:
        node = self.constants.get(node.id) if isinstance(node, ast.Name) else node
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None

    def use(self, node: ast.AST, name: str | None, **how) -> None:
        if name and name.split(".")[0] in ("verl", CONFIG) and SIGNATURE not in name:
            section, _, last = name.rpartition(".")
            name = section if name.startswith(CONFIG) and last in MAPPING else name
            self.uses.found.add(Use(f"{self.uses.files[self.module]}:{node.lineno}", name, **how))

    # Statements and expressions

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.use(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for meant in _imported(node).values():
            self.use(node, meant)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    self.names[-1][name.id] = self.meaning(value)
                    self.constants[name.id] = value
                else:
                    self.visit(name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        name = f"{self.module}.{node.name}"
        bases = [meant for base in node.bases if (meant := self.meaning(base))]
        theirs = [self.uses.classes.get(base, (base,))[0] for base in bases]
        theirs = [base for base in theirs if base.startswith("verl.")]
        if name in self.uses.classes:  # a mixin: `self` and `super()` are what it is mixed into
            theirs.append(self.uses.classes[name][0])
        if theirs:
            inherited = [self.uses.classes[base][1] for base in bases if base in self.uses.classes]
            self.uses.classes[name] = theirs[0], _own(node).union(*inherited)
            for base in bases:
                if base.startswith(self.module):
                    self.uses.classes.setdefault(base, (theirs[0], frozenset()))
            if node.bases:
                self.use(node, theirs[0], implemented=self.uses.classes[name][1])
        self.names[-1][node.name] = name
        outer = self.owner, self.scope
        self.owner = self.scope = name
        self.generic_visit(node)
        self.owner, self.scope = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        function, arguments = f"{self.scope}.{node.name}", [*node.args.args, *node.args.kwonlyargs]
        in_class = self.scope == self.owner and self.owner in self.uses.classes
        if in_class and not node.name.startswith("__") and node.name not in self.called_here:
            self.use(node, f"{self.uses.classes[self.owner][0]}.{node.name}", override=node.args)
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "when_imported":
                self.uses.given[function, 0] = self._text(mark.args[0])
            self.visit(mark)
        names: dict[str, str | None] = {}
        for index, argument in enumerate(arguments):
            given = self.uses.given.get((function, index)) or self.uses.given.get((function, argument.arg))
            names[argument.arg] = given or self._annotated(argument, node.name)
        if in_class and arguments:
            names[arguments[0].arg] = self.owner
        outer, self.scope = self.scope, function
        self.names.append(names)
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(part)
        self.names.pop()
        self.scope = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def _annotated(self, argument: ast.arg, function: str) -> str | None:
        annotation = argument.annotation
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        if annotation is not None and ast.unparse(annotation) == "DictConfig":
            return ".".join(filter(None, [CONFIG, self.uses.sections.get((self.module, function))]))
        return self.meaning(annotation)

    def visit_Call(self, node: ast.Call) -> None:
        function, texts = ast.unparse(node.func), [self._text(argument) for argument in node.args]
        meant = self.meaning(node.func)
        if function == "when_imported":
            self.use(node, texts[0])
        elif function == "_replace":  # hook/patches.py
            parameters = self.constants.get(node.args[2].id) if isinstance(node.args[2], ast.Name) else node.args[2]
            taken = tuple(sorted(map(self._text, parameters.elts)))
            self.use(node, f"{self.meaning(node.args[0])}.{texts[1]}", parameters=taken)
        elif function in BY_TEXT and len(texts) > 1 and texts[1] and (owner := self.meaning(node.args[0])):
            self.use(node, f"{owner}.{texts[1]}")
        elif isinstance(node.func, ast.Call) and ast.unparse(node.func.func) == "when_imported":
            self.uses.given[self.meaning(node.args[0]), 0] = self._text(node.func.args[0])
        elif meant and meant.startswith("verl."):
            self.use(node, meant, call=call_of(node))
        elif meant:
            self.use(node, self.meaning(node))
            pairs = [*enumerate(node.args), *((keyword.arg, keyword.value) for keyword in node.keywords)]
            for place, argument in pairs:
                if (handed := self.meaning(argument)) and handed.startswith("verl."):
                    self.uses.given[meant, place] = handed
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """`"name" in inspect.signature(of_verl).parameters`"""
        meant, name = self.meaning(node.comparators[0]) or "", self._text(node.left)
        if name and meant.endswith(f".{SIGNATURE}.parameters"):
            self.use(node, meant.removesuffix(f".{SIGNATURE}.parameters"), parameters=(name,))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if meant := self.meaning(node):
            self.use(node, meant)
        else:
            self.generic_visit(node)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _imported(node: ast.AST) -> dict[str, str]:
    """Local names of what is imported of verl and of ours."""
    names = {}
    if isinstance(node, ast.Import):
        names = {alias.asname or "verl": alias.name for alias in node.names if alias.asname or alias.name == "verl"}
    elif isinstance(node, ast.ImportFrom):
        names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: meant for name, meant in names.items() if meant.split(".")[0] in ("verl", "grail_verl")}


def _own(node: ast.ClassDef) -> frozenset[str]:
    """What a class of ours has for itself: its methods, and attributes that it assigns and reads. What it only assigns,
    verl reads."""
    own, stored, loaded = set(), set(), set()
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(part.name)
        elif isinstance(part, ast.Assign | ast.AnnAssign):
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            own |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and _is_self(part.value):
            (stored if isinstance(part.ctx, ast.Store) else loaded).add(part.attr)
    return frozenset(own | stored & loaded)


def modules(*packages: Path) -> Iterator[tuple[str, Path]]:
    """The module name of every file of these packages."""
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
