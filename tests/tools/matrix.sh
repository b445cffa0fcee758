#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# matrix.sh [KERNEL...]   Runs the kernel tests on other kernels, one after another, under emulation.
#   A kernel that cannot be downloaded is skipped with the reason; one that is only tried is reported
#   and never fails the run.
# exit: 0 every promised kernel that could be reached passed; 1 one did not
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- 6.1 6.12 7.3 5.10

tried=" 5.10 "
# Together under 15 minutes whatever happens: an emulated processor is about 15 times slower.
declare -A limit_s=([6.1]=300 [6.12]=300 [7.3]=150 [5.10]=120)
# Everything quick on the oldest and the newest kernel that hosts run; loading and deciding elsewhere.
declare -A tests=([6.1]=tests [6.12]=tests)
# 7.3 now and then dies while it patches its own code on two emulated processors.
declare -A processors=([7.3]=1)

# Debian's cloud kernels do not load these by themselves.
guest='modprobe -a veth tun 2>/dev/null; exec "$@"'

run_on() { # KERNEL
	tests/tools/vmtest.sh "$1" -t "${limit_s[$1]:-300}" -c "${processors[$1]:-2}" -- \
		bash -c "$guest" guest .venv/bin/python -m pytest -p no:cacheprovider -q --tb=short \
		-m "kernel and not slow" --ignore=tests/bench "${tests[$1]:-tests/kernel}" 2>&1
}

failed=0
summary=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for kernel in "$@"; do
	started=$SECONDS
	for attempt in 1 2 3; do # 125: the machine did not come up, which says nothing about agentwall
		echo "agentwall matrix: $kernel, attempt $attempt"
		rc=0
		run_on "$kernel" | tee "$log" || rc=$?
		[ $rc -eq 125 ] || break
	done
	took="$((SECONDS - started)) s"
	if [ $rc -eq 0 ]; then
		summary+=("$kernel: passed, $took: $(tail -n 1 "$log")")
	elif [ $rc -eq 123 ]; then
		summary+=("$kernel: skipped, out of reach: $(grep '^vmtest: ' "$log" | tail -n 1)")
	elif [[ $tried == *" $kernel "* ]]; then
		summary+=("$kernel: tried, does not pass (exit $rc, $took)")
	else
		summary+=("$kernel: FAILED (exit $rc, $took)")
		failed=1
	fi
done
printf 'agentwall matrix: %s\n' "${summary[@]}"
exit $failed
