"""The project obeys its own rules.

Each rule is a function from one file's text to a list of offences, run over the whole project; a second test feeds
each rule a piece of text that breaks it, so that a rule that has gone blind is seen.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flame_triton as ft

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flame_triton"

MAX_LINES = 550
TORCH_IMPORTERS = {"flame_triton/runtime/buffers.py"}
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

# Folders in which people of different machines keep their files. System folders such as /usr and /etc are not private.
MACHINE_PATH = re.compile(r"(?<![\w.:/<}])/(?:home|root|Users|work|tmp|mnt|media|scratch)/[\w.-]+|\b[A-Z]:\\\\?Users\b")
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?")

Rule = Callable[[str, str], list[str]]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[Path]:
    """Every file of the project that people read: sources, documents and build files."""
    suffixes = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".cfg", ".sh", ".html", ".svg", ""}
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in suffixes and path.name != ".git":
            yield path
    for folder in ("flame_triton", "tests", "bench", "docs", "examples", ".ci", ".github"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of each absolute import, `import_module("x")` and `__import__("x")` included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, alias.name.split(".")[0]
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module.split(".")[0]
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module.split(".")[0]


# -- the rules: (path relative to the root, text) -> offences ---------------------------------------------------------


def torch_imports(path: str, text: str) -> list[str]:
    if path in TORCH_IMPORTERS:
        return []
    return [
        f"{path}:{line}: imports torch; only {', '.join(sorted(TORCH_IMPORTERS))} may (torch holds bytes, no more)"
        for line, module in imported_modules(ast.parse(text))
        if module == "torch"
    ]


def long_files(path: str, text: str) -> list[str]:
    lines = text.count("\n")
    return [f"{path}: {lines} lines, at most {MAX_LINES}: find the missing concept"] if lines > MAX_LINES else []


def unsafe_code(path: str, text: str) -> list[str]:
    """Nothing is unpickled and no text is run: files that come from elsewhere are data."""
    tree = ast.parse(text)
    offences = [
        f"{path}:{line}: imports {module}, which can run code from a file; use safetensors, JSON or .npy"
        for line, module in imported_modules(tree)
        if module in UNPICKLERS
    ]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                offences.append(f"{path}:{node.lineno}: calls {name}(); parse, or write a module to the cache folder")
            case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                offences.append(f"{path}:{node.lineno}: uses torch.load, which unpickles; use safetensors")
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                offences.append(f"{path}:{node.lineno}: allow_pickle=True unpickles; store plain arrays")
    return offences


def machine_paths(path: str, text: str) -> list[str]:
    return [
        f"{path}:{number}: the path {found.group()!r} belongs to one machine; use a relative path, "
        "tempfile or platformdirs"
        for number, line in enumerate(text.splitlines(), 1)
        for found in MACHINE_PATH.finditer(line)
    ]


def package_sources(path: str, text: str) -> list[str]:
    """Where packages come from is the user's own pip configuration."""
    return [
        f"{path}:{number}: names where packages come from; leave that to pip's configuration"
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(r"--(extra-)?index-url|--find-links|--trusted-host|://", line)
    ]


PACKAGE_FILES = python_files("flame_triton")
INSTALLERS = [ROOT / name for name in ("Makefile", "requirements-cpu.txt", ".ci/run")]

RULES: list[tuple[Rule, list[Path]]] = [
    (torch_imports, PACKAGE_FILES),
    (unsafe_code, PACKAGE_FILES),
    (long_files, python_files("flame_triton", "tests", "bench")),
    (machine_paths, sorted(text_files())),
    (package_sources, INSTALLERS),
]

BROKEN: list[tuple[Rule, str]] = [
    (torch_imports, "import torch"),
    (torch_imports, "def f():\n    from torch.nn import functional"),
    (torch_imports, "import numpy, torch.distributed as dist"),
    (torch_imports, "importlib.import_module('torch.cuda')"),
    (torch_imports, "__import__('torch')"),
    (unsafe_code, "import pickle"),
    (unsafe_code, "from joblib import load"),
    (unsafe_code, "torch.load(path)"),
    (unsafe_code, "y = eval(text)"),
    (unsafe_code, "exec(source, scope)"),
    (unsafe_code, "np.load(path, allow_pickle=True)"),
    (long_files, "x = 1\n" * (MAX_LINES + 1)),
    (machine_paths, "see " + "/home" + "/someone/project"),
    (machine_paths, 'path = "' + "/tmp" + '/cache"'),
    (machine_paths, "C:\\" + "Users\\someone"),
    (package_sources, "pip install --" + "index-url somewhere torch"),
    (package_sources, "pip install https" + "://example.org/a.whl"),
]

FINE: list[tuple[Rule, str]] = [
    (torch_imports, "from .torch_like import x\nimport torchvision_free\n"),
    (unsafe_code, "model.eval()\nft.evaluate(y)\nspec.loader.exec_module(m)\nnp.load(p, allow_pickle=False)\n"),
    (long_files, "x = 1\n" * MAX_LINES),
    (machine_paths, "https://example.org/home/page, tests/tmp/file, /usr/local/cuda/bin/ptxas, a/home/b"),
    (package_sources, "pip install -r requirements-cpu.txt"),
]


@pytest.mark.parametrize(("rule", "files"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_project_keeps_rule(rule: Rule, files: list[Path]) -> None:
    assert files, f"{rule.__name__} looked at no file at all"
    offences = [offence for path in files for offence in rule(relative(path), path.read_text(encoding="utf-8"))]
    assert not offences, "\n" + "\n".join(offences)


@pytest.mark.parametrize(("rule", "text"), BROKEN)
def test_rule_sees_an_offence(rule: Rule, text: str) -> None:
    assert len(rule("flame_triton/made_up.py", text)) == 1, f"{rule.__name__} no longer sees {text[:60]!r}"


@pytest.mark.parametrize(("rule", "text"), FINE)
def test_rule_lets_pass(rule: Rule, text: str) -> None:
    assert rule("flame_triton/made_up.py", text) == []


def test_torch_importers_exist() -> None:
    """The list of exceptions holds no file that is gone or that no longer needs to be on it."""
    for name in sorted(TORCH_IMPORTERS):
        path = ROOT / name
        assert path.is_file(), f"{name} is gone: take it off TORCH_IMPORTERS"
        assert any(module == "torch" for _, module in imported_modules(ast.parse(path.read_text(encoding="utf-8")))), (
            f"{name} imports no torch: take it off TORCH_IMPORTERS"
        )


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in readme, f"README.md does not tell the reader of `make {target}`"
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no target {target!r}"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_what_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:flame_triton|tests|bench|docs|examples)/[\w./-]*)`", text)
    assert named, f"{document} names no file of the project: is the pattern still right?"
    gone = sorted({path for path in named if "NAME" not in path and not (ROOT / path).exists()})
    assert not gone, f"{document} names what is not there: {gone}"


def code_blocks(document: str) -> str:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found, f"{document} shows no Python"
    return "\n".join(found)


def test_readme_example_runs() -> None:
    scope: dict[str, Any] = {}
    exec(compile(code_blocks("README.md"), "README.md", "exec"), scope)
    np.testing.assert_allclose(float(scope["loss_"]), scope["exact"], rtol=1e-5)
    np.testing.assert_allclose(scope["dw_"].numpy(force=True), scope["exact_dw"], rtol=1e-4, atol=1e-7)


def test_contributing_example_runs() -> None:
    """In a process of its own, because it adds an op to the registry."""
    script = "from flame_triton import testing\nfrom flame_triton.ops import elementary\n"
    script += "globals().update(vars(elementary))\n"
    script += code_blocks("CONTRIBUTING.md") + "testing.check_grads(squareplus, (3, 5))\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def literal_version() -> str:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str(version))):
                return version
    pytest.fail('flame_triton/__init__.py has no line `__version__ = "..."` at top level; the build reads it as text')


def test_version_is_a_literal() -> None:
    version = literal_version()
    assert VERSION.fullmatch(version), f"__version__ = {version!r} is not MAJOR.MINOR.PATCH"
    assert ft.__version__ == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["version"]["path"] == "flame_triton/__init__.py"


def test_changelog_has_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = literal_version()
    assert f"\n## [{version}]" in changelog, f"CHANGELOG.md has no section `## [{version}]`"


def undocumented(name: str, thing: object) -> bool:
    """True if a class, function or module lacks a docstring of its own (a dataclass's made-up one does not count)."""
    if not (inspect.isclass(thing) or inspect.ismodule(thing) or callable(thing)):
        return False
    text = (getattr(thing, "__doc__", None) or "").strip()
    return not text or text.startswith(f"{name}(")


def test_public_names_are_documented() -> None:
    names: list[str] = list(ft.__all__)
    assert names, "flame_triton.__all__ is empty"
    assert len(set(names)) == len(names), f"named twice: {sorted({n for n in names if names.count(n) > 1})}"
    missing = [name for name in names if not hasattr(ft, name)]
    assert not missing, f"in flame_triton.__all__ but not there: {missing}"
    bare = [name for name in names if undocumented(name, getattr(ft, name))]
    assert not bare, f"public names without a docstring: {bare}"


def test_undocumented_sees_what_lacks_a_docstring() -> None:
    assert undocumented("f", lambda x: x)
    assert undocumented("C", type("C", (), {}))
    assert not undocumented("undocumented", undocumented)
    assert not undocumented("ROOT", 3)
