"""Find scenarios in a file, a module or a folder; whatever goes wrong in the user's code is told as the user's."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from gradguard.blocks import nearest
from gradguard.errors import INTERRUPTS, UsageError
from gradguard.scenarios import Scenario, ScenarioFunction

__all__ = ["Found", "build_scenario", "find_scenarios", "import_dotted", "project_root", "user_error"]

HERE = str(Path(__file__).parent)
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@dataclass(frozen=True, kw_only=True)
class Found:
    """A scenario that was found.

    ``address`` names it the same from wherever it is run: ``models.py:mlp`` relative to the project's root.
    ``target`` is what ``gradguard report`` takes from here.
    """

    function: ScenarioFunction
    address: str
    target: str


def project_root(start: Path | None = None) -> Path:
    """The nearest folder upwards with a ``pyproject.toml``, else with a ``.git``, else ``start`` itself."""
    here = (start or Path.cwd()).resolve()
    for marker in ("pyproject.toml", ".git"):
        for folder in (here, *here.parents):
            if (folder / marker).exists():
                return folder
    return here


def find_scenarios(target: str, *, root: Path | None = None) -> list[Found]:
    """The scenarios that a target names: ``file.py``, ``file.py:name``, ``pkg.module:name``, ``pkg.module``, a folder.

    Raises:
        UsageError: nothing is there, it does not import (with the user's own error and line), or it holds no scenario.
    """
    root = root or project_root()
    path = Path(target)
    if path.is_dir():
        return _in_folder(path, root)
    head, colon, name = target.rpartition(":")
    file, name = (head, name) if colon and head.endswith(".py") else (target, "")
    if file.endswith(".py"):
        return _in_file(Path(file), name, root)
    return _in_module(target, root)


def build_scenario(found: Found) -> Scenario:
    """Call the scenario's function.

    Raises:
        UsageError: it needs arguments, it raises, or it returns something else.
    """
    missing = [
        p.name
        for p in inspect.signature(found.function.function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if missing:
        raise UsageError(
            f"scenario {found.address} needs {', '.join(missing)}, which only pytest can give (fixtures and parametrize)",
            where=_definition(found.function),
            todo="give every argument a default, or run it with pytest",
        )
    try:
        return found.function()
    except (UsageError, *INTERRUPTS):
        raise
    except Exception as error:
        raise user_error(error, f"scenario {found.address} raised") from error


def user_error(error: BaseException, what: str) -> UsageError:
    """The user's own error with its line, without frames of ours; ``what``: for example ``models.py does not import:``."""
    name = type(error).__name__
    text = str(error).strip() or "(no message)"
    todo = "mend that line, then run again"
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        todo = "use a smaller model or batch in the scenario; nothing of the check itself was kept"
    if isinstance(error, SystemExit):
        text, todo = f"{text} (it ends the process)", "move what runs under `if __name__ == '__main__':`"
    place = _place(error)
    return UsageError(f"{what} {name}: {text}", where=place, todo=todo)


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        return f"{_shown(error.filename)}:{error.lineno}" + (f": {line}" if line else "")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((HERE, "<frozen"))]
    own = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    if not frames:
        return ""
    last = own[-1] if own else frames[-1]
    text = f"{_shown(last.filename)}:{last.lineno}, in {last.name}" + (f": {last.line}" if last.line else "")
    if own and frames[-1] is not own[-1]:
        text += f" (raised in {_shown(frames[-1].filename)}:{frames[-1].lineno})"
    return text


def _shown(filename: str) -> str:
    """A path as short as it stays clear: relative to here, or to the folder of libraries it is in."""
    for base in (str(Path.cwd()), *LIBRARIES):
        if filename.startswith(base + "/"):
            return filename[len(base) + 1 :]
    return filename


def _definition(function: ScenarioFunction) -> str:
    code = function.function.__code__
    return f"{_shown(code.co_filename)}:{code.co_firstlineno}"


def _in_folder(folder: Path, root: Path) -> list[Found]:
    files = sorted(p for p in folder.rglob("*.py") if not any(part.startswith((".", "__pycache__")) for part in p.parts[1:]))
    found = [one for file in files if _mentions_scenario(file) for one in _in_file(file, "", root)]
    if not found:
        raise UsageError(
            f"no scenario in the folder {folder} ({len(files)} Python files looked at)",
            todo="decorate a function that returns a gg.Scenario with @gg.scenario",
        )
    return found


def _mentions_scenario(file: Path) -> bool:
    """Whether a function of the file is decorated with gradguard's ``scenario``, by any name; reading, not importing."""
    text = file.read_bytes()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        # It will not import either; say so where it may have held a scenario.
        return b"gradguard" in text
    names = {"scenario"}
    decorators: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "gradguard":
            names |= {alias.asname for alias in node.names if alias.name == "scenario" and alias.asname}
        elif isinstance(node, ast.FunctionDef):
            decorators += [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any((d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "")) in names for d in decorators)


def _in_file(path: Path, name: str, root: Path) -> list[Found]:
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UsageError(f"there is no file {path}.{nearest(path.name, siblings)}", todo="name a Python file that exists")
    resolved = path.resolve()
    try:
        module = _import_file(resolved)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise user_error(error, f"{path} does not import:") from error
    return _of_module(module, name, _relative(resolved, root), str(path))


def _in_module(target: str, root: Path) -> list[Found]:
    dotted, _, name = target.partition(":")
    if not all(part.isidentifier() for part in dotted.split(".")):
        raise UsageError(
            f"{target!r} is neither a file nor a module",
            todo="give a file (models.py), file.py:name, pkg.module:name, or a folder",
        )
    module = import_dotted(dotted)
    file = getattr(module, "__file__", None)
    inside = file is not None and Path(file).resolve().is_relative_to(root)
    return _of_module(module, name, _relative(Path(file).resolve(), root) if inside and file else dotted, dotted)


def import_dotted(dotted: str) -> ModuleType:
    """A module by its dotted name, looked for from here too.

    Raises:
        UsageError: there is no such module, or it does not import (with the user's own error and line).
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name and (dotted == error.name or dotted.startswith(error.name + ".")):
            raise UsageError(
                f"there is no module {error.name!r}",
                where=f"target {dotted!r}, looked for from {Path.cwd()}",
                todo="run from the project's root, or install the project; a file is given with its ending, models.py",
            ) from error
        raise user_error(error, f"{dotted} does not import:") from error
    except (Exception, SystemExit) as error:
        raise user_error(error, f"{dotted} does not import:") from error


def _of_module(module: ModuleType, name: str, base: str, target: str) -> list[Found]:
    marked = {key: value for key, value in vars(module).items() if isinstance(value, ScenarioFunction)}
    if name:
        # By the scenario's own name as well as by the variable that holds it.
        name = next((key for key, value in marked.items() if value.name == name), name)
        if name not in vars(module):
            raise UsageError(
                f"{target} has no {name!r}.{nearest(name, marked)}", where=f"its scenarios are: {', '.join(marked) or 'none'}"
            )
        value = vars(module)[name]
        if isinstance(value, Scenario):
            value = _constant(value, name)
        if not isinstance(value, ScenarioFunction):
            raise UsageError(
                f"{target}:{name} is a {type(value).__name__}, not a scenario",
                todo="decorate a function that returns a gg.Scenario with @gg.scenario",
            )
        marked = {name: value}
    if not marked:
        raise UsageError(
            f"no scenario in {target}", todo="decorate a function that returns a gg.Scenario with @gg.scenario"
        )
    return [Found(function=f, address=f"{base}:{f.name}", target=f"{target}:{key}") for key, f in _distinct(marked)]


def _distinct(marked: dict[str, ScenarioFunction]) -> Iterable[tuple[str, ScenarioFunction]]:
    """Each function once, in the order of definition, though two names may hold it."""
    seen: set[int] = set()
    for key, function in marked.items():
        if id(function) not in seen:
            seen.add(id(function))
            yield key, function


def _constant(scenario: Scenario, name: str) -> ScenarioFunction:
    def build() -> Scenario:
        return scenario

    return ScenarioFunction(build, name)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _import_file(path: Path) -> ModuleType:
    """Import a file as pytest would: from the folder above its topmost package, under its dotted name."""
    top, parts = path.parent, [path.stem]
    while (top / "__init__.py").is_file():
        parts.insert(0, top.name)
        top = top.parent
    if str(top) not in sys.path:
        sys.path.insert(0, str(top))
    dotted = ".".join(parts)
    loaded = sys.modules.get(dotted)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    if len(parts) > 1:
        return importlib.import_module(dotted)
    # A file called like a module that is loaded already must not replace it.
    name = dotted if loaded is None else f"{dotted}_{abs(hash(str(path)))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
