"""Comments are sentences that stand above the line they are about, not fragments behind it."""

import io
import tokenize

import pytest

from strata.devtools.environment import ROOT

# What tools read stands where they look for it.
DIRECTIVES = ("noqa", "type:", "fmt:", "pragma:")
FILES = sorted(path for folder in ("lora_math", "nodes", "web") for path in (ROOT / folder).rglob("*.*"))


def behind_code(source: str) -> list[int]:
    """The lines of Python with a comment behind code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return [
        token.start[0]
        for token in comments
        if token.line[: token.start[1]].strip() and not token.string[1:].strip().startswith(DIRECTIVES)
    ]


def behind_code_js(source: str) -> list[int]:
    """The same of JavaScript. What stands in quotes is passed over; in a template's ${} there is code again."""
    found, at, line, code, templates = [], 0, 1, False, []
    while at < len(source):
        two, one = source[at : at + 2], source[at]
        if one == "\n":
            line, code, at = line + 1, False, at + 1
        elif two in ("//", "/*"):
            if two == "//" and code:
                found.append(line)
            end = source.find("\n" if two == "//" else "*/", at)
            end = len(source) if end < 0 else end + (two == "/*") * 2
            line, at = line + source.count("\n", at, end), end
        elif one in "'\"" or one == "`" or (one == "}" and templates and templates[-1] == 0):
            if one == "}":
                templates.pop()
            end = at + 1
            quote = "`" if one == "}" else one
            while end < len(source) and source[end] != quote and not (quote == "`" and source[end : end + 2] == "${"):
                end += 1 + (source[end] == "\\")
            if source[end : end + 2] == "${":
                templates.append(0)
                end += 1
            line, code, at = line + source.count("\n", at, end), True, end + 1
        else:
            if templates and one in "{}":
                templates[-1] += 1 if one == "{" else -1
            code, at = code or not one.isspace(), at + 1
    return found


def test_both_readers_find_what_stands_behind_code():
    assert behind_code("x = 1  # one\n# two\ny = '# no'  # noqa: E501\n    # three\n") == [1]
    source = (
        "const a = 1 // one\n// two\nconst b = 'http://x' + `//${c} // no`\n/* a // b */\n  // three\nf() // four\n"
    )
    assert behind_code_js(source) == [1, 6]
    assert behind_code_js("a(`${b ? ` // ${{ c: 1 }.c}` : ''} // no`) // one\n") == [1]


@pytest.mark.parametrize("ending", ["py", "js"])
def test_no_comment_stands_behind_code(ending):
    read = behind_code if ending == "py" else behind_code_js
    files = [path for path in FILES if path.suffix == f".{ending}"]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in read(path.read_text(encoding="utf-8"))]
    assert len(files) > 20 and found == []


def test_python_is_ascii():
    """Other text is written with escapes, or lies in JSON and Markdown."""
    files = [path for path in ROOT.rglob("*.py") if ".git" not in path.parts and "out" not in path.parts]
    assert len(files) > 200
    assert [str(path.relative_to(ROOT)) for path in files if not path.read_bytes().isascii()] == []
