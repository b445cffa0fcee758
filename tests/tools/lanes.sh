#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# lanes.sh PYTHON [ARGUMENT...]   Runs pytest twice at once, with these arguments: over LANE, and over
#   every other test. Each has mounts of its own, and an empty /run/agentwall, so that what runs and
#   daemons leave and look for there is theirs alone. The output of LANE comes after that of the others.
# exit: 0 both passed; 1 one did not, or found no test
set -euo pipefail
cd "$(dirname "$0")/../.."

# About as long as all others together.
LANE=(tests/daemon tests/probes tests/evasion tests/policy)
# For a test that hangs.
LIMIT_S=2700

python=$1
shift
apart='mkdir -p -m 711 /run/agentwall && mount -t tmpfs -o mode=711 agentwall /run/agentwall && exec "$@"'
pytest=(unshare --mount --propagation slave sh -c "$apart" apart "$python" -m pytest "$@")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
failed=0
timeout -k 10 "$LIMIT_S" "${pytest[@]}" "${LANE[@]}" >"$log" 2>&1 &
timeout --foreground -k 10 "$LIMIT_S" "${pytest[@]}" "${LANE[@]/#/--ignore=}" || failed=1
wait $! || failed=1
cat "$log"
exit $failed
