"""Builds the native backends, ``clrfast._C``, with ninja: parallel, incremental, without torch or a GPU.

Environment:
    CLRFAST_CPP=0      leave out the native backends; =1: fail if they cannot be built (default: build if possible)
    CLRFAST_CUDA=0     leave out the CUDA kernels; =1: fail if there is no nvcc (default: build them if there is one)
    CLRFAST_CUDA_TARGETS   compute capabilities to build for instead of all, for example "90" (faster in development)
    CUDA_HOME, CUDA_PATH   where the CUDA toolkit is, if not in PATH or /usr/local/cuda
    CLRFAST_WERROR=1   compiler warnings are errors
    CXX                the C++17 compiler to use
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

INCLUDE = Path("csrc").resolve()
SOURCES = ["csrc/bindings.cpp", "csrc/cpu/update.cpp"]
CUDA_SOURCES = ["csrc/cuda/device.cu", "csrc/cuda/sgd.cu", "csrc/cuda/adamw.cu"]
# Machine code for each generation that this nvcc knows, and PTX of the newest for later generations.
CUDA_TARGETS = ("75", "80", "86", "89", "90", "100", "120")


def cxx_compiler() -> str | None:
    candidates = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def why_not_buildable() -> str | None:
    """Return why a native build is impossible, and the remedy; None if it is possible."""
    if os.environ.get("CLRFAST_CPP") == "0":
        return "CLRFAST_CPP=0 asks for none; unset it to build it."
    if sys.platform == "win32":
        return "it is not supported on Windows."
    if cxx_compiler() is None:
        return "no C++ compiler was found. Install one (Debian: apt install g++; macOS: xcode-select --install)."
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h is missing. Install Python's headers (Debian: apt install python3-dev)."
    return None


def nvcc() -> str | None:
    """Return the CUDA compiler to use; None if CUDA is left out.

    Raises:
        SystemExit: CLRFAST_CUDA=1 or CUDA_HOME is set, and there is no compiler.
    """
    wanted = os.environ.get("CLRFAST_CUDA", "")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:  # no other compiler is used: an older driver may need this one
        path = shutil.which("nvcc", path=os.path.join(home, "bin"))
        if path is None:
            raise SystemExit(f"clrfast: CUDA_HOME is {home}, but there is no bin/nvcc in it; correct it, or unset it")
        return path
    path = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if path is None and wanted == "1":
        raise SystemExit(
            "clrfast: CLRFAST_CUDA=1 asks for the CUDA kernels, but no nvcc was found in PATH or in /usr/local/cuda; "
            "install the CUDA toolkit (12.1 or later), or set CUDA_HOME to where it is"
        )
    return path


def cuda_targets(compiler: str) -> list[str]:
    """Return the compute capabilities to build for, oldest first."""
    try:
        listed = subprocess.run([compiler, "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"clrfast: {compiler} does not work ({error}); CLRFAST_CUDA=0 installs without it") from error
    known = {line.removeprefix("compute_") for line in listed.split()}
    wanted = os.environ.get("CLRFAST_CUDA_TARGETS", "").replace(",", " ").split()
    unknown = [target for target in wanted if target not in known]
    if unknown:
        raise SystemExit(f"clrfast: CLRFAST_CUDA_TARGETS: {compiler} cannot build for {', '.join(unknown)}")
    return sorted(wanted or known.intersection(CUDA_TARGETS), key=int)


class NinjaBuild(build_ext):
    """Writes ``build.ninja`` and runs it. Without a toolchain, the install is pure torch, and a warning says so."""

    def run(self) -> None:
        reason = why_not_buildable()
        if reason is None:
            super().run()
        elif "1" in (os.environ.get("CLRFAST_CPP"), os.environ.get("CLRFAST_CUDA")):
            raise SystemExit(f"clrfast: CLRFAST_CPP=1 or CLRFAST_CUDA=1 asks for a native backend, but {reason}")
        else:
            for ext in self.extensions:  # left by an earlier build in this tree
                Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            self.extensions = []
            self.warn(
                f"clrfast is installed without its native backends: {reason} Everything works on the pure-torch "
                "backend, but optimizer steps are several times slower. To get the native backends, install clrfast "
                "again after that; `clrfast doctor` tells what works."
            )

    def build_extension(self, ext: Extension) -> None:
        import ninja

        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        (build_dir / "build.ninja").write_text("\n".join(ninja_lines(ext.sources, target, nvcc())) + "\n")
        try:
            subprocess.run([str(Path(ninja.BIN_DIR, "ninja")), "-C", str(build_dir)], check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                "clrfast: the native backends did not compile (see above). CLRFAST_CUDA=0 installs without the CUDA "
                "kernels, CLRFAST_CPP=0 without any."
            ) from error


def ninja_lines(sources: list[str], target: Path, cuda: str | None) -> list[str]:
    """Return ``build.ninja`` for ``target``; ``cuda`` is the CUDA compiler, or None."""
    targets = [] if cuda is None else cuda_targets(cuda)
    link = ["-undefined dynamic_lookup"] if sys.platform == "darwin" else ["-ldl"]
    rules = ["rule link\n  command = $cxx $in $ldflags -o $out"]
    if cuda is not None:
        sources = [*CUDA_SOURCES, *sources]
        # nvcc links its runtime statically, so the module loads on machines without CUDA.
        rules = [
            f"nvcc = {_escaped(shlex.quote(cuda))}",
            f"cudaflags = {' '.join(cuda_flags(targets))}",
            "rule compile_cuda\n  command = $nvcc $cudaflags -MD -MF $out.d -c $in -o $out\n"
            "  depfile = $out.d\n  deps = gcc",
            "rule link\n  command = $nvcc -shared -cudart static -ccbin $cxx $in -o $out",
        ]
    objects = {source: f"{'_'.join(Path(source).with_suffix('').parts[1:])}.o" for source in sources}
    return [
        f"cxx = {_escaped(shlex.quote(cxx_compiler() or ''))}",
        f"cxxflags = {' '.join(cxx_flags(targets))}",
        f"ldflags = -shared {' '.join(link)}",
        "rule compile\n  command = $cxx $cxxflags -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        *rules,
        *(
            f"build {o}: {'compile_cuda' if s in CUDA_SOURCES else 'compile'} {_escaped(Path(s).resolve())}"
            for s, o in objects.items()
        ),
        f"build {_escaped(target)}: link {' '.join(objects.values())}",
    ]


def cxx_flags(targets: list[str]) -> list[str]:
    """Return the flags of the C++ compiler; ``targets`` are the compute capabilities of the CUDA kernels."""
    import pybind11

    includes = [sysconfig.get_path("include"), pybind11.get_include()]
    return [
        *(
            "-std=c++17",
            "-O3",
            "-fPIC",
            "-fvisibility=hidden",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-Wall",
            "-Wextra",
        ),
        *(["-Werror"] if os.environ.get("CLRFAST_WERROR") == "1" else []),
        f"-I{_escaped(shlex.quote(str(INCLUDE)))}",
        *(f"-isystem {_escaped(shlex.quote(path))}" for path in includes),
        *([f"""'-DCLRFAST_CUDA="{_listed(targets)}"'"""] if targets else []),
    ]


def cuda_flags(targets: list[str]) -> list[str]:
    """Return the flags of the CUDA compiler."""
    codes = [f"-gencode arch=compute_{t},code=sm_{t}" for t in targets]
    codes.append(f"-gencode arch=compute_{targets[-1]},code=compute_{targets[-1]}")
    # Without fused multiply-adds, all backends agree bit for bit (csrc/rules/sgd.h).
    return [
        *("-std=c++17", "-O3", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"),
        *(["-Werror all-warnings"] if os.environ.get("CLRFAST_WERROR") == "1" else []),
        f"-I{_escaped(shlex.quote(str(INCLUDE)))}",
        *("--threads 0", "-Xfatbin -compress-all", "-ccbin $cxx", *codes),
    ]


def _listed(targets: list[str]) -> str:
    return ", ".join(f"sm_{target}" for target in targets)


def _escaped(path: object) -> str:
    """Return ``path`` with ninja's special characters escaped."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def readme_of_the_package() -> str:
    """Return the README as package indexes show it: without pictures and links to files that only a checkout has."""
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"^!\[[^\]]*\]\((?!https:)[^)]*\)\n\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\((?!https:)[^)]*\)", r"\1", text)


setup(
    ext_modules=[Extension("clrfast._C", SOURCES)],
    cmdclass={"build_ext": NinjaBuild},
    long_description=readme_of_the_package(),
    long_description_content_type="text/markdown",
)
