#!/usr/bin/env bash
# Start a Ray cluster with token authentication on your own machines, one node per machine.
# Run it on each machine as the user who trains. Root is not needed.
set -euo pipefail

usage() {
  cat >&2 <<END
usage: $0 head [RAY_START_OPTION ...]
       $0 worker HEAD_ADDRESS[:PORT] [RAY_START_OPTION ...]
       $0 stop
Environment: NODE_ADDRESS (address of this machine, default: the first one), RAY_PORT (port of the head,
default: 6379), DASHBOARD_PORT (default: 8265), TMPDIR (a short path, default: /tmp), and for the token RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
~/.ray/auth_token.
END
  exit 2
}

fail() { # STATUS ERROR HINT: as laser-jnd prints errors
  echo "error: $2" >&2
  [[ -z $3 ]] || echo "hint: $3" >&2
  exit "$1"
}

folder=$HOME/.ray
log=$folder/laser-jnd.log
pid_file=$folder/laser-jnd.pid
sessions_file=$folder/laser-jnd.sessions # names the folder of Ray's sockets and logs
token_file=${RAY_AUTH_TOKEN_PATH:-$folder/auth_token}
port=${RAY_PORT:-6379}
dashboard_port=${DASHBOARD_PORT:-8265}
export RAY_AUTH_MODE=token

node_address() {
  echo "${NODE_ADDRESS:-$(hostname -I | cut -d' ' -f1)}"
}

has_token() {
  [[ -n ${RAY_AUTH_TOKEN:-} || -s $token_file ]]
}

is_running() { # false also if another program has the process id by now
  [[ -s $pid_file ]] && ps -o args= -p "$(<"$pid_file")" 2>/dev/null | grep -q "ray start"
}

# Ray runs under one process, so that "stop" ends only what this script started: "ray stop" would also
# end other clusters on this machine.
start_ray() { # RAY_START_OPTION ...
  ! is_running || fail 2 "You already run a node on this machine, process $(<"$pid_file")." "Stop it with \`$0 stop\`."
  mkdir -p "$folder"
  # Ray opens the folder of its sockets and logs to all users, so it is in one that only its owner can
  # enter. The next start removes it; until then, its logs may be needed.
  local sessions
  sessions=$(cat "$sessions_file" 2>/dev/null || true)
  [[ $sessions != */laser-jnd-?????? || -L $sessions || ! -O $sessions ]] || rm -rf "$sessions"
  sessions=$(mktemp -d "${TMPDIR:-/tmp}/laser-jnd-XXXXXX")
  echo "$sessions" >"$sessions_file"
  PYTHONUNBUFFERED=1 nohup ray start --block --disable-usage-stats --temp-dir "$sessions/r" "$@" \
    >"$log" 2>&1 </dev/null &
  local started=$!
  echo "$started" >"$pid_file"
  until grep -q "block forever" "$log" 2>/dev/null; do
    if ! kill -0 "$started" 2>/dev/null; then
      rm -f "$pid_file"
      tail -n 5 "$log" >&2
      fail 1 "Ray did not start. The last lines of $log are above." ""
    fi
    sleep 0.5
  done
}

start_head() { # RAY_START_OPTION ...
  if ! has_token; then
    [[ -z ${RAY_AUTH_TOKEN_PATH:-} ]] || fail 2 "$token_file has no token." "Correct RAY_AUTH_TOKEN_PATH."
    (umask 077 && ray get-auth-token --generate >/dev/null)
  fi
  local address
  address=$(node_address)
  start_ray --head --node-ip-address "$address" --port "$port" \
    --dashboard-host "$address" --dashboard-port "$dashboard_port" "$@"
  cat <<END
The head is running as process $(<"$pid_file"). Submit jobs to http://$address:$dashboard_port

To add a machine, copy the token to it and start a worker there:
  ssh MACHINE 'mkdir -p -m 700 ~/.ray' && scp -p $token_file MACHINE:.ray/auth_token
  cluster/on_premises/start.sh worker $address:$port

To train, on a machine with the token:
  export RAY_AUTH_MODE=token
  ray job submit --address http://$address:$dashboard_port -- laser-jnd train ...
END
}

start_worker() { # HEAD_ADDRESS[:PORT] RAY_START_OPTION ...
  has_token || fail 2 "$token_file has no token." "On the head, run \`scp -p ~/.ray/auth_token $(hostname):.ray/auth_token\`."
  local head=$1
  shift
  [[ $head == *:* ]] || head=$head:$port
  start_ray --address "$head" --node-ip-address "$(node_address)" "$@"
  echo "The node has joined $head as process $(<"$pid_file")."
}

stop_ray() {
  if ! is_running; then
    rm -f "$pid_file"
    echo "No node of start.sh is running on this machine."
    return
  fi
  local started
  started=$(<"$pid_file")
  kill -TERM "$started"
  for _ in {1..120}; do
    kill -0 "$started" 2>/dev/null || break
    sleep 0.5
  done
  ! kill -0 "$started" 2>/dev/null || fail 1 "Process $started did not exit within a minute." ""
  rm -f "$pid_file"
  echo "Stopped."
}

case ${1:-} in
  head) shift && start_head "$@" ;;
  worker) [[ $# -ge 2 ]] || usage; shift && start_worker "$@" ;;
  stop) [[ $# -eq 1 ]] || usage; stop_ray ;;
  *) usage ;;
esac
