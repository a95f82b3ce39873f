"""Compiles kernels with the NVRTC of one CUDA version. It is its own program, because the library changes the locale.

    python nvrtc.py FOLDER ARCHITECTURE KERNEL...      FOLDER: see test_cuda_versions.py

Prints the version in the first line, then the PTX.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
HEADERS = ("cuda/advance_kernel.h", "cuda/clip_kernels.h", *(f"rules/{path.name}" for path in CSRC.glob("rules/*.h")))
SOURCE = "".join(f'#include "{name}"\n' for name in HEADERS) + "using namespace clrfast;\n"
OPTIONS = ("--std=c++17", "-fmad=false", "-default-device")


class Program:
    """A source for NVRTC, with csrc's headers and substitutes for those of C++'s library."""

    def __init__(self, nvrtc: ctypes.CDLL, source: str, names: list[str]):
        self._nvrtc = nvrtc
        self._handle = ctypes.c_void_p()
        headers = {path.relative_to(CSRC).as_posix(): path.read_text() for path in CSRC.glob("**/*.h")}
        headers["std.h"] = (HERE / "std.h").read_text()
        headers |= dict.fromkeys(("cmath", "cstddef", "cstdint", "cstring"), '#include "std.h"\n')
        texts, file_names = _strings(headers.values()), _strings(headers)
        self._call(
            "CreateProgram", ctypes.byref(self._handle), source.encode(), b"kernels.cu", len(headers), texts, file_names
        )
        for name in names:
            self._call("AddNameExpression", self._handle, f"&{name}".encode())

    def compiled(self, *options: str) -> str:
        """Return the PTX of the program."""
        try:
            self._call("CompileProgram", self._handle, len(options), _strings(options))
        except RuntimeError as error:
            raise SystemExit(f"{error}\n{self._text('ProgramLog')}") from error
        return self._text("PTX")

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def _text(self, what: str) -> str:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", self._handle, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", self._handle, text)
        return text.value.decode()

    def _call(self, name: str, *arguments) -> None:
        status = getattr(self._nvrtc, f"nvrtc{name}")(*arguments)
        if status:
            raise RuntimeError(f"nvrtc{name}: error {status}")


def _strings(texts) -> ctypes.Array:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))


def _library(folder: Path, name: str) -> ctypes.CDLL:
    (path,) = folder.glob(f"nvidia/*/lib/{name}.*")
    return ctypes.CDLL(str(path))


def main(folder: str, architecture: str, *kernels: str) -> None:
    _library(Path(folder), "libnvrtc-builtins.so")  # NVRTC does not find it everywhere
    program = Program(_library(Path(folder), "libnvrtc.so"), SOURCE, list(kernels))
    print(program.version())
    print(program.compiled(f"--gpu-architecture=compute_{architecture}", *OPTIONS))


main(*sys.argv[1:])
