# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What tools/setup, tools/demo and tools/test share. Sourced, never run.

CONVGPU_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CONVGPU_HOME=${CONVGPU_HOME:-/opt/convgpu}   # the virtual environment and the stamp of what was built lie here
VENV=$CONVGPU_HOME/venv
DOCKERD_RUN=/run/convgpu-dockerd              # pid file and log of a dockerd that we started ourselves

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$1" >&2; [[ -n ${2:-} ]] && printf 'next:  %s\n' "$2" >&2; exit 1; }

need_root() {
    [[ $(id -u) == 0 ]] || die "$(basename "$0") needs root: it installs packages, loads BPF programs and talks to Docker" \
        "run it again with sudo"
}

docker_answers() { docker info >/dev/null 2>&1; }

# Starts Docker where none runs: by the service manager where there is one, else a dockerd of our own without networks.
ensure_docker() {
    docker_answers && return
    if [[ -d /run/systemd/system ]] && systemctl start docker 2>/dev/null && docker_answers; then
        say "started the Docker service"
        return
    fi
    mkdir -p "$DOCKERD_RUN"
    rm -f "$DOCKERD_RUN/dockerd.pid" # nobody answers: a number left from before could be anybody's now
    started_docker=1
    say "starting dockerd (no bridge, no iptables; log in $DOCKERD_RUN/dockerd.log)"
    # A new process group and no terminal: it outlives this script and no Ctrl-C reaches it.
    setsid dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=overlay2 \
        --pidfile "$DOCKERD_RUN/dockerd.pid" >"$DOCKERD_RUN/dockerd.log" 2>&1 </dev/null &
    for _ in $(seq 60); do
        docker_answers && return
        sleep 0.5
    done
    tail -20 "$DOCKERD_RUN/dockerd.log" >&2
    die "dockerd did not start" "read $DOCKERD_RUN/dockerd.log"
}

# Stops the dockerd that this script's ensure_docker started; one that was there before is left alone.
stop_own_docker() {
    [[ -n ${started_docker:-} && -f $DOCKERD_RUN/dockerd.pid ]] || return 0
    local pid
    pid=$(<"$DOCKERD_RUN/dockerd.pid")
    if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == dockerd ]]; then
        say "stopping the dockerd that was started here"
        kill "$pid"
        for _ in $(seq 60); do [[ -d /proc/$pid ]] || break; sleep 0.25; done
    fi
    rm -f "$DOCKERD_RUN/dockerd.pid"
}

# tracefs is what BPF tracepoints are found through; some minimal hosts do not mount it.
ensure_tracefs() {
    mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
}
