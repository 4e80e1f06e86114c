# What the operator sees: stages with their times, and failures with the end of their log.
# shellcheck shell=bash

say() { printf '%(%T)T  %s\n' -1 "$*"; }

# fail LOG MESSAGE...: names the log, shows its end, and ends the shell.
fail() {
    local log=$1
    shift
    {
        say "FAILED: $*"
        if [ -s "$log" ]; then
            echo "          last lines of $log:"
            tail -n 15 "$log" | sed 's/^/          | /'
        fi
    } >&2
    exit 1
}

die() { fail /dev/null "$@"; }

# run_stage NAME: stage_NAME in a shell of its own that ends at its first error; prints its time.
# It has no hold on this tool's lock (9), which what it starts would keep.
# The stage is put in the background since errexit is ignored below an if, ! or ||.
run_stage() {
    local name=$1 log=$LOG/stage-$1.log began=$EPOCHREALTIME rc=0
    ( set -eu -o pipefail; "stage_${name//-/_}" ) >"$log" 2>&1 9>&- &
    wait $! || rc=$?
    [ $rc = 0 ] || fail "$log" "stage $name"
    say "$(printf '%-12s %6.1f s' "$name" \
        "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN {print b - a}')")"
}

# run_stages NAME...: side by side; ends this shell when one failed, after all have ended.
run_stages() {
    local name pids=() pid rc=0
    for name in "$@"; do
        run_stage "$name" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || rc=1; done
    [ $rc = 0 ] || exit 1
}
