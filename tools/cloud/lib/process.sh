# Processes: started in sessions of their own, known by pid and start time, stopped by those.
# shellcheck shell=bash

# pid_started PID: the process's start time in clock ticks; nothing for a zombie or no process.
# It is what makes a recorded pid safe to signal: a pid is reused, and a daemon's command line
# and environment are no proof, since OpenStack's daemons overwrite both.
pid_started() {
    local stat fields
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    # the name before the last parenthesis may hold anything; the state comes next
    read -r -a fields <<<"${stat##*) }"
    [ "${fields[0]}" = Z ] || echo "${fields[19]}"
}

# running NAME: whether the recorded process still is the one that was started.
running() {
    local pid began
    read -r pid began _ 2>/dev/null <"$RUN/$1.pid" || return 1
    [ -n "$began" ] && [ "$(pid_started "$pid")" = "$began" ]
}

# start NAME STAMP COMMAND...: runs COMMAND in the background unless it runs already from the same
# STAMP, which stands for its configuration and code. A change of those restarts it.
start() {
    local name=$1 stamp=$2 pid old
    shift 2
    if running "$name"; then
        read -r _ _ old <"$RUN/$name.pid"
        [ "$old" = "$stamp" ] && return 0
        stop "$name"
    fi
    echo "=== $(date -Is) $*" >>"$LOG/$name.log"
    alone "$@" >>"$LOG/$name.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid $(pid_started "$pid") $stamp" >"$RUN/$name.pid"
}

# alone COMMAND...: becomes COMMAND in a session of its own, without any other open file: a lock of
# this tool, or of whoever called it, would be held for as long as the service runs.
alone() {
    local file
    for file in "/proc/$BASHPID/fd/"*; do
        case ${file##*/} in
            [012] | 255) ;; # 255 is the shell's own
            *) eval "exec ${file##*/}>&-" ;;
        esac
    done
    exec setsid "$@"
}

# as_user USER: sets AS to the words that drop root for good and keep the process's pid. nova gets at
# root again by sudo; zun does not, as by etc/systemd/zun-agent.service.
as_user() {
    local never=()
    [ "$1" != zun ] || never=(--bounding-set=-all --no-new-privs)
    AS=(setpriv --reuid="$1" --regid="$1" --init-groups "${never[@]}"
        env HOME="$ALLINONE_DIR/home/$1" USER="$1" LOGNAME="$1")
}

# stop NAME [SECONDS]: TERM, then KILL for what is left of its session. Of an engine only itself:
# containerd's shims are in its session, and with them the users' containers.
stop() {
    local name=$1 seconds=${2:-15} pid i
    if running "$name"; then
        read -r pid _ <"$RUN/$name.pid"
        kill -TERM "$pid" 2>/dev/null || true
        for ((i = 0; i < seconds * 10; i++)); do
            running "$name" || break
            sleep 0.1
        done
        case $name in
            dockerd* | containerd*) ! running "$name" || kill -KILL "$pid" || true ;;
            *) pkill -KILL -s "$pid" || true ;;
        esac
    fi
    rm -f "$RUN/$name.pid"
}

# wait_for SECONDS NAME COMMAND...: until COMMAND succeeds; fails early when service NAME died.
wait_for() {
    local seconds=$1 name=$2 i
    shift 2
    for ((i = 0; i < seconds * 5; i++)); do
        "$@" >/dev/null 2>&1 && return 0
        [ ! -e "$RUN/$name.pid" ] || running "$name" || fail "$LOG/$name.log" "$name ended"
        sleep 0.2
    done
    fail "$LOG/$name.log" "$name did not answer within $seconds s"
}

# joined NAME: whether nova-compute, since its last start, listens for work. It says so at debug.
joined() {
    # not through a pipe, which tac would find closed
    awk '/Join ServiceGroup membership/ {found = 1; exit}
        /^=== / {exit} END {exit !found}' < <(tac "$LOG/$1.log")
}

# http_up URL: any answer below 500 shows a service that works.
http_up() {
    curl -s -o /dev/null --max-time 10 -w '%{http_code}' "$1" | grep -q '^[2-4]'
}
