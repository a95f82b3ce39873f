"""Builds the native backend ``clrfast._C`` with ninja: parallel, incremental, without torch.

Environment:
    CLRFAST_CPP=0      leave the native backend out; =1: fail where it cannot be built (default: build it if possible)
    CLRFAST_WERROR=1   compiler warnings are errors
    CXX                the C++17 compiler to use
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = ["csrc/bindings.cpp", "csrc/sgd_cpu.cpp"]


def cxx_compiler() -> str | None:
    candidates = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def why_not_buildable() -> str | None:
    """What stands in the way of a native build, and how to remove it; None if nothing does."""
    if os.environ.get("CLRFAST_CPP") == "0":
        return "CLRFAST_CPP=0 asks for none; unset it to build it."
    if sys.platform == "win32":
        return "it is not supported on Windows."
    if cxx_compiler() is None:
        return "no C++ compiler was found. Install one (Debian: apt install g++; macOS: xcode-select --install)."
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h is missing. Install Python's headers (Debian: apt install python3-dev)."
    return None


class NinjaBuild(build_ext):
    """Writes ``build.ninja`` and runs it; a missing toolchain leaves a pure-torch install and a warning."""

    def run(self) -> None:
        reason = why_not_buildable()
        if reason is None:
            super().run()
        elif os.environ.get("CLRFAST_CPP") == "1":
            raise SystemExit(f"clrfast: CLRFAST_CPP=1 asks for the native backend, but {reason}")
        else:
            for ext in self.extensions:  # of an earlier build in this tree
                Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            self.extensions = []
            self.warn(
                f"clrfast is installed without its native backend: {reason} Everything works on the pure-torch "
                "backend, but optimizer steps on the CPU are several times slower. To get the native backend, "
                "install clrfast again after that; `clrfast doctor` tells what works."
            )

    def build_extension(self, ext: Extension) -> None:
        import ninja
        import pybind11

        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [sysconfig.get_path("include"), pybind11.get_include()]
        flags = [
            *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"),
            *(["-Werror"] if os.environ.get("CLRFAST_WERROR") == "1" else []),
            *(f"-isystem {_escaped(shlex.quote(path))}" for path in includes),
        ]
        link = ["-undefined dynamic_lookup"] if sys.platform == "darwin" else ["-ldl"]
        objects = [f"{Path(source).stem}.o" for source in ext.sources]
        lines = [
            f"cxx = {_escaped(shlex.quote(cxx_compiler() or ''))}",
            f"cxxflags = {' '.join(flags)}",
            f"ldflags = -shared {' '.join(link)}",
            "rule compile\n  command = $cxx $cxxflags -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
            "rule link\n  command = $cxx $in $ldflags -o $out",
            *(f"build {o}: compile {_escaped(Path(s).resolve())}" for o, s in zip(objects, ext.sources, strict=True)),
            f"build {_escaped(target)}: link {' '.join(objects)}",
            "",
        ]
        (build_dir / "build.ninja").write_text("\n".join(lines))
        try:
            subprocess.run([str(Path(ninja.BIN_DIR, "ninja")), "-C", str(build_dir)], check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                "clrfast: the native backend did not compile (see above). CLRFAST_CPP=0 installs without it."
            ) from error


def _escaped(path: object) -> str:
    """``path`` as ninja reads it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


setup(ext_modules=[Extension("clrfast._C", SOURCES)], cmdclass={"build_ext": NinjaBuild})
