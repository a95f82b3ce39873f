"""The machine code that nvcc makes of the CUDA kernels: registers, memory accesses and instructions."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from clrfast import _native

CSRC = Path(__file__).parents[2] / "csrc"
SOURCE = CSRC / "cuda" / "sgd.cu"
TARGETS = ["80", "90", "100"]
FLAGS = ["-std=c++17", "-O3", "-fmad=false", f"-I{CSRC}"]  # as in setup.py

# Each kernel, with a pattern for its mangled name.
SIZES = {("float", "TensorMetadata"): (4096, 8192, 32764)}
UPDATES = {
    f"update<{kind}, {metadata}, {size}>": rf"update_kernelINS_\d+UpdateArgumentI{kind[0]}NS_\d+{metadata}ELm{size}E"
    for kind in ("float", "double")
    for metadata in ("TensorMetadata", "FullTensorMetadata")
    for size in SIZES.get((kind, metadata), (32764,))
}
KERNELS = {**UPDATES, "advance": "advance_kernel"}

# The fewest 128-bit (loads, stores): one pass of each aligned loop in the source. A dtype has two loops, plain (reads
# p, g; writes p) and with momentum (reads p, g, b; writes p, b), over two vectors per thread. With master weights a
# thread has one vector of 16-bit p and g, and two vectors each of float32 b and m.
LOADS, STORES = 2 * (2 + 3), 2 * (1 + 2)
MASTERED_LOADS, MASTERED_STORES = (2 + 2) + (2 + 4), (1 + 2) + (1 + 4)
VECTORS = {
    "update<float, TensorMetadata": (3 * LOADS, 3 * STORES),
    "update<float, FullTensorMetadata": (3 * LOADS + 2 * MASTERED_LOADS, 3 * STORES + 2 * MASTERED_STORES),
    "update<double, TensorMetadata": (LOADS, STORES),
    "update<double, FullTensorMetadata": (LOADS, STORES),
}

# Limits of a multiprocessor, the same on every target. A warp of 32 threads gets its registers in units.
REGISTERS, REGISTER_UNIT, MOST_THREADS = 65536, 256, 2048

# ptxas fuses no operation with an explicit rounding mode. Only PTX shows this: a division is one operation there, and
# fused multiply-adds in machine code.
ROUNDED = {f"{name}.rn.{kind}" for name in ("add", "sub", "mul", "div", "rcp") for kind in ("f32", "f64")}


class Code(NamedTuple):
    ptx: str
    logs: dict[str, str]  # what ptxas prints, by kernel
    instructions: dict[str, list[str]]
    """Without address and encoding: ``@!P0 LDG.E R2, [R2.64]``."""

    def opcodes(self, kernel: str) -> list[str]:
        return [opcode_of(instruction) for instruction in self.instructions[kernel]]


def opcode_of(instruction: str) -> str:
    return re.sub(r"^@!?\w+\s+", "", instruction).split()[0]


def tool_path() -> str:
    """Return the search path for the CUDA tools: a toolkit, or pip's packages nvidia-cuda-*."""
    homes = [os.path.join(os.environ[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvidia = importlib.util.find_spec("nvidia")
    roots = (nvidia and nvidia.submodule_search_locations) or []
    packaged = [str(path) for root in roots for path in Path(root).glob("*/bin")]
    return os.pathsep.join([*homes, os.environ.get("PATH", ""), "/usr/local/cuda/bin", *packaged])


def run(tool: str, *arguments: object) -> str:
    path = tool_path()
    for needed in (tool, "nvdisasm") if tool == "cuobjdump" else (tool,):  # cuobjdump calls nvdisasm
        if shutil.which(needed, path=path) is None:
            pytest.skip(f"no {needed} in CUDA_HOME, in PATH, in /usr/local/cuda or among pip's packages")
    command = [str(shutil.which(tool, path=path)), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def sections(text: str, mark: str) -> dict[str, str]:
    """Split ``text`` into the parts that begin with ``mark`` and a mangled name; return them by kernel."""
    parts = text.split(mark)[1:]
    return {next((k for k, name in KERNELS.items() if re.match(rf"\S*{name}", p)), p.split()[0]): p for p in parts}


def operations(ptx: str) -> set[str]:
    """Return the floating-point operations in ``ptx``."""
    return set(re.findall(r"\b(?:fma|mad|add|sub|mul|div|rcp|sqrt)\S*\.\w*f\d\w*", ptx))


@pytest.fixture(scope="session", params=TARGETS, ids=lambda target: f"sm_{target}")
def code(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Code:
    target, fatbin = request.param, tmp_path_factory.mktemp("cuda") / "sgd.fatbin"
    if f"compute_{target}" not in run("nvcc", "--list-gpu-arch").split():
        pytest.skip(f"this nvcc does not know sm_{target}")
    codes = f"arch=compute_{target},code=[sm_{target},compute_{target}]"
    log = run("nvcc", *FLAGS, "-Xptxas", "-v", "-gencode", codes, "-fatbin", SOURCE, "-o", fatbin)
    # /*0070*/  @!P0 LDG.E R2, [R2.64] ;
    instruction = re.compile(r"/\*[0-9a-f]{4,}\*/\s+((?:@!?\w+\s+)?[A-Z][^;]*?)\s*;")
    functions = sections(run("cuobjdump", "-sass", fatbin), "Function : ")
    return Code(
        ptx=run("cuobjdump", "-ptx", fatbin),
        logs=sections(log, "Compiling entry function '"),
        instructions={kernel: instruction.findall(text) for kernel, text in functions.items()},
    )


def test_the_fatbin_has_the_expected_kernels(code):
    assert code.logs.keys() == code.instructions.keys() == KERNELS.keys()


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_register_is_spilled(code, kernel):
    used = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", code.logs[kernel])
    assert used == [("0", "stack frame"), ("0", "spill stores"), ("0", "spill loads")]


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_memory_accesses_are_global_or_constant(code, kernel):
    """No access is local or generic: the argument is read from the constant bank."""
    bases = {opcode.split(".")[0] for opcode in code.opcodes(kernel)}
    constant = {"LDC", "ULDC", "LDCU"}
    assert {base for base in bases if re.match("U?LD|ST|ATOM", base)} <= constant | {"LDG", "STG", "ATOMG"}
    assert bases & constant


@pytest.mark.parametrize("kernel", KERNELS)
def test_float64_is_computed_only_for_float64(code, kernel):
    """Many devices compute float64 at 1/64 of float32's rate. The kernels that need it prove that the pattern works."""
    found = {opcode for opcode in code.opcodes(kernel) if re.match(r"D(?!EPBAR)|.*F64|.*64H", opcode)}
    assert bool(found) == ("double" in kernel), found


@pytest.mark.parametrize("kernel", UPDATES)
def test_aligned_accesses_are_128_bits_wide(code, kernel):
    wide = [opcode.split(".")[0] for opcode in code.opcodes(kernel) if "128" in opcode.split(".")]
    loads, stores = VECTORS[kernel.rpartition(",")[0]]
    assert wide.count("LDG") >= loads + 1  # the control's row
    assert wide.count("STG") >= stores


@pytest.mark.parametrize("kernel", UPDATES)
def test_half_of_the_threads_are_resident(code, kernel):
    (block_size,) = map(
        int, re.findall(r"constexpr int block_size = (\d+);", (CSRC / "cuda/update_chunk.h").read_text())
    )
    (registers,) = map(int, re.findall(r"Used (\d+) registers", code.logs[kernel]))
    of_a_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    blocks = REGISTERS // of_a_warp // (block_size // 32)
    assert blocks * block_size >= MOST_THREADS // 2, f"{registers} registers"


def test_advance_waits_for_memory_twice(code):
    """It loads all of the state before the barrier, without a branch in between, and a row of the table after it."""
    instructions = code.instructions["advance"]
    opcodes = [opcode_of(instruction).split(".")[0] for instruction in instructions]
    barrier = opcodes.index("BAR")
    state = [index for index, opcode in enumerate(opcodes[:barrier]) if opcode == "LDG"]
    assert len(state) == 8  # step_count; step, stop, average, weight, best, loss, found_inf
    assert "BRA" not in opcodes[state[1] : state[-1]]
    assert opcodes[barrier:].count("LDG") == 3
    assert "STG" not in opcodes[:barrier]


@pytest.mark.parametrize("kernel", UPDATES)
def test_a_block_waits_for_its_argument_twice(code, kernel):
    """It loads the numbers of its segment, then its tensor's metadata: two loads from the constant bank, the second
    depending on the first. The row of a single group depends on none."""
    depths = constant_loads_before(code.instructions[kernel])
    assert min(depths) == 0
    assert max(depths) == 2


def constant_loads_before(instructions: list[str]) -> list[int]:
    """Return, for each 128-bit load from global memory, how many loads from the constant bank its address depends on,
    one after another. The instructions are read once, in their order in the code."""
    depth: dict[str, int] = {}
    found = []
    for instruction in instructions:
        opcode = opcode_of(instruction)
        registers = re.findall(r"\bU?[RP]\d+\b", instruction.replace(opcode, "", 1))
        guard = re.match(r"@!?(\w+)", instruction)
        operands = instruction.split(opcode, 1)[1].split(",")
        target = re.findall(r"\bU?[RP]\d+\b", operands[0])
        sources = registers if opcode.startswith(("ST", "BRA")) else registers[bool(guard) + len(target) :]
        reached = max((depth.get(register, 0) for register in sources), default=0)
        if re.match(r"U?LDC", opcode) and sources:
            reached += 1
        if opcode.startswith("LDG") and "128" in opcode:
            found.append(reached)
        for name in target:
            kind, number = re.match(r"(\D+)(\d+)", name).groups()
            for more in range(4 if "128" in opcode else 2 if re.search(r"\.64|WIDE", opcode) else 1):
                depth[f"{kind}{int(number) + more}"] = 0 if opcode.startswith("LDG") else reached
    return found


def test_each_operation_rounds_by_itself(code):
    assert {"mul.rn.f32", "add.rn.f32"} <= operations(code.ptx) <= ROUNDED


@pytest.mark.skipif(not hasattr(_native._C, "cuda_targets"), reason="built without CUDA")
def test_the_extension_has_the_targets_that_it_names():
    path, targets = _native._C.__file__, _native._C.cuda_targets.split(", ")
    # Not by --list-elf, because the linker adds an empty file for the toolkit's default target.
    files = [part.split(maxsplit=1) for part in run("cuobjdump", "-symbols", path).split("arch = ")[1:]]
    kernels = Counter(target for target, symbols in files for name in KERNELS.values() if re.search(name, symbols))
    assert kernels == dict.fromkeys(targets, len(KERNELS))
    ptx = run("cuobjdump", "-ptx", path)
    assert re.findall(r"^\.target (\w+)", ptx, re.MULTILINE) == targets[-1:]
    assert sections(ptx, ".entry ").keys() == KERNELS.keys()
    assert operations(ptx) <= ROUNDED
    assert Path(path).stat().st_size < 5_000_000
