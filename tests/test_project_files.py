"""The files around the code agree with it and with each other: license, changelog, documentation, workflow, hooks."""

import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.params import RENAMED
from tests.support.paths import PROJECT

METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("benchmarks/**/*.md")])
PACKAGES = ("fcos", "pipeline")
# SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt without its first, empty line.
APACHE = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"


def read(name: str) -> str:
    return (PROJECT / name).read_text()


def test_license_is_the_published_text() -> None:
    assert hashlib.sha256(read("LICENSE").encode()).hexdigest() == APACHE
    assert METADATA["license"] == yaml.safe_load(read("CITATION.cff"))["license"] == "Apache-2.0"


def test_one_version_and_one_author_everywhere() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    newest = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert METADATA["version"] == citation["version"] == newest[1]
    assert METADATA["authors"] == citation["authors"] == [{"name": "The FCOS pipeline authors"}]


def test_changelog_lists_every_renamed_parameter() -> None:
    assert dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", read("CHANGELOG.md"), re.MULTILINE)) == RENAMED


def test_supported_versions_of_python_agree() -> None:
    versions = re.findall(r":: (3\.\d+)", "\n".join(METADATA["classifiers"]))
    first, last = versions[0], versions[-1]
    assert METADATA["requires-python"] == f">={first},<3.{int(last.split('.')[1]) + 1}"
    assert (
        yaml.safe_load(read(".github/workflows/checks.yml"))["jobs"]["checks"]["strategy"]["matrix"]["python"]
        == versions
    )
    assert f"**Python** {', '.join(versions[:-1])} and {last}." in read("README.md")
    assert f"Python {first} to {last}" in read("README.md")


def test_workflow_runs_every_check() -> None:
    steps = yaml.safe_load(read(".github/workflows/checks.yml"))["jobs"]["checks"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}


def test_hooks_are_checks_of_make_test() -> None:
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    recipe = read("Makefile").split("\ntest:")[1].split("\n\n")[0]
    for hook in repository["hooks"]:
        assert f"\t{hook['name']}" in recipe, hook["name"]
        assert hook["entry"].startswith(f".venv/bin/{hook['name'].split()[0]}")


def test_containerfile_uses_a_supported_python() -> None:
    version = re.search(r"^FROM python:([\d.]+)-slim", read("Containerfile"), re.MULTILINE)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in METADATA["classifiers"]


def test_requirements_of_the_docs_are_pinned() -> None:
    assert_pinned("requirements-docs.txt")


def test_requirements_are_pinned() -> None:
    assert_pinned("requirements.txt")


def assert_pinned(name: str) -> None:
    """Each package has a version and the hashes of its files, and no address says where to get them."""
    text = "".join(line for line in read(name).splitlines(keepends=True) if not line.startswith("#"))
    requirements = text.replace(" \\\n", "").splitlines()
    pattern = re.compile(r"[\w.-]+==[\w.!+-]+( ; [\w .<>=!'()]+)?(    --hash=sha256:[0-9a-f]{64})+")
    assert [line for line in requirements if not pattern.fullmatch(line)] == []
    assert len(requirements) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_and_anchors_exist(page: Path) -> None:
    assert_links_exist(page)


def test_links_and_anchors_of_the_site_exist(tmp_path: Path) -> None:
    """`make docs` up to the pages that its generator reads; the generator itself is not installed for tests."""
    for name in ("docs", "examples", "benchmarks/results"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (
        *PROJECT.glob("*.md"),
        PROJECT / "benchmarks/README.md",
        PROJECT / "Containerfile",
        PROJECT / "LICENSE",
    ):
        shutil.copy(path, tmp_path / path.relative_to(PROJECT))
    recipe = re.search(r"^\trm -rf build/docs\n(\t.*\n)+?(?=\t\.venv-docs)", read("Makefile"), re.MULTILINE)
    assert recipe is not None
    subprocess.run(["bash", "-euo", "pipefail", "-c", recipe[0].replace("$$", "$")], cwd=tmp_path, check=True)
    pages = sorted((tmp_path / "build/docs").rglob("*.md"))
    assert len(pages) > 80
    for page in pages:
        assert_links_exist(page)


def assert_links_exist(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_named_in_the_contribution_guide_exist() -> None:
    named = re.findall(r"`([\w./-]+/[\w.-]*|[\w-]+\.(?:md|toml|yaml|txt))`", read("CONTRIBUTING.md"))
    paths = [name for name in named if "NAME" not in name and not name.startswith(("metrics/", "models/"))]
    assert len(paths) > 20
    assert [name for name in paths if not (PROJECT / name).exists()] == []
    for name in re.findall(r"`([A-Z_]{4,})`", read("CONTRIBUTING.md")):
        assert any(f"\n{name}" in path.read_text() for path in modules()), f"{name} is no constant of the code"


def test_architecture_names_every_package_and_nothing_else() -> None:
    rows = "\n".join(re.findall(r"^\| (`.*?) \|", read("docs/architecture.md"), re.MULTILINE))
    named = set(re.findall(r"`([a-z_]+(?:/|\.py))`", rows))
    packages = {f"{path.name}/" for name in PACKAGES for path in (PROJECT / name).iterdir() if path.is_dir()}
    files = {path.name for name in PACKAGES for path in (PROJECT / name).glob("*.py")}
    # `formats/` is named twice: in the table of packages, and among our own code where libraries exist.
    assert named == (packages | files) - {"__pycache__/", "__init__.py"}


def test_api_pages_document_every_module() -> None:
    shown = [
        name
        for page in PROJECT.glob("docs/api/*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(shown) == len(set(shown))
    hidden = {"pipeline.cli", "pipeline.commands"}  # `fcos --help` documents them
    names = {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in modules()}
    covered = {name for name in names for part in {*shown, *hidden} if name == part or name.startswith(f"{part}.")}
    assert names - covered == set(PACKAGES)
    assert set(shown) <= names


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")]
