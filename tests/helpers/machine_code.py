"""Reads the machine code of NVIDIA's devices, as cuobjdump prints it: ``@!P0 LDG.E R2, [R2.64]``."""

from __future__ import annotations

import re
from collections.abc import Iterable


def opcode_of(instruction: str) -> str:
    return re.sub(r"^@!?\w+\s+", "", instruction).split()[0]


def float64_opcodes(opcodes: Iterable[str]) -> set[str]:
    """Return those of ``opcodes`` that convert or compute float64."""
    return {opcode for opcode in opcodes if re.match(r"D(?!EPBAR)|.*F64|.*64H", opcode)}


def branch_target(instruction: str) -> int | None:
    """Return the index of the instruction that a branch goes to; None if it is no branch. One takes 16 bytes."""
    branch = re.match(r"(?:@!?\w+\s+)?BRA(?:\.\S+)?\s.*?0x([0-9a-f]+)$", instruction)
    return int(branch[1], 16) // 16 if branch else None


def storing_loops(instructions: list[str]) -> list[list[str]]:
    """Return the loops that store to global memory: from the target of a branch backwards to the branch."""
    targets = [(branch_target(instruction), index) for index, instruction in enumerate(instructions)]
    loops = [instructions[begin : index + 1] for begin, index in targets if begin is not None and begin < index]
    return [loop for loop in loops if any(opcode_of(one).startswith("STG") for one in loop)]


def constant_loads_before(instructions: list[str]) -> list[int]:
    """Return, for each 128-bit load from global memory, how many loads from the constant bank its address depends on,
    one after another: the most on any path without a branch backwards."""
    depth: dict[str, int] = {}
    arriving: dict[int, dict[str, int]] = {}  # by the branches to an instruction
    found = []
    for index, instruction in enumerate(instructions):
        depth = _deepest(depth, arriving.pop(index, {}))
        opcode = opcode_of(instruction)
        written, read = _registers(instruction, opcode)
        reached = max((depth.get(register, 0) for register in read), default=0)
        if re.match(r"U?LDC", opcode) and read:
            reached += 1
        if opcode.startswith("LDG") and "128" in opcode:
            found.append(reached)
        for name in written:
            kind, number = re.match(r"(\D+)(\d+)", name).groups()
            for more in range(4 if "128" in opcode else 2 if re.search(r"\.64|WIDE", opcode) else 1):
                depth[f"{kind}{int(number) + more}"] = 0 if opcode.startswith("LDG") else reached
        target = branch_target(instruction)
        if target is not None:
            arriving[target] = _deepest(arriving.get(target, {}), depth)
        if re.match(r"(BRA\S*\s+0x|EXIT|RET)", instruction):  # without a condition
            depth = {}
    return found


def _deepest(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {register: max(one.get(register, 0), other.get(register, 0)) for register in one.keys() | other.keys()}


def _registers(instruction: str, opcode: str) -> tuple[list[str], list[str]]:
    """Return the registers that an instruction writes, and those that it reads, its condition left out."""
    names = r"\bU?[RP]\d+\b"
    operands = instruction.split(opcode, 1)[1]
    if opcode.startswith(("ST", "BRA")):
        return [], re.findall(names, operands)
    # IADD3 R12, P3, R60, R11, RZ: predicates after the target are targets, here the carry.
    written = re.match(r"[^,]*(,\s*U?P\w+(?=,))*", operands)
    return re.findall(names, written[0]), re.findall(names, operands[written.end() :])
