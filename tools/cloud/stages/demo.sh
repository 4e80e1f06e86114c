# The main job, done as the tenant with the stock clients, and shown.
# shellcheck shell=bash

DEMO_SERVER=mybox DEMO_CONTAINER=hello
DEMO_PATIENCE=60 # seconds for a container to get where it is wanted

# show COMMAND...: the command as a user would type it, and what it prints.
show() {
    prompt "$@"
    "$@" || fail "$LOG/zun-agent.log" "$1 $2"
}

# show_brief COMMAND...: the same, of a table of everything only what a reader looks for.
show_brief() {
    local output
    prompt "$@"
    output=$("$@") || fail "$LOG/zun-agent.log" "$1 $2: $output"
    awk -F' *[|] *' '$2 ~ /^(uuid|name|image|command|status)$/ {
        printf "    %-8s %s\n", $2, $3}' <<<"$output"
}

# show_log NAME TEXT: a container's log, as soon as it has the text; a failure when it never has.
show_log() {
    local output i
    for ((i = 0; i < DEMO_PATIENCE; i++)); do
        output=$(zun logs "$1") || fail "$LOG/zun-agent.log" "zun logs $1: $output"
        [[ $output != *"$2"* ]] || break
        sleep 0.3
    done
    prompt zun logs "$1"
    echo "$output"
    [[ $output == *"$2"* ]] || fail "$LOG/zun-agent.log" "the log of $1 lacks: $2"
}

prompt() {
    local word
    printf '\n$'
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] || word="'$word'"
        printf ' %s' "$word"
    done
    printf '\n'
}

# The first time all of it; later what came of it.
show_demo() {
    local began=$SECONDS gateway
    export OS_CLOUD=demo
    if [ -e "$STATE/done/demo" ]; then
        show zun list
        return 0
    fi
    gateway=$("$VENV/bin/python" -c 'import ipaddress, sys
print(next(ipaddress.ip_network(sys.argv[1]).hosts()))' "$PRIVATE_CIDR")
    demo_sandbox
    demo_listing "$gateway"
    touch "$STATE/done/demo"
    say "$(printf '%-12s %6d s' demo $((SECONDS - began)))"
}

demo_sandbox() {
    if ! openstack server show "$DEMO_SERVER" -f value -c status >/dev/null 2>&1; then
        show openstack server create --image kubernetes/pause --flavor sandbox.small \
            --network private --wait -c name -c status -c addresses "$DEMO_SERVER"
    fi
    if ! zun show "$DEMO_CONTAINER" >/dev/null 2>&1; then
        # shellcheck disable=SC2016  # for the shell in the container
        show_brief zun run --name "$DEMO_CONTAINER" --hint sandbox="$DEMO_SERVER" alpine \
            sh -c 'echo "hello from $(hostname)"; exec sleep 1000000'
    fi
    container_is Running "$DEMO_CONTAINER"
    show_log "$DEMO_CONTAINER" "hello from $DEMO_SERVER"
}

# demo_listing GATEWAY: a container in a sandbox of its own, which goes with it.
demo_listing() {
    if ! zun show pingtest >/dev/null 2>&1; then # left by a demonstration that was interrupted
        show_brief zun run --name pingtest alpine ping -c 4 "$1"
    fi
    show zun list
    container_is Stopped pingtest
    show zun list
    show_log pingtest "bytes from $1"
    show zun delete pingtest
}

# container_is STATUS NAME: waits for it.
container_is() {
    local status i
    for ((i = 0; i < DEMO_PATIENCE; i++)); do
        status=$(zun show "$2" | awk '$2 == "status" {print $4}')
        [ "$status" != "$1" ] || return 0
        [ "$status" != Error ] || break
        sleep 0.3
    done
    zun show "$2"
    fail "$LOG/zun-agent.log" "container $2 is ${status:-unknown}, not $1"
}
