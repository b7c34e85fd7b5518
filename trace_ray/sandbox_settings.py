"""Reads how sandboxes run from variables, which `config` passes in."""

from pathlib import Path
from typing import Final

from trace_ray import variables
from trace_ray.variables import Reader, VariableError

BACKENDS: Final = ("bwrap", "landlock")
DEFAULT_BACKENDS: Final = ("bwrap",)
REQUIRED, NONE = "required", "none"

BACKENDS_VARIABLE: Final = "TRACE_SANDBOX_BACKENDS"
CGROUPS_VARIABLE: Final = "TRACE_SANDBOX_CGROUPS"
PARENT_VARIABLE: Final = "TRACE_SANDBOX_CGROUP_PARENT"
DIRECTORY_VARIABLE: Final = "TRACE_SANDBOX_DIR"
VARIABLES: Final = (BACKENDS_VARIABLE, CGROUPS_VARIABLE, PARENT_VARIABLE, DIRECTORY_VARIABLE)


def backends(reader: Reader) -> tuple[str, ...]:
    """Return the backends that may be used; the first that passes its self-test is."""
    return reader.value("sandbox_backends", BACKENDS_VARIABLE, _backends, DEFAULT_BACKENDS)


def cgroups(reader: Reader) -> bool:
    """Say whether control groups must count what a sandbox uses; False is never reached but by setting it."""
    return reader.value("sandbox_cgroups", CGROUPS_VARIABLE, variables.one_of(REQUIRED, NONE), REQUIRED) == REQUIRED


def cgroup_parent(reader: Reader, *, wanted: bool) -> Path | None:
    """Return the delegated cgroup v2 directory, None to look for one.

    Args:
        wanted: whether control groups are required.
    """
    found = reader.optional("sandbox_cgroup_parent", PARENT_VARIABLE, _existing_directory)
    if found is not None and not wanted:
        reader.problems.append(f"{PARENT_VARIABLE} is set with {CGROUPS_VARIABLE}={NONE}: leave one of them out")
    return found


def directory(reader: Reader) -> Path | None:
    """Return the directory below which sandboxes live, None for the usual place."""
    return reader.optional("sandbox_dir", DIRECTORY_VARIABLE, variables.directory)


def _backends(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if not set(found) <= set(BACKENDS):
        raise VariableError(f"is not known: write {' or '.join(BACKENDS)}, or both with a comma between")
    if len(set(found)) < len(found):
        raise VariableError("names a backend twice: write each once")
    return found


def _existing_directory(text: str) -> Path:
    path = variables.directory(text)
    if not path.exists():
        raise VariableError("names no directory that is there: write the whole path of a delegated cgroup")
    return path
