"""The command line, read once: Hydra's flags and the overrides."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from launch.paths import quote_paths
from launch.problems import Problem

ONE_OF_FLAGS = ("run", "multirun", "cfg", "info", "shell_completion")
FLAGS_FOR_HYDRA = ("hydra_help", "cfg", "info", "shell_completion")
REFUSED_FLAGS = {
    "config_name": "the configuration is conf/config.yaml; put what you would change into conf/experiment/NAME.yaml",
    "config_path": "the configuration lies in conf/",
    "config_dir": "the checker knows the choices below conf/ alone; put yours there",
    "experimental_rerun": "it would load a pickle; use mode=train run=DIR",
}


@dataclass(frozen=True)
class CommandLine:
    """What was typed: `flags` for Hydra, `overrides` as text with path values quoted, `multirun` for a sweep."""

    flags: Namespace
    flag_arguments: tuple[str, ...]
    overrides: tuple[str, ...]
    multirun: bool

    @property
    def asks_hydra(self) -> bool:
        """Whether a flag asks something of Hydra itself (--cfg, --info, completion) instead of starting a run."""
        return any(getattr(self.flags, flag) for flag in FLAGS_FOR_HYDRA)

    @property
    def arguments(self) -> list[str]:
        """The arguments to hand on to Hydra."""
        return [*self.flag_arguments, *self.overrides]

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the line itself.

        Flags of Hydra that would start what nobody has checked, or that exclude each other, and several values for a
        key where `-m` is missing.
        """
        given = [flag for flag in REFUSED_FLAGS if getattr(self.flags, flag, None)]
        refused = [Problem(_typed(flag), "is not used here", mend=REFUSED_FLAGS[flag]) for flag in given]
        asked = [_typed(flag) for flag in ONE_OF_FLAGS if getattr(self.flags, flag)]
        if len(asked) > 1:
            mend = "name one; --cfg and --info show a single run, with one value for each key"
            refused.append(Problem(asked[0], f"does not go together with {', '.join(asked[1:])}", mend=mend))
        return refused if self.multirun else [*refused, *_several_values(self.overrides)]

    def value_of(self, key: str) -> str | None:
        """Return the plain value that the command line gives to `key`, the last one if several; None without one."""
        values = [parsed.value() for parsed in parse_overrides(self.overrides)[0] if parsed.key_or_group == key]
        return None if not values or values[-1] is None else str(values[-1])


def _several_values(overrides: tuple[str, ...]) -> list[Problem]:
    """Return a problem for each key that has several values where a single run was asked for."""
    parsed, _ = parse_overrides(overrides)
    swept = [one for one in parsed if one.is_sweep_override()]
    return [
        Problem(
            one.key_or_group,
            f"{(one.input_line or '').partition('=')[2]} are several values, and this is one run",
            mend="-m runs them all, one after the other; a list is written key=[1,2], a text with commas 'key=\"1,2\"'",
        )
        for one in swept
    ]


def _typed(flag: str) -> str:
    return "--" + flag.replace("_", "-")


def read_command_line(arguments: list[str]) -> CommandLine:
    """Split the arguments into Hydra's flags and the overrides, and quote the values of path keys."""
    parser = get_args_parser()
    flags = parser.parse_intermixed_args(arguments)
    typed = list(flags.overrides)
    multirun = bool(flags.multirun) or asks_for_sweep(typed)
    return CommandLine(
        flags=flags,
        flag_arguments=tuple(argument for argument in arguments if argument not in typed),
        overrides=tuple(quote_paths(typed, multirun)),
        multirun=multirun,
    )


def asks_for_sweep(overrides: list[str]) -> bool:
    """Tell whether overrides mean a sweep without `-m`: a choice of `sweep`, or `sweep.resume`.

    `hydra.mode` decides where it is given: the jobs of a sweep say RUN.
    """
    values = dict(override.partition("=")[::2] for override in overrides)
    if "hydra.mode" in values:
        return values["hydra.mode"].upper().endswith("MULTIRUN")
    is_chosen = values.get("sweep", "default") not in ("default", "null")
    return is_chosen or values.get("sweep.resume", "null") != "null"


def parse_overrides(overrides: tuple[str, ...]) -> tuple[list[Override], list[Problem]]:
    """Parse each override by itself; return the parsed ones and a problem for each that is not Hydra's grammar."""
    parser = OverridesParser.create()
    parsed, problems = [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            # the grammar's own list of signs is of no help
            cause = str(error).splitlines()[0].partition(" expecting ")[0]
            mend = "overrides are written key=value, without blanks; quote a value with special signs: 'key=\"a, b\"'"
            problems.append(Problem("", f"{text!r} is not an override ({cause})", mend=mend))
    return parsed, problems
