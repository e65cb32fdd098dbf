"""A name that moved says where it is now; others are unknown as ever."""

import importlib

import pytest

MOVED = {
    "gflowdial.envs": ("Dialogue",),
    "gflowdial.sampling": ("evaluate", "Evaluation", "Prefixes", "StateFlows", "StoppingEnvironment", "state_flows"),
    "gflowdial.search": ("SearchForest",),
    "gflowdial.training": ("environment_objectives", "objectives"),
}


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in MOVED.items() for name in names])
def test_moved_names_say_where_they_are(package: str, name: str) -> None:
    with pytest.raises(ImportError, match=rf"{package}\.{name} has moved: it is .*gflowdial\.\w+.* now"):
        exec(f"from {package} import {name}")


@pytest.mark.parametrize("package", MOVED)
def test_unknown_names_are_attribute_errors(package: str) -> None:
    assert not hasattr(importlib.import_module(package), "nothing_here")
