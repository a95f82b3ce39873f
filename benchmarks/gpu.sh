#!/usr/bin/env bash
# Everything that needs a GPU, in two commands on one machine: at most 240 s, then at most 330 s. Nothing is installed.
# benchmarks/speed/gpu_plan.py holds the parts, their order and their seconds. What to type, in this order:
#
#   1. Once, at the root of the checkout. Git ignores both folders.
#
#       pip install --target .peers --no-deps torch-lr-finder pytorch-ignite    # range tests to compare with
#       mkdir -p .cifar10 && cp DATA/cifar10jpg_* .cifar10/                     # CIFAR-10 as JPEG, 18 MB, for the headline
#
#   2. bash benchmarks/gpu.sh --dry-run    # prints the plan and checks it; needs no GPU
#
#   3. On the machine with the GPU, with this tree and, for the second command, with .peers and .cifar10. A copy without
#      git history takes its commit from CLRFAST_COMMIT: what `git rev-parse --short HEAD` prints in the checkout.
#
#       CLRFAST_COMMIT=abc1234 bash benchmarks/gpu.sh "$OUT" first
#       CLRFAST_COMMIT=abc1234 bash benchmarks/gpu.sh "$OUT" rest
#
#      Where each command empties $OUT, save the files of the first before the second.
#
#   4. cp FILES/*_gpu.json benchmarks/results/ && python -m benchmarks.report
#
# Any part alone: bash benchmarks/gpu.sh DIR build tests. Without arguments: both commands, to benchmarks/results.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$root:$root/.peers PYTHONUNBUFFERED=1 PATH=$PATH:/usr/local/cuda/bin
if [[ ${1:-} == --dry-run ]]; then
    cd "$root" && exec python3 -m benchmarks.speed.gpu_plan --dry-run
fi
mkdir -p "${1:-$root/benchmarks/results}" || exit 1
folder=$(cd "${1:-$root/benchmarks/results}" && pwd)
cd "$root" || exit 1
python3 -m benchmarks.speed.gpu_plan "$folder" "${@:2}" 2>&1 | tee "$folder/gpu_${2:-all}.log"
