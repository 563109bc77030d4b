"""The help of the scripts, read without running them: some need packages that are not here."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = [
    path
    for folder in ("examples", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "ArgumentParser(" in path.read_text("utf-8")
    # Without options that have a default.
    and path.name != "onnx_serving.py"
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_defaults_are_shown(path):
    """The formatter shows a default only behind a help text."""
    code = path.read_text("utf-8")
    assert "formatter_class=argparse.ArgumentDefaultsHelpFormatter" in code
    for call in ast.walk(ast.parse(code)):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("add", "parser.add_argument"):
            names = {keyword.arg for keyword in call.keywords}
            assert "help" in names, ast.unparse(call)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_they_are_scripts(path):
    """Other tests call `main` themselves."""
    assert path.read_text("utf-8").endswith('if __name__ == "__main__":\n    main()\n')


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_they_import_what_is_there(path):
    """Names of other scripts, which nothing else looks up without running them."""
    for line in ast.walk(ast.parse(path.read_text("utf-8"))):
        other = path.with_name(f"{getattr(line, 'module', None)}.py")
        if isinstance(line, ast.ImportFrom) and other.exists():
            body = ast.parse(other.read_text("utf-8")).body
            defined = {getattr(part, "name", None) for part in body}
            for part in filter(lambda part: isinstance(part, ast.Assign), body):
                defined |= {name.id for name in ast.walk(part) if isinstance(name, ast.Name)}
            assert {name.name for name in line.names} <= defined
