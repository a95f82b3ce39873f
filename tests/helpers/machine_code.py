"""Reads the machine code of NVIDIA's devices, as cuobjdump prints it: ``@!P0 LDG.E R2, [R2.64]``."""

from __future__ import annotations

import re
from collections.abc import Iterable


def opcode_of(instruction: str) -> str:
    return re.sub(r"^@!?\w+\s+", "", instruction).split()[0]


def float64_opcodes(opcodes: Iterable[str]) -> set[str]:
    """Return those of ``opcodes`` that convert or compute float64."""
    return {opcode for opcode in opcodes if re.match(r"D(?!EPBAR)|.*F64|.*64H", opcode)}


def storing_loops(instructions: list[str]) -> list[list[str]]:
    """Return the loops that store to global memory: from the target of a branch backwards to the branch."""
    loops = []
    for index, instruction in enumerate(instructions):
        branch = re.match(r"(?:@!?\w+\s+)?BRA(?:\.\S+)?\s.*?0x([0-9a-f]+)$", instruction)
        begin = int(branch[1], 16) // 16 if branch else index  # an instruction takes 16 bytes
        if begin < index:
            loop = instructions[begin : index + 1]
            loops += [loop] if any(opcode_of(one).startswith("STG") for one in loop) else []
    return loops


def constant_loads_before(instructions: list[str]) -> list[int]:
    """Return, for each 128-bit load from global memory, how many loads from the constant bank its address depends on,
    one after another. The instructions are read once, in their order in the code."""
    depth: dict[str, int] = {}
    found = []
    for instruction in instructions:
        opcode = opcode_of(instruction)
        registers = re.findall(r"\bU?[RP]\d+\b", instruction.replace(opcode, "", 1))
        guard = re.match(r"@!?(\w+)", instruction)
        # IADD3 R12, P3, R60, R11, RZ: predicates after the target are targets, here the carry.
        written = re.match(r"[^,]*(,\s*U?P\w+(?=,))*", instruction.split(opcode, 1)[1])
        target = re.findall(r"\bU?[RP]\d+\b", written[0])
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
