"""Arguments are bound before anything is built: every `_target_` must be allowed, and take what its node gives it.

The names were checked without torch (`launch/targets.py`); here the classes are imported, their bases checked, and
their signatures and annotations held against the configuration. All problems are reported at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from launch.problems import Problem, did_you_mean, nearest
from launch.targets import FACTORIES, problem_with, target_nodes
from lit_modules.schedules import Schedule

ALLOWED_BASES = (
    Callback, Dataset, LightningDataModule, Logger, LRScheduler, Module, Optimizer, Profiler, Schedule, Strategy,
    Trainer,
)  # fmt: skip
"""What a target may derive from; torchmetrics' Metric and torchvision's Transform are Modules."""


OUR_PACKAGES = ("lit_modules", "datamodules", "callbacks")


@dataclass(frozen=True)
class Part:
    """What the builder does with one node: keys that are no arguments, and arguments that it adds by itself."""

    metadata: frozenset[str] = frozenset()
    supplied: frozenset[str] = frozenset()


def check_arguments(config: Mapping[str, Any], parts: Mapping[str, Part]) -> list[Problem]:
    """Return a problem for every target of a plain configuration that may not be built, or not with its arguments."""
    problems: list[Problem] = []
    for path, node in target_nodes(dict(config)):
        problems += _check_node(path, node, parts.get(path, Part()))
    return problems


def locate(target: str) -> Callable[..., Any]:
    """Import the class or factory that `target` names; ValueError where it is not allowed."""
    message = problem_with(target)
    found = None if message else get_object(target)
    if message or (target not in FACTORIES and not (inspect.isclass(found) and issubclass(found, ALLOWED_BASES))):
        bases = ", ".join(base.__name__ for base in ALLOWED_BASES)
        raise ValueError(message or f"{target} is not allowed: it is no class derived from {bases}")
    assert callable(found)
    return found


def _check_node(path: str, node: Mapping[str, Any], part: Part) -> Iterator[Problem]:
    try:
        target = locate(node["_target_"])
    except (ValueError, ImportError, AttributeError) as error:
        yield Problem(f"{path}._target_", " ".join(str(error).split()))
        return
    given = {key: value for key, value in node.items() if key not in part.metadata and not key.startswith("_")}
    parameters, takes_any = _parameters(target)
    for key, value in given.items():
        if key in part.supplied and path == "trainer":
            yield Problem(f"{path}.{key}", "is set by the framework, which needs it so")
        elif key in parameters:
            yield from _check_type(f"{path}.{key}", value, parameters[key])
        elif not takes_any:
            choices = tuple(sorted(set(parameters) - part.supplied))
            yield Problem(
                f"{path}.{key}",
                f"{node['_target_']} takes no argument {key!r}",
                choices,
                did_you_mean(nearest(key, choices)),
            )
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in given and name not in part.supplied:
            yield Problem(f"{path}.{name}", f"{node['_target_']} needs it", mend=f"add +{path}.{name}=VALUE")


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the named parameters of a target with resolved annotations, and whether it takes any others.

    A class that hands **shared on to its base takes the parameters of its base as well. They are required of our own
    classes alone: a foreign class may fill in what its base needs.
    """
    parameters: dict[str, inspect.Parameter] = {}
    for constructor in _constructors(target):
        foreign = bool(parameters) and getattr(constructor, "__module__", "").split(".")[0] not in OUR_PACKAGES
        for name, parameter in _named(constructor).items():
            parameters.setdefault(name, parameter.replace(default=None) if foreign else parameter)
        if not any(one.kind is one.VAR_KEYWORD for one in inspect.signature(constructor).parameters.values()):
            return parameters, False
    return parameters, True


def _constructors(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the constructors of a class, its own first and its bases' after it; a factory by itself."""
    if not inspect.isclass(target):
        return [target]
    return [cls.__dict__["__init__"] for cls in target.__mro__ if "__init__" in cls.__dict__]


def _named(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    hints = _hints(constructor)
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(inspect.unwrap(constructor))
    except (NameError, TypeError):
        return {}  # annotations that exist for type checkers only tell nothing at run time


def _check_type(path: str, value: Any, parameter: inspect.Parameter) -> Iterator[Problem]:
    if not fits(value, parameter.annotation):
        choices = tuple(str(choice) for choice in literal_choices(parameter.annotation))
        mend = did_you_mean(nearest(str(value), choices))
        wanted = "one of the choices" if choices else _name(parameter.annotation)
        yield Problem(path, f"{value!r} is not {wanted}", choices, mend)


def literal_choices(annotation: Any) -> list[Any]:
    """Return the values that an annotation allows by name: Literal["a", "b"], alone or within a union."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [choice for member in get_args(annotation) for choice in literal_choices(member)]
    return []


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a plain value fits an annotation; one that is not made of plain types takes anything."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return value in members
    if origin in (Union, UnionType):
        return any(fits(value, member) for member in members)
    if annotation in (None, NoneType):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation in (int, float):
        return isinstance(value, (int, annotation)) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and _members_fit(value, members)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, dict)
    return True


def _members_fit(values: Sequence[Any], members: tuple[Any, ...]) -> bool:
    if not members:
        return True
    if len(members) == 2 and members[1] is Ellipsis:
        members = members[:1]
    if len(members) == 1:
        return all(fits(value, members[0]) for value in values)
    return len(values) == len(members) and all(
        fits(value, member) for value, member in zip(values, members, strict=True)
    )


def _name(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")
