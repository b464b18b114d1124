#!/usr/bin/env bash
# All speed benchmarks for one GPU in under ten minutes; the tables name the card.
#
#     bash benchmarks/speed_gpu.sh OUT [STYLEGAN3 [STYLEGAN2_PYTORCH]]
#
# The folders hold the code of NVlabs/stylegan3 and rosinality/stylegan2-pytorch. QUICK=1 tries the script itself, with
# tiny networks, on any machine.
set -uo pipefail
out=${1:?usage: bash benchmarks/speed_gpu.sh OUT [STYLEGAN3 [STYLEGAN2_PYTORCH]]}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python}
others=(${2:+--nvidia "$2"} ${3:+--rosinality "$3"})
quick=(${QUICK:+--quick})
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"

# part NAME SECONDS OPTIONS...: one run; where it takes too long or fails, the next ones still get their time
part() {
    local name=$1 seconds=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$python" "$here/speed.py" "${quick[@]}" "$@" --json "$out/$name.json" |& tee "$out/$name.txt"
    [ "${PIPESTATUS[0]}" -eq 0 ] || { echo "$name: no result"; failed=1; }
}

failed=0
part stylegan2-256 90 --sizes 256 --fp16 --bf16 --graphs "${others[@]}"
part stylegan2-1024 90 --sizes 1024 --fp16 --bf16 --graphs --rounds 5 "${others[@]}"
part ffhq-1024 60 --sizes --ffhq --fp16 --bf16 --graphs
part compiled-256 120 --sizes 256 --batches 8 --fp16 --compile
part compiled-ffhq-1024 120 --sizes --ffhq --batches 1 --bf16 --compile
part way 100 --way --rounds 1
exit $failed
