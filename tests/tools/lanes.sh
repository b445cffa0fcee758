#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# lanes.sh PYTHON [ARGUMENT...]   Runs pytest over all tests, in parts of which LANES run at once, with
#   these arguments. Each has mounts of its own, and an empty /run/agentwall, so that what runs and
#   daemons leave and look for there is theirs alone. What a part says comes when it has ended.
# exit: 0 all passed; 1 one did not, or found no test
set -euo pipefail
cd "$(dirname "$0")/../.."

# Longest first, so that the lanes end together; the last part is every other test.
PARTS=("tests/daemon" "tests/cli" "tests/kernel" "tests/evasion tests/probes" "tests/agree tests/bench"
	"tests/policy tests/detect" "")
# Of a machine with two processors: beside more, what tests wait for comes late.
LANES=2
# For a test that hangs.
LIMIT_S=2700

python=$1
shift
arguments=("$@")
apart='mkdir -p -m 711 /run/agentwall && mount -t tmpfs -o mode=711 agentwall /run/agentwall && exec "$@"'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM

run_part() { # NUMBER
	local words child started=$SECONDS rc=0
	read -ra words <<<"${PARTS[$1]}"
	[ ${#words[@]} -gt 0 ] || read -ra words <<<"$(printf ' --ignore=%s' ${PARTS[*]})"
	# Interrupted, pytest takes down what its tests have made; in the background it would not hear it.
	env --default-signal=INT timeout -s INT -k 60 "$LIMIT_S" \
		unshare --mount --propagation slave sh -c "$apart" apart \
		"$python" -m pytest "${arguments[@]}" "${words[@]}" >"$work/$1" 2>&1 &
	child=$!
	trap 'kill -INT $child; wait $child; exit 130' TERM
	wait $child || rc=$?
	exec 9>"$work/lock"
	flock 9
	echo "== ${PARTS[$1]:-other tests}: exit $rc after $((SECONDS - started)) s"
	cat "$work/$1"
	[ $rc -eq 0 ]
}

failed=0
for part in "${!PARTS[@]}"; do
	[ "$part" -lt $LANES ] || wait -n || failed=1
	run_part "$part" &
done
for ((left = LANES; left > 0; left--)); do
	wait -n || failed=1
done
[ $failed -eq 0 ] || echo "agentwall tests: FAILED"
exit $failed
