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
from tests.helpers.kernels import RULE_KERNELS, RuleKernels
from tests.helpers.machine_code import constant_loads_before, float64_opcodes, opcode_of, storing_loops

CSRC = Path(__file__).parents[2] / "csrc"
TARGETS = ["75", "80", "90", "100"]
FLAGS = ["-std=c++17", "-O3", "-fmad=false", f"-I{CSRC}"]  # as in setup.py


class Kernel(NamedTuple):
    """A kernel of csrc/cuda.

    Attributes:
        source: its file.
        pattern: matches its mangled name.
        float64: whether it computes in float64; "outside of loops": only the hyper-parameters.
        shares: whether its threads share memory.
        rule, value, metadata: of an update kernel, the rule, the type of its arithmetic and its tensors' metadata.
    """

    source: str
    pattern: str
    float64: bool | str = False
    shares: bool = False
    rule: RuleKernels | None = None
    value: str = ""
    metadata: str = ""


def updates(rule: RuleKernels) -> dict[str, Kernel]:
    """Return the update kernels of a rule."""
    kernels = {}
    for value, metadata, size in rule.kernels((4096, 8192, 32764)):
        kernels[f"update<{rule.struct}, {value}, {metadata}, {size}>"] = Kernel(
            f"{rule.file}.cu",
            rf"update_kernelINS_\d+UpdateArgumentINS_\d+{rule.struct}E{value[0]}NS_\d+{metadata}ELm{size}E",
            float64=value == "double" or ("outside of loops" if rule.costly else False),
            shares=rule.costly,
            rule=rule,
            value=value,
            metadata=metadata,
        )
    return kernels


UPDATES = {name: kernel for rule in RULE_KERNELS for name, kernel in updates(rule).items()}
KERNELS = {
    **UPDATES,
    "advance": Kernel("device.cu", "advance_kernel"),
    "sum": Kernel("device.cu", "sum_kernel", float64=True, shares=True),
    "clip": Kernel("device.cu", "clip_kernel", float64=True, shares=True),
}
SOURCES = sorted({kernel.source for kernel in KERNELS.values()})

# Limits of a multiprocessor, the same on every target. A warp of 32 threads gets its registers in units.
REGISTERS, REGISTER_UNIT = 65536, 256

# ptxas fuses no operation with an explicit rounding mode. Only PTX shows this: a division is one operation there, and
# fused multiply-adds in machine code.
ROUNDED = {f"{name}.rn.{kind}" for name in ("add", "sub", "mul", "div", "rcp", "sqrt") for kind in ("f32", "f64")}
POWER = "__internal_accurate_pow"  # CUDA's function for double; it has fused multiply-adds of its own


class Code(NamedTuple):
    ptx: str  # of all sources
    logs: dict[str, str]  # what ptxas prints, by kernel
    instructions: dict[str, list[str]]
    """Without address and encoding: ``@!P0 LDG.E R2, [R2.64]``."""

    def opcodes(self, kernel: str) -> list[str]:
        return [opcode_of(instruction) for instruction in self.instructions[kernel]]


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
    found = {}
    for part in text.split(mark)[1:]:
        known = (name for name, kernel in KERNELS.items() if re.match(rf"\S*{kernel.pattern}", part))
        found[next(known, part.split()[0])] = part
    return found


def operations(ptx: str) -> dict[str, set[str]]:
    """Return the floating-point operations of each function in ``ptx``."""
    functions = re.split(r"\.(?:entry|func)\b", ptx)[1:]
    floating = re.compile(r"\b(?:fma|mad|add|sub|mul|div|rcp|sqrt)\S*\.\w*f\d\w*")
    found: dict[str, set[str]] = {}
    for function in functions:
        (name,) = re.findall(r"(\w+)\s*\(\s*\.param", function)[:1]
        found.setdefault(name, set()).update(floating.findall(function))
    return found


@pytest.fixture(scope="session", params=TARGETS, ids=lambda target: f"sm_{target}")
def code(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Code:
    target, folder = request.param, tmp_path_factory.mktemp("cuda")
    if f"compute_{target}" not in run("nvcc", "--list-gpu-arch").split():
        pytest.skip(f"this nvcc does not know sm_{target}")
    codes = f"arch=compute_{target},code=[sm_{target},compute_{target}]"
    # /*0070*/  @!P0 LDG.E R2, [R2.64] ;
    instruction = re.compile(r"/\*[0-9a-f]{4,}\*/\s+((?:@!?\w+\s+)?[A-Z][^;]*?)\s*;")
    ptx, logs, instructions = "", {}, {}
    for source in SOURCES:
        fatbin = folder / f"{source}.fatbin"
        log = run(
            *("nvcc", *FLAGS, "-Xptxas", "-v", "-gencode", codes),
            *("-fatbin", CSRC / "cuda" / source, "-o", fatbin),
        )
        logs |= sections(log, "Compiling entry function '")
        ptx += run("cuobjdump", "-ptx", fatbin)
        for kernel, text in sections(run("cuobjdump", "-sass", fatbin), "Function : ").items():
            instructions[kernel] = instruction.findall(text)
    return Code(ptx, logs, instructions)


def test_the_sources_have_the_expected_kernels(code):
    assert code.logs.keys() == code.instructions.keys() == KERNELS.keys()


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_register_is_spilled(code, kernel):
    used = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", code.logs[kernel])
    assert set(used) == {("0", "stack frame"), ("0", "spill stores"), ("0", "spill loads")}


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_memory_accesses_are_global_constant_or_shared(code, kernel):
    """No access is local or generic: the argument is read from the constant bank."""
    bases = {opcode.split(".")[0] for opcode in code.opcodes(kernel)}
    constant, shared = {"LDC", "ULDC", "LDCU"}, {"LDS", "STS"}
    accesses = {base for base in bases if re.match("U?LD|ST|ATOM", base)}
    assert accesses <= constant | shared | {"LDG", "STG", "ATOMG"}
    assert bool(accesses & shared) == KERNELS[kernel].shares
    assert accesses & constant


@pytest.mark.parametrize("kernel", KERNELS)
def test_float64_is_computed_only_where_it_must_be(code, kernel):
    """Many devices compute float64 at 1/64 of float32's rate. The kernels that need it prove that the pattern works."""
    found = float64_opcodes(code.opcodes(kernel)) - {"F2F.F32.F64"}  # the factor of a clip, which is float64
    assert bool(found) == bool(KERNELS[kernel].float64), found
    loops = storing_loops(code.instructions[kernel])
    assert loops or not KERNELS[kernel].rule
    in_loops = {opcode for loop in loops for opcode in float64_opcodes(map(opcode_of, loop))}
    assert bool(in_loops) == (KERNELS[kernel].value == "double"), in_loops


def vector_accesses(kernel: Kernel) -> dict[tuple[str, str], int]:
    """Return the fewest vector accesses of an update kernel: one pass of each aligned loop in the source.

    A loop for n states reads p, g and the states, and writes p and the states. Loops for at most one state have two
    vectors per thread, others one. With master weights, a thread has 16-bit p and g, and float32 states and master
    weights: eight elements of each for at most one state, and four for more.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for n in kernel.rule.states:
        vectors, dtypes = (1 if n > 1 else 2), (3 if kernel.value == "float" else 1)
        counts["LDG", "128"] += dtypes * vectors * (2 + n)
        counts["STG", "128"] += dtypes * vectors * (1 + n)
        if (kernel.value, kernel.metadata) == ("float", "FullTensorMetadata"):
            narrow, wide = ("64", 1) if n > 1 else ("128", 2)
            for _ in ("bfloat16", "float16"):
                counts["LDG", narrow] += 2
                counts["STG", narrow] += 1
                for opcode in ("LDG", "STG"):
                    counts[opcode, "128"] += wide * (n + 1)
    counts["LDG", "128"] += 1  # the control's row
    return counts


@pytest.mark.parametrize("kernel", UPDATES)
def test_aligned_accesses_are_vectors(code, kernel):
    found = Counter(
        (opcode.split(".")[0], width)
        for opcode in code.opcodes(kernel)
        for width in {"64", "128"} & set(opcode.split("."))
    )
    for access, count in vector_accesses(KERNELS[kernel]).items():
        assert found[access] >= count, access


def test_gradients_are_summed_by_vectors(code):
    wide = [opcode for opcode in code.opcodes("sum") if opcode.startswith("LDG") and "128" in opcode.split(".")]
    assert len(wide) >= 4 * 2  # two vectors per thread, for each dtype


@pytest.mark.parametrize("kernel", KERNELS)
def test_enough_blocks_are_resident(code, kernel):
    """The float kernels leave room for half of the threads that most devices can hold."""
    (block_size,) = map(
        int, re.findall(r"constexpr int block_size = (\d+);", (CSRC / "cuda/update_chunk.h").read_text())
    )
    registers = int(re.findall(r"Used (\d+) registers", code.logs[kernel])[0])
    of_a_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    blocks = REGISTERS // of_a_warp // (block_size // 32)
    rule = KERNELS[kernel].rule
    assert blocks >= (rule.resident_blocks[KERNELS[kernel].value] if rule else 4), f"{registers} registers"


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


def test_each_operation_rounds_by_itself(code):
    found = operations(code.ptx)
    assert found.pop(POWER) - ROUNDED  # the pattern finds what rounds otherwise
    for function, used in found.items():
        assert used <= ROUNDED, function
        if "update_kernel" in function:
            assert {"mul.rn.f32", "add.rn.f32"} <= used


@pytest.mark.skipif(not hasattr(_native._C, "cuda_targets"), reason="built without CUDA")
def test_the_extension_has_the_targets_that_it_names():
    path, targets = _native._C.__file__, _native._C.cuda_targets.split(", ")
    # Not by --list-elf, because the linker adds an empty file for the toolkit's default target.
    files = [part.split(maxsplit=1) for part in run("cuobjdump", "-symbols", path).split("arch = ")[1:]]
    kernels = Counter(
        target for target, symbols in files for kernel in KERNELS.values() if re.search(kernel.pattern, symbols)
    )
    assert kernels == dict.fromkeys(targets, len(KERNELS))
    ptx = run("cuobjdump", "-ptx", path)
    assert re.findall(r"^\.target (\w+)", ptx, re.MULTILINE) == targets[-1:] * len(SOURCES)
    assert sections(ptx, ".entry ").keys() == KERNELS.keys()
    assert all(used <= ROUNDED for function, used in operations(ptx).items() if function != POWER)
    assert Path(path).stat().st_size < 5_000_000
