"""The pages that a newcomer reads first refer only to things that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "AGENTS.md",
    "SECURITY.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
SOURCES = "\n".join(
    path.read_text("utf-8")
    for folder in ("service", "client", "skill", "tests", "bench")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".lua", ".js")
)


def targets() -> set[str]:
    """Return the targets that `make help` lists."""
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_path_of_a_page_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    here = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    astray = [link for link in links if "://" not in link and not (here / link).exists()]
    rooted = r"`((?:service|client|skill|tests|bench|docs|\.ci|\.github)/[\w./-]+)`"
    astray += [path for path in re.findall(rooted, text) if not (ROOT / path).exists()]
    assert astray == []


@pytest.mark.parametrize("page", PAGES)
def test_every_function_that_a_page_names_is_in_its_file(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    astray = []
    for names, file in re.findall(r"((?:`\w+`(?:,| and)? )+)in `([\w./]+\.(?:lua|py|js))`", text):
        found = [
            path.read_text("utf-8")
            for folder in ("service", "client", "tests", "bench")
            for path in (ROOT / folder).rglob(Path(file).name)
            if str(path).endswith(f"/{file}")
        ]
        there = "".join(found) if len(found) == 1 else ""
        missing = [name for name in re.findall(r"\w+(?=`)", names) if name not in there]
        astray += [f"{name} in {file}" for name in missing]
    assert astray == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_of_a_page_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = set(re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", text))
    assert named <= targets(), named - targets()


def test_the_architecture_names_functions_and_modules_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    parts = (ROOT / "service", ROOT / "client")
    modules = {path.name for part in parts for path in part.rglob("*") if path.is_file()}
    files = re.findall(r"`(?:[\w/]+/)?(\w+\.(?:py|lua))`", text)
    functions = re.findall(r"`(\w+)` in `", text)
    assert files
    assert functions
    assert set(files) <= modules, set(files) - modules
    for name in functions:
        assert re.search(rf"\b(?:def|function) {name}\b", SOURCES), name


def test_the_forge_runs_what_a_change_must_pass() -> None:
    for name in ("ci", "release"):
        flow = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
        steps = [step for job in flow["jobs"].values() for step in job["steps"]]
        assert any(".ci/run" in step.get("run", "") for step in steps), name
        assert all(job["timeout-minutes"] <= 45 for job in flow["jobs"].values())
    release = (ROOT / ".github/workflows/release.yml").read_text()
    assert set(re.findall(r"\bmake ([a-z-]+)", release)) <= targets()
    for form in sorted((ROOT / ".github").rglob("*.yml")):
        assert yaml.safe_load(form.read_text()), form
