"""The registry of admin actions.

An action is declared once, by `@actions.register(…)` on its function in `services.admin`. The verbs of `smi jobs`,
`smi tasks`, `smi breakers` and `smi unsold`, the admin jobs of Dagster and the HTTP admin API
are all made from the registry.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

if TYPE_CHECKING:
    from pydantic import BaseModel

Function = TypeVar("Function", bound=Callable[..., str])
Model = TypeVar("Model", bound="BaseModel")


class Target(StrEnum):
    """What an action acts on."""

    JOB = "job"
    PAYMENT = "payment"
    TASK = "task"
    BREAKER = "breaker"
    PROPERTY = "property"


HTTP_PATHS = {Target.JOB: ("jobs", "job_id"), Target.BREAKER: ("breakers", "name"), Target.PROPERTY: ("unsold", "name")}
"""Targets that the HTTP API has: the part of its paths, and the parameter that the next part of a path gives."""


class Interface(StrEnum):
    """Where an operator or a program can start an action."""

    CLI = "cli"
    DAGSTER = "dagster"
    HTTP = "http"


@dataclass(frozen=True)
class Parameter:
    """A parameter of an action. `default` is `...` for a required one."""

    name: str
    type: type
    description: str
    default: Any = ...

    @property
    def is_id(self) -> bool:
        """Whether it names what the action is about, so that answers repeat it."""
        return self.name.endswith("_id")


@dataclass(frozen=True, kw_only=True)
class Action:
    """What an operator may do by hand: `run(ctx, **parameters)` does it and returns one line saying what was done.

    The Dagster job is called `admin_<name>`, the CLI verb and the last part of the HTTP path are `verb`. `replaced_by`
    is set on a former name, which is kept as an alias.
    """

    name: str
    verb: str
    target: Target
    summary: str
    parameters: tuple[Parameter, ...]
    run: Callable[..., str]
    not_offered: Mapping[Interface, str] = field(default_factory=dict)
    replaced_by: "Action | None" = None

    def model(self, base: "type[Model]", *, without: str | None = None) -> "type[Model]":
        """Return a subclass of the pydantic model `base` with one field per parameter, except `without`."""
        from pydantic import Field, create_model

        fields: dict[str, Any] = {
            parameter.name: (parameter.type, Field(parameter.default, description=parameter.description))
            for parameter in self.parameters
            if parameter.name != without
        }
        return create_model(f"{self.name}_parameters", __base__=base, __doc__=self.summary, **fields)


class Registry:
    """All admin actions, in the order of their declaration."""

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def __iter__(self) -> Iterator[Action]:
        return iter(self._actions)

    def over(self, interface: Interface) -> list[Action]:
        """Return the actions that are offered over `interface`."""
        return [action for action in self if interface not in action.not_offered]

    def register(
        self,
        name: str,
        target: Target,
        *,
        verb: str | None = None,
        former: tuple[str, str] | None = None,
        not_offered: Mapping[Interface, str] | None = None,
    ) -> Callable[[Function], Function]:
        """Declare the decorated function as an action.

        The first paragraph of its docstring is the summary. Its parameters after `ctx` are annotated as
        `Annotated[type, "description"]`. `former` is the name and the verb that the action had before; `not_offered`
        gives the reason for each interface that lacks it.
        """
        missing = dict(not_offered or {})
        if target not in HTTP_PATHS:
            missing[Interface.HTTP] = "no path of the HTTP API names what it acts on"

        def declare(function: Function) -> Function:
            summary = (inspect.getdoc(function) or "").partition("\n\n")[0]
            action = Action(
                name=name,
                verb=verb or name,
                target=target,
                summary=" ".join(summary.split()),
                parameters=tuple(_parameters(function)),
                run=function,
                not_offered=missing,
            )
            self._actions.append(action)
            if former:
                self._actions.append(replace(action, name=former[0], verb=former[1], replaced_by=action))
            return function

        return declare


def _parameters(function: Callable[..., str]) -> Iterator[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    _, *parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        hint = hints[parameter.name]
        default = ... if parameter.default is parameter.empty else parameter.default
        yield Parameter(parameter.name, hint.__origin__, hint.__metadata__[0], default)
