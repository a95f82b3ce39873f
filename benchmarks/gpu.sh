#!/usr/bin/env bash
# Everything that takes a GPU, within 10 minutes: build for the cards at hand, run the tests, the same under NVIDIA's
# checkers of memory, and the benchmarks. Logs and results go to a folder; nothing is installed.
#
#     bash benchmarks/gpu.sh [DIR [PART...]]      default: benchmarks/results, all parts
#
# Peers are compared where Python finds them, also in a folder .peers at the root (pip install --target .peers --no-deps
# torch-lr-finder pytorch-ignite); the row of a missing one says so.
set -uo pipefail

capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -un | paste -sd,)
if [[ ! $capabilities =~ ^[0-9] ]]; then
    echo "gpu.sh: nvidia-smi finds no GPU here" >&2
    exit 1
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-$root/benchmarks/results}" || exit 1
folder=$(cd "${1:-$root/benchmarks/results}" && pwd)
cd "$root" || exit 1
export PYTHONPATH=$root:$root/.peers PYTHONUNBUFFERED=1 PATH=$PATH:/usr/local/cuda/bin
wanted=" ${*:2} "
summary=()
failed=0

# part NAME SECONDS COMMAND...: runs it, keeps its output in gpu_NAME.log
part() {
    local name=$1 limit=$2 begin=$SECONDS result=ok
    shift 2
    [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
    echo "== $name"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$folder/gpu_$name.log" || { result=FAILED failed=1; }
    summary+=("$(printf '%-10s %-6s %4d s' "$name" "$result" $((SECONDS - begin)))")
}

tests=(python3 -m pytest -m gpu -p no:cacheprovider -W default)

# sanitize TOOL OPTION...: every tensor is an allocation of its own, or an access beyond it would find its neighbour.
sanitize() {
    part "$1" 50 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$@" --error-exitcode 1 \
        --launch-timeout 0 "${tests[@]}" -k "${only:-sanitized}"
}

ours=(--kernel-name kernel_substring=clrfast) # the namespace, in a kernel's mangled name

part build 50 env CLRFAST_CUDA=1 CLRFAST_CUDA_TARGETS="$capabilities" python3 setup.py build_ext --inplace
part tests 100 "${tests[@]}" -ra
sanitize memcheck "${ours[@]}" --report-api-errors no # torch tries calls that may fail
sanitize racecheck "${ours[@]}"
only="sanitized and float32" sanitize initcheck # of all kernels: what those left out have written would count as uninitialized
part benchmark 110 python3 -m benchmarks.bench_gpu --results "$folder"
for name in range_test train sweep; do
    part "$name" 55 python3 -m pytest -q -p no:cacheprovider "benchmarks/bench_$name.py" --device cuda --results "$folder"
done

printf '%s\n' "${summary[@]}"
exit "$failed"
