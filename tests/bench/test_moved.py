"""Former import paths."""

import importlib
import sys

import pytest

from bench import moved


@pytest.mark.parametrize("old", sorted(moved.MODULES))
def test_former_module_is_the_present_one_and_warns(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    present = importlib.import_module(moved.MODULES[old])
    spec = present.__spec__
    with pytest.warns(DeprecationWarning, match=f"{old} is now {moved.MODULES[old]}"):
        former = importlib.import_module(old)
    assert former is present
    assert present.__spec__ is spec
    monkeypatch.delitem(sys.modules, old)


@pytest.mark.parametrize("name", moved.DATA)
def test_former_name_of_the_data_package_warns(name):
    with pytest.warns(DeprecationWarning, match=f"bench.data.{name} is now bench.data.loading.{name}"):
        former = getattr(importlib.import_module("bench.data"), name)
    assert former is getattr(importlib.import_module("bench.data.loading"), name)


@pytest.mark.parametrize("name", ["bench.discovery", "bench.data.nothing"])
def test_other_names_are_unknown(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    with pytest.raises(ImportError):
        exec(f"from {name.rpartition('.')[0]} import {name.rpartition('.')[2]}")
