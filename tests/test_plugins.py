"""Classes of other packages, and what is said of a package that is broken."""

import pytest

from sparse_lens.plugins import load_entry_points
from sparse_lens.scores import Scores


def test_a_class_is_loaded_by_its_name(install_package) -> None:
    install_package("some.group", "theirs = sparse_lens.scores:Scores")
    (name, loaded), *others = load_entry_points("some.group", Scores).items()
    assert (name, loaded.__name__, others) == ("theirs", "Scores", [])
    assert load_entry_points("another.group", Scores) == {}


@pytest.mark.parametrize("value", ["nowhere:Theirs", "sparse_lens.scores:Theirs"])
def test_a_package_that_is_broken_is_named(install_package, value: str) -> None:
    install_package("some.group", f"theirs = {value}")
    with pytest.raises(ImportError, match=f"'theirs' of their-package .{value}.*uninstall that"):
        load_entry_points("some.group", Scores)


def test_packages_that_bring_the_same_name_are_both_named(install_package) -> None:
    install_package("some.group", "theirs = sparse_lens.scores:Scores")
    install_package("some.group", "theirs = sparse_lens.masks:Masks", distribution="another-one")
    with pytest.raises(ValueError, match=r"same name: 'theirs' of .*their-package") as error:
        load_entry_points("some.group", Scores)
    assert "'theirs' of another-one" in str(error.value)


@pytest.mark.parametrize("value", ["sparse_lens.masks:Masks", "sparse_lens.identity:json_hash"])
def test_what_is_no_subclass_is_refused(install_package, value: str) -> None:
    install_package("some.group", f"theirs = {value}")
    with pytest.raises(ValueError, match=r"'theirs' of their-package.*sparse_lens\.scores\.Scores"):
        load_entry_points("some.group", Scores)
