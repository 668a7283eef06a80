#!/bin/sh
# Run Prometheus with Tidegate's rules and Alertmanager with its routes, on loopback, for a service
# that is already running. Interrupt it to stop both; their data is kept in .monitoring/.
#
#     docker/monitoring.sh [HOST:PORT of the service]
#
# PROMETHEUS_PORT and ALERTMANAGER_PORT change the ports. RETRAIN is the address that drift alerts
# are sent to (`tidegate retrain-request`), and TOKEN_FILE that receiver's token (created if it does
# not exist). DATA is another data folder.
set -eu

service=${1:-127.0.0.1:8000}
prometheus_port=${PROMETHEUS_PORT:-9090}
alertmanager_port=${ALERTMANAGER_PORT:-9093}
retrain=${RETRAIN:-127.0.0.1:9000}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
data=${DATA:-$root/.monitoring}
tools=$root/.tools
sh "$root/docker/fetch_prometheus.sh"
mkdir -p "$data"
token=${TOKEN_FILE:-$data/retrain-token}
[ -e "$token" ] || (
    umask 077
    od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$token"
)

sed -e "s|rules/\*|$root/docker/prometheus/rules/*|" \
    -e "s|tidegate:8000|$service|" \
    -e "s|alertmanager:9093|127.0.0.1:$alertmanager_port|" \
    "$root/docker/prometheus/prometheus.yml" >"$data/prometheus.yml"
sed -e "s|retrain:9000|$retrain|" \
    -e "s|/run/retrain/token|$token|" \
    "$root/docker/alertmanager/alertmanager.yml" >"$data/alertmanager.yml"

children=
stop() {
    trap - EXIT HUP INT TERM
    # shellcheck disable=SC2086 # a list of numbers
    [ -z "$children" ] || kill $children 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 0' HUP INT TERM

(
    cd "$tools/alertmanager" # the fetched binary reads its templates relative to this folder
    exec usr/bin/prometheus-alertmanager --config.file="$data/alertmanager.yml" \
        --storage.path="$data/alertmanager" --cluster.listen-address= \
        --web.listen-address="127.0.0.1:$alertmanager_port" --log.level=warn
) &
children=$!
"$tools/prometheus/usr/bin/prometheus" --config.file="$data/prometheus.yml" \
    --storage.tsdb.path="$data/prometheus" --enable-feature=exemplar-storage --log.level=warn \
    --web.listen-address="127.0.0.1:$prometheus_port" &
children="$children $!"

echo "Prometheus    http://127.0.0.1:$prometheus_port scrapes $service"
echo "Alertmanager  http://127.0.0.1:$alertmanager_port sends drift alerts to $retrain with the token in $token"
while kill -0 $children 2>/dev/null; do # while both run
    sleep 1 &
    wait $!
done
echo "Prometheus or Alertmanager exited: see its log lines above" >&2
exit 1
