#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# matrix.sh [KERNEL...]   Runs the kernel tests on other kernels under emulation, two at a time.
#   A kernel that cannot be downloaded is skipped with the reason; one that is only tried is reported
#   and never fails the run.
# exit: 0 every promised kernel that could be reached passed; 1 one did not
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- 6.1 6.12 7.3 5.10

tried=" 5.10 "
# An emulated processor is about 15 times slower.
declare -A limit_s=([6.1]=3300 [6.12]=3300 [7.3]=1500 [5.10]=600)
# All that is quick on the oldest kernel that is promised, the daemon as well, nearly all on the newest
# that hosts run, and elsewhere what shows that the programs load, decide, learn and read.
core=
for name in wall connect inbound modes said resolve scan belt scope plain join; do
	core+=" tests/kernel/test_$name.py"
done
declare -A tests=([6.1]="tests/kernel tests/agree tests/evasion tests/daemon/test_service.py
		tests/probes/test_programs.py tests/probes/test_uprobes.py tests/probes/test_loading.py"
	[6.12]="tests/kernel tests/agree"
	[7.3]=$core [5.10]="tests/kernel/test_wall.py tests/kernel/test_connect.py")

# Debian's cloud kernels do not load these by themselves.
guest='modprobe -a veth tun 2>/dev/null; exec "$@"'

run_on() { # KERNEL
	# One processor each: 7.3 now and then dies while it patches its own code on two emulated ones.
	tests/tools/vmtest.sh "$1" -t "${limit_s[$1]:-300}" -c 1 -- \
		bash -c "$guest" guest .venv/bin/python -m pytest -p no:cacheprovider -q --tb=short \
		-m "kernel and not slow" ${tests[$1]:-tests/kernel} 2>&1
}

judge() { # KERNEL LOG VERDICT: writes one line to VERDICT, `ok` or `bad` before it
	local kernel=$1 log=$2 rc attempt started=$SECONDS took
	for attempt in 1 2 3; do # 125: the machine did not come up, which says nothing about agentwall
		rc=0
		run_on "$kernel" >"$log" || rc=$?
		[ $rc -eq 125 ] || break
	done
	took="$((SECONDS - started)) s, attempt $attempt"
	if [ $rc -eq 0 ]; then
		echo "ok $kernel: passed, $took: $(tail -n 1 "$log")"
	elif [ $rc -eq 123 ]; then
		echo "ok $kernel: skipped, out of reach: $(grep '^vmtest: ' "$log" | tail -n 1)"
	elif [[ $tried == *" $kernel "* ]]; then
		echo "ok $kernel: tried, does not pass (exit $rc, $took): $(tail -n 1 "$log")"
	else
		echo "bad $kernel: FAILED (exit $rc, $took)"
	fi >"$3"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernels=("$@")
echo "agentwall matrix: ${kernels[*]}"
# Two lanes, dealt there and back: the first kernels take longest, the last ones least.
lane() { # FIRST SECOND: the places of this lane among four
	local place
	for ((place = 0; place < ${#kernels[@]}; place++)); do
		if ((place % 4 == $1 || place % 4 == $2)); then
			judge "${kernels[place]}" "$work/${kernels[place]}.log" "$work/${kernels[place]}.verdict"
		fi
	done
}
lane 0 3 &
lane 1 2 &
wait
for kernel in "${kernels[@]}"; do
	echo "== $kernel"
	cat "$work/$kernel.log"
done
failed=0
for kernel in "${kernels[@]}"; do
	read -r verdict line <"$work/$kernel.verdict"
	echo "agentwall matrix: $line"
	[ "$verdict" = ok ] || failed=1
done
exit $failed
