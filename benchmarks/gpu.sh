#!/usr/bin/env bash
# Measures the engine on one GPU within 15 minutes: tests, ratios to the bare forward pass, and a profiler trace.
#
#   benchmarks/gpu.sh OUT [STEP...]             # PYTHON: the interpreter, .venv/bin/python by default
#   benchmarks/gpu.sh --dry-run OUT [STEP...]   # every step in small, on the CPU, with five times the limits
#
# Each step has a time limit and writes OUT/STEP.txt as it goes, so that a step that is stopped keeps its figures.
# OUT/steps.txt has the exit status (124: stopped at its limit) and the seconds of each step. How long a step should
# take is an estimate for a recent data-centre GPU with 16 CPU cores; most of it is compilation.
#
#   step                limit  should take  what
#   tests               120 s         60 s  the tests marked gpu; it fails if there are none
#   resnet20            150 s        100 s  queries of Square per second, as ratios to the bare forward passes, eager
#                                           and compiled, at batch sizes 64, 256, 1024: resnet20 at 32 pixels
#   resnet20-no-graphs  120 s         80 s  the same, compiled without CUDA graphs
#   trace                60 s         35 s  0.2 s of Square, compiled, at batch size 64; trace.json.gz, for
#                                           https://ui.perfetto.dev, shows the gaps between the GPU's operators
#   resnet50            210 s        150 s  as resnet20: ResNet-50 at 224 pixels, random weights
#   resnet50-no-graphs  200 s        120 s  the same, compiled without CUDA graphs
#
# The limits sum to 860 s. Where one command may not take as long, name steps: the first four have 450 s.
set -uo pipefail

device=cuda seconds=2 trace_size=64 slack=1
resnet20_sizes=(64 256 1024) resnet50_sizes=(64 256 1024)
if [[ ${1-} == --dry-run ]]; then
    device=cpu seconds=0.2 trace_size=4 slack=5
    resnet20_sizes=(2 4) resnet50_sizes=(2)
    shift
fi
steps=" tests resnet20 resnet20-no-graphs trace resnet50 resnet50-no-graphs "
for name in "${@:2}"; do
    [[ $steps == *" $name "* ]] || set --
done
if [[ $# == 0 || $1 == -* ]]; then
    echo "usage: $0 [--dry-run] OUT [STEP...]; steps:$steps" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
shift
wanted=" $* "
cd "$(dirname "$0")/.." || exit 2
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-.venv/bin/python}
failed=0

step() { # NAME LIMIT COMMAND...
    local name=$1 limit=$((slack * $2)) begin=$SECONDS status
    shift 2
    [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.txt" 2>&1
    status=$?
    echo "$name: exit status $status, $((SECONDS - begin)) s of $limit s" | tee -a "$out/steps.txt"
    [[ $status == 0 ]] || failed=1
}

engine() { # NAME LIMIT VICTIM OPTION...
    step "$1" "$2" "$python" benchmarks/engine.py --device "$device" --seconds "$seconds" --only square \
        --victim "${@:3}"
}

step tests 120 "$python" -m pytest -q -p no:cacheprovider -m gpu tests
engine resnet20 150 resnet20 --batch "${resnet20_sizes[@]}" --compile "${resnet20_sizes[@]}"
engine resnet20-no-graphs 120 resnet20 --batch "${resnet20_sizes[@]}" --compile "${resnet20_sizes[@]}" --no-cuda-graphs
engine trace 60 resnet20 --batch "$trace_size" --compile "$trace_size" --trace "$out/trace.json.gz"
engine resnet50 210 resnet50 --batch "${resnet50_sizes[@]}" --compile "${resnet50_sizes[@]}"
engine resnet50-no-graphs 200 resnet50 --batch "${resnet50_sizes[@]}" --compile "${resnet50_sizes[@]}" --no-cuda-graphs
exit $failed
