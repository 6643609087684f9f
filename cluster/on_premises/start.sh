#!/usr/bin/env bash
# Starts a Ray cluster on machines of one's own, one node a machine, and asks all who come for a token.
# It must be said on each machine, as the user who trains; root is not needed.
set -euo pipefail

usage() {
  cat >&2 <<END
usage: $0 head [RAY_START_OPTION ...]
       $0 worker HEAD_ADDRESS[:PORT] [RAY_START_OPTION ...]
       $0 stop
Environment: NODE_ADDRESS (of this machine, default: its first address), RAY_PORT (of the head, 6379),
DASHBOARD_PORT (8265), and for the token RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
END
  exit 2
}

fail() { # STATUS TEXT: one line, as laser-jnd's own errors
  echo "start.sh: error: $2" >&2
  exit "$1"
}

folder=$HOME/.ray
log=$folder/laser-jnd.log
pid_file=$folder/laser-jnd.pid
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

is_running() { # also false where the number was given to another program since
  [[ -s $pid_file ]] && ps -o args= -p "$(<"$pid_file")" 2>/dev/null | grep -q "ray start"
}

# Ray stays below one process, which "stop" ends with all that it started: "ray stop" would also end
# the clusters of others on this machine.
start_ray() { # RAY_START_OPTION ...
  ! is_running || fail 2 "Node: expected none of this user's here, got process $(<"$pid_file"). End it: $0 stop."
  mkdir -p "$folder"
  PYTHONUNBUFFERED=1 nohup ray start --block --disable-usage-stats "$@" >"$log" 2>&1 </dev/null &
  local started=$!
  echo "$started" >"$pid_file"
  until grep -q "block forever" "$log" 2>/dev/null; do
    if ! kill -0 "$started" 2>/dev/null; then
      rm -f "$pid_file"
      tail -n 5 "$log" >&2
      fail 1 "Ray: expected that it starts, got the lines above, of $log."
    fi
    sleep 0.5
  done
}

start_head() { # RAY_START_OPTION ...
  if ! has_token; then
    [[ -z ${RAY_AUTH_TOKEN_PATH:-} ]] || fail 2 "Token: expected one in $token_file, got none. Correct RAY_AUTH_TOKEN_PATH."
    (umask 077 && ray get-auth-token --generate >/dev/null)
  fi
  local address
  address=$(node_address)
  start_ray --head --node-ip-address "$address" --port "$port" \
    --dashboard-host "$address" --dashboard-port "$dashboard_port" "$@"
  cat <<END
The head runs, process $(<"$pid_file"). Jobs: http://$address:$dashboard_port

On each other machine, with the token brought there first:
  ssh MACHINE 'mkdir -p -m 700 ~/.ray' && scp -p $token_file MACHINE:.ray/auth_token
  cluster/on_premises/start.sh worker $address:$port

To train, where the token is:
  export RAY_AUTH_MODE=token
  ray job submit --address http://$address:$dashboard_port -- laser-jnd train ...
END
}

start_worker() { # HEAD_ADDRESS[:PORT] RAY_START_OPTION ...
  has_token || fail 2 "Token: expected the head's in $token_file, got none. On the head: scp -p ~/.ray/auth_token $(hostname):.ray/auth_token."
  local head=$1
  shift
  [[ $head == *:* ]] || head=$head:$port
  start_ray --address "$head" --node-ip-address "$(node_address)" "$@"
  echo "The node has joined $head, process $(<"$pid_file")."
}

stop_ray() {
  if ! is_running; then
    rm -f "$pid_file"
    echo "Nothing runs here that start.sh has started."
    return
  fi
  local started
  started=$(<"$pid_file")
  kill -TERM "$started"
  for _ in {1..120}; do
    kill -0 "$started" 2>/dev/null || break
    sleep 0.5
  done
  ! kill -0 "$started" 2>/dev/null || fail 1 "Ray: expected its end within a minute, got process $started still there."
  rm -f "$pid_file"
  echo "Stopped."
}

case ${1:-} in
  head) shift && start_head "$@" ;;
  worker) [[ $# -ge 2 ]] || usage; shift && start_worker "$@" ;;
  stop) [[ $# -eq 1 ]] || usage; stop_ray ;;
  *) usage ;;
esac
