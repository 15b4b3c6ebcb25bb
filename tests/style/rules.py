"""The rules of style as functions over a module's source: text in, offences out.

Policy: a rule names what is forbidden and why; what is right in one place stands in `tests/style/test_source.py` with
its reason, and an exception that is no longer needed is an offence too.

Pure: nothing is imported or run, names are followed through `import ... as ...` only.
"""

import ast
import re
from collections.abc import Callable, Iterator

import msgspec

MODULE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70

CALLS = {
    "asyncio.create_task": "tasks have owners: use a Scope or a TaskGroup",
    "asyncio.ensure_future": "tasks have owners: use a Scope or a TaskGroup",
    "asyncio.get_event_loop": "it may make a loop: use asyncio.get_running_loop()",
    "time.sleep": "it blocks the loop",
    "print": "write to the log, or to the console's output",
    "pprint.pprint": "write to the log, or to the console's output",
    "eval": "no text is run as a program",
    "exec": "no text is run as a program",
    "os.system": "no shell",
    "os.popen": "no shell",
    "datetime.datetime.utcnow": "it has no time zone",
    "datetime.datetime.utcfromtimestamp": "it has no time zone",
}
"""Forbidden calls and what to do instead."""

ENVIRONMENT = frozenset({"os.environ", "os.environb", "os.getenv", "os.getenvb"})
QUEUES = frozenset({f"{m}.{q}" for m in ("asyncio", "queue") for q in ("Queue", "LifoQueue", "PriorityQueue")})
BOUNDARY = re.compile(r"#.*\bthe (message|session|component|process) boundary\b")


class Offence(msgspec.Struct, frozen=True):
    """`rule`: name of the rule; `what`: the offending name, stable while lines move."""

    path: str
    line: int
    rule: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}: {self.why} [{self.rule}]"


class Module:
    """A parsed module with what its names stand for."""

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.lines = source.splitlines()
        self.tree = ast.parse(source, path)
        self.nodes = list(ast.walk(self.tree))
        self.names = dict(_imported(self.nodes))

    def name_of(self, node: ast.expr) -> str:
        """The dotted name that an expression stands for, imports followed; "" when it is no name."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.name_of(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return ""

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield node, self.name_of(node.func)

    def offence(self, node: ast.AST, rule: str, what: str, why: str) -> Offence:
        return Offence(self.path, getattr(node, "lineno", 1), rule, what, why)


Rule = Callable[[Module], Iterator[Offence]]


def _imported(nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def banned_calls(module: Module) -> Iterator[Offence]:
    for node, name in module.calls():
        if name in CALLS:
            yield module.offence(node, "banned_calls", name, CALLS[name])
        if any(word.arg == "shell" and not _is_constant(word.value, False) for word in node.keywords):
            yield module.offence(node, "banned_calls", "shell=", "no shell")


def owned_tasks(module: Module) -> Iterator[Offence]:
    """`create_task` of anything but a TaskGroup."""
    groups = set(_task_groups(module))
    for node, name in module.calls():
        function = node.func
        if not isinstance(function, ast.Attribute) or function.attr != "create_task" or name in CALLS:
            continue
        if ast.unparse(function.value) not in groups:
            yield module.offence(node, "owned_tasks", ast.unparse(function), CALLS["asyncio.create_task"])


def _task_groups(module: Module) -> Iterator[str]:
    """Expressions that hold a TaskGroup: by `async with`, by assignment, by annotation."""
    for node in module.nodes:
        if isinstance(node, ast.withitem) and node.optional_vars is not None:
            target, value = node.optional_vars, node.context_expr
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.arg) and node.annotation is not None:
            target, value = ast.Name(node.arg), node.annotation
        else:
            continue
        inner = (n for n in ast.walk(value) if isinstance(n, ast.expr))
        if any(module.name_of(n) == "asyncio.TaskGroup" for n in inner):
            yield ast.unparse(target)


def time_zones(module: Module) -> Iterator[Offence]:
    for node, name in module.calls():
        wanted = {"datetime.datetime.now": 1, "datetime.datetime.fromtimestamp": 2}.get(name)
        if wanted is not None and len(node.args) < wanted and not any(word.arg == "tz" for word in node.keywords):
            yield module.offence(node, "time_zones", name, "it has no time zone: pass one")


def guessable_numbers(module: Module) -> Iterator[Offence]:
    for node in module.nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if "random" in names or (isinstance(node, ast.ImportFrom) and node.module == "random"):
            yield module.offence(node, "guessable_numbers", "random", "its numbers can be guessed: use secrets")


def broad_excepts(module: Module) -> Iterator[Offence]:
    """A broad except either is one of the four boundaries and says so, or passes everything on with a bare raise."""
    for node in module.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = [k for k in kinds if k is None or module.name_of(k) in ("Exception", "BaseException")]
        if broad and not _passes_on(node) and not BOUNDARY.search(module.lines[node.lineno - 1]):
            what = "except:" if node.type is None else f"except {ast.unparse(node.type)}"
            why = "say in a comment on the line which boundary it is: message, session, component or process"
            yield module.offence(node, "broad_excepts", what, why)


def _passes_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    inside = (n for statement in handler.body for n in ast.walk(statement))
    return isinstance(last, ast.Raise) and last.exc is None and not any(isinstance(n, ast.Return) for n in inside)


def bounded_queues(module: Module) -> Iterator[Offence]:
    for node, name in module.calls():
        size = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "maxsize")]
        if name in QUEUES and (not size or _is_constant(size[0], 0)):
            yield module.offence(node, "bounded_queues", name, "everything has a limit: give it one")
        if name in ("queue.SimpleQueue", "asyncio.SimpleQueue"):
            yield module.offence(node, "bounded_queues", name, "it has no limit")
        length = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "maxlen")]
        if name == "collections.deque" and (not length or _is_constant(length[0], None)):
            yield module.offence(node, "bounded_queues", name, "everything has a limit: give it maxlen")


def environment(module: Module) -> Iterator[Offence]:
    """Reading variables, also through click's `envvar`."""
    why = "variables are read by server/config.py"
    for node in module.nodes:
        if isinstance(node, ast.Attribute | ast.Name) and module.name_of(node) in ENVIRONMENT:
            yield module.offence(node, "environment", module.name_of(node), why)
        elif isinstance(node, ast.keyword) and node.arg == "envvar":
            yield module.offence(node.value, "environment", "envvar", why)


def docstring(module: Module) -> Iterator[Offence]:
    if module.tree.body and ast.get_docstring(module.tree) is None:
        yield module.offence(module.tree, "docstring", "module", "say what it does, its policy, boundary, invariant")


def sizes(module: Module) -> Iterator[Offence]:
    if len(module.lines) > MODULE_LINES_MAX:
        why = f"{len(module.lines)} lines, at most {MODULE_LINES_MAX}"
        yield module.offence(module.tree, "sizes", "module", why)
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield module.offence(node, "sizes", node.name, f"{lines} lines, at most {FUNCTION_LINES_MAX}")


RULES: tuple[Rule, ...] = (
    banned_calls,
    owned_tasks,
    time_zones,
    guessable_numbers,
    broad_excepts,
    bounded_queues,
    environment,
    docstring,
    sizes,
)
"""What holds for the program's own packages."""


def fixed_sleeps(module: Module) -> Iterator[Offence]:
    """Sleeps of a fixed time outside a `while` that polls a condition. For tests: they are slow, and then too short."""
    polled = {n for node in module.nodes if isinstance(node, ast.While) for n in ast.walk(node)}
    for node, name in module.calls():
        if name not in ("asyncio.sleep", "time.sleep", "anyio.sleep") or not node.args or node in polled:
            continue
        time = node.args[0]
        fixed = isinstance(time, ast.Constant) and time.value != 0
        if fixed or module.name_of(time).rpartition(".")[2].isupper():
            why = "wait for a condition instead"
            yield module.offence(node, "fixed_sleeps", f"{name}({ast.unparse(time)})", why)


def check(path: str, source: str, rules: tuple[Rule, ...] = RULES) -> list[Offence]:
    """Every offence of one module, by line."""
    module = Module(path, source)
    return sorted((o for rule in rules for o in rule(module)), key=lambda o: o.line)


def attributes_read(source: str) -> set[str]:
    """Names of attributes that a module reads."""
    return {n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}


def _is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value == value
