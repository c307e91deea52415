"""Classes of other packages, and what is said of a package that is broken."""

from pathlib import Path

import pytest

from sparse_lens.plugins import load_entry_points
from sparse_lens.scores import Scores


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a package with one entry point, `theirs`."""

    def install(group: str, value: str) -> None:
        info = tmp_path / "their_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\ntheirs = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_a_class_is_loaded_by_its_name(register) -> None:
    register("some.group", "sparse_lens.scores:Scores")
    (name, loaded), *others = load_entry_points("some.group", Scores).items()
    assert (name, loaded.__name__, others) == ("theirs", "Scores", [])
    assert load_entry_points("another.group", Scores) == {}


@pytest.mark.parametrize("value", ["nowhere:Theirs", "sparse_lens.scores:Theirs"])
def test_a_package_that_is_broken_is_named(register, value: str) -> None:
    register("some.group", value)
    with pytest.raises(ImportError, match=f"'theirs' of their-package .{value}.*uninstall that"):
        load_entry_points("some.group", Scores)


@pytest.mark.parametrize("value", ["sparse_lens.masks:Masks", "sparse_lens.identity:json_hash"])
def test_what_is_no_subclass_is_refused(register, value: str) -> None:
    register("some.group", value)
    with pytest.raises(ValueError, match=r"'theirs' of their-package.*sparse_lens\.scores\.Scores"):
        load_entry_points("some.group", Scores)
