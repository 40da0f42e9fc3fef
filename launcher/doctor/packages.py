"""Checks Python and the packages that lehr requires."""

from __future__ import annotations

import importlib
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from launcher.doctor.finding import Finding
from settings.packages import installed_version

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# Packages that may be built for another machine, which only their import shows, and the module to import.
_IMPORTED = {
    "torch": "torch",
    "megatron-core": "megatron.core",
    "deepspeed": "deepspeed",
    "datatrove": "datatrove",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "tensorboard": "tensorboard",
}


def check_python() -> Iterator[Finding]:
    """Checks the version of Python."""
    fits = sys.version_info >= (3, 11)
    result = f"{platform.python_version()} at {sys.executable}"
    yield Finding("python", "ok" if fits else "missing", result, "" if fits else "install Python 3.11 or later")


def check_packages() -> Iterator[Finding]:
    """Checks that every required package has an allowed version, and that the large ones can be imported."""
    if installed_version("lehr") is None:
        yield Finding("lehr", "note", "runs from its folder, not installed", "pip install -c constraints.txt -e .")
    for package, module in _IMPORTED.items():
        yield _check_import(package, module)
    versions = {package: installed_version(package) for package in sorted(set(_requirements()) - set(_IMPORTED))}
    fitting = 0
    for package, version in versions.items():
        if version is None:
            yield Finding(package, "missing", "not installed", _install(package))
        elif not is_allowed(package, version):
            yield Finding(package, "note", f"{version}, outside the range that lehr requires", _install(package))
        else:
            fitting += 1
    if fitting:
        yield Finding("other packages", "ok", f"{fitting} that lehr requires")


def is_allowed(package: str, version: str) -> bool:
    """Returns whether the version is in the range that lehr requires."""
    requirement = _requirements().get(package)
    return requirement is None or requirement.specifier.contains(version, prereleases=True)


def _check_import(package: str, module: str) -> Finding:
    version = installed_version(package)
    if version is None:
        return Finding(package, "missing", "not installed", _install(package))
    failure = _import_failure(module)
    if failure is not None:
        return Finding(package, "missing", f"{version}, but importing it fails: {failure}", _install(package))
    if not is_allowed(package, version):
        return Finding(package, "note", f"{version}, outside the range that lehr requires", _install(package))
    return Finding(package, "ok", version)


def _import_failure(module: str) -> str | None:
    """Returns why a module cannot be imported, in one line; None if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def _requirements() -> dict[str, Requirement]:
    """Reads the requirements from lehr's own metadata, by package; none if lehr is not installed."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("lehr") or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = map(Requirement, texts)
    return {requirement.name: requirement for requirement in requirements if requirement.marker is None}


def _install(package: str) -> str:
    return f"pip install -c constraints.txt '{package}', or make install"
