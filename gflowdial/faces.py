"""Faces of packages whose modules load when one of their names is first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any


def lazy_face(
    package: str, names: Mapping[str, Sequence[str]], moved: Mapping[str, str] = MappingProxyType({})
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a package's ``__init__``, which names what type checkers see itself::

        if TYPE_CHECKING:
            from gflowdial.training.loop import train

        __all__ = ["train"]
        __getattr__, __dir__ = lazy_face(__name__, {"loop": ["train"]})

    Args:
        package: name of the package.
        names: of each module of the package, what the package shows of it; the modules themselves are shown too.
        moved: names that the package had once, each with what stands for it now; asking for one is an ImportError that
            says so.
    """
    module_of = {name: module for module, shown in names.items() for name in shown}

    def find(name: str) -> Any:
        if name in module_of:
            return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        if name in moved:
            # An AttributeError would lose its words in `from package import name`.
            raise ImportError(f"{package}.{name} has moved: it is {moved[name]} now")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted({*module_of, *names})
