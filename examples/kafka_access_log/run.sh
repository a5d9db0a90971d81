#!/usr/bin/env bash
# Starts a Kafka broker, feeds a web server's log into it line by line, and shows hits per status as they come.
# Ctrl-C ends it. `run.sh once` ends with what the log has.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
kafka=$root/tests/services/kafka
servers=127.0.0.1:19292
tidemill=${TIDEMILL_BIN:-$root/target/release/tidemill}

[ -x "$tidemill" ] || { echo "build it first: cargo build --release --features kafka" >&2; exit 1; }
work=$(mktemp -d)
mkfifo "$work/until" "$work/ready"
"$kafka" run "$work/broker" "${servers##*:}" < "$work/until" > "$work/ready" &
# The broker ends when this is closed, which is when the script ends.
exec 9> "$work/until"
trap 'exec 9>&-; wait; rm -rf "$work"' EXIT
read -r answer < "$work/ready"
[ "$answer" = ready ]
"$kafka" create "$servers" access-log 4
"$kafka" create "$servers" hits-per-status 1 cleanup.policy=compact

cd "$work"
if [ "${1:-}" = once ]; then
    cat "$root"/examples/data/access_log/*.log | "$kafka" write "$servers" access-log
    "$tidemill" run "$here/job.sql" --trigger available-now --progress none
else
    cat "$root"/examples/data/access_log/*.log |
        while IFS= read -r line; do printf '%s\n' "$line"; sleep 0.01; done | "$kafka" write "$servers" access-log &
    "$tidemill" run "$here/job.sql" --progress none || true
fi
echo "in the topic hits-per-status:"
# Tabs that follow one another would count as one: the key of lines without a status is empty.
"$kafka" read "$servers" hits-per-status | tr '\t' '\037' | while IFS=$'\037' read -r _ _ key value; do
    printf '%s\t%s\n' "$(base64 -d <<< "$key")" "$(base64 -d <<< "$value")"
done | awk -F'\t' '{last[$1] = $2} END {for (key in last) print last[key]}' | sort
