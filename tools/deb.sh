#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds dist/agentwall_VERSION_ARCH.deb from this tree, with every Python package that agentwall
# needs in it: the host installs nothing from anywhere else. Needs `make setup` first.
#   deb.sh [OUTPUT DIRECTORY]
# The packages come from build/wheelhouse, which pip fills when the requirements have changed;
# AGENTWALL_NO_INSTALL=1: stop instead of filling it.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-dist}")
python=/usr/bin/python3
prefix=/usr/lib/agentwall

die() { echo "agentwall deb: $*" >&2; exit 1; }

[ -x .venv/bin/python ] || die ".venv is absent: run make setup"
[ -e agentwall/_bpf/agentwall.bpf.o ] || die "the BPF object is absent: run make bpf"

# Compiled packages fit one minor version of Python only.
abi=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$($python -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
version=$(.venv/bin/python -c 'import agentwall; print(agentwall.__version__)')
# 1.0.dev1 comes before 1.0 in both worlds.
debian_version=$(sed -E 's/\.?(dev|a|b|rc)([0-9]+)$/~\1\2/' <<<"$version")
arch=$(dpkg --print-architecture)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

# pip without this machine's settings: nothing may come from anywhere but the wheelhouse.
pip_offline() { env -i PATH="$PATH" HOME="$work" PIP_CONFIG_FILE=/dev/null .venv/bin/python -m pip "$@"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
site=$tree$prefix/lib/python$abi/site-packages

fill_wheelhouse() {
	local requirements key
	requirements=$(.venv/bin/python -c '
import tomllib
print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))')
	key=$(printf '%s\n%s\n%s\n' "$requirements" "$abi" "$arch" | sha256sum | cut -c1-16)
	wheelhouse=build/wheelhouse/$key
	[ -e "$wheelhouse/complete" ] && return
	[ "${AGENTWALL_NO_INSTALL:-}" = 1 ] &&
		die "$wheelhouse is absent; AGENTWALL_NO_INSTALL=1 is set, so nothing is fetched"
	echo "agentwall deb: fetching wheels into $wheelhouse with pip"
	mkdir -p build/wheelhouse
	# Under another name until all is there: two builds at once do not see half of it.
	local partial
	partial=$(mktemp -d build/wheelhouse/partial-XXXXXX)
	xargs -d '\n' .venv/bin/python -m pip download --quiet --disable-pip-version-check \
		--only-binary :all: --dest "$partial" <<<"$requirements" ||
		{ rm -rf "$partial"; die "pip fetched nothing"; }
	touch "$partial/complete"
	chmod 755 "$partial"
	mv -T "$partial" "$wheelhouse" 2>/dev/null || rm -rf "$partial"
}

# A virtual environment that needs no path of its own: Python finds pyvenv.cfg beside its bin/.
install_python() {
	.venv/bin/python -m hatchling build -t wheel -d "$work/wheel" >/dev/null 2>"$work/log" ||
		die "hatchling failed: $(cat "$work/log")"
	mkdir -p "$site" "$tree$prefix/bin" "$tree/usr/bin"
	pip_offline install --quiet --disable-pip-version-check --root-user-action ignore \
		--no-index --find-links "$wheelhouse" --no-compile --target "$site" "$work"/wheel/*.whl ||
		die "pip could not install from $wheelhouse"
	ln -s "$python$(sed 's/^3//' <<<"$abi")" "$tree$prefix/bin/python3"
	printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' \
		"$abi" >"$tree$prefix/pyvenv.cfg"
	# What pip made for the interpreter that ran it, and what no program reads.
	rm -rf "$site/bin" "$site"/*.dist-info/{RECORD,REQUESTED,INSTALLER,direct_url.json}
	find "$site/numpy" -depth -type d -name tests -exec rm -rf {} +
	find "$site" -name '*.pyi' -delete
	local metadata=$site/agentwall-$version.dist-info/entry_points.txt name target
	while IFS=' =:' read -r name target function; do
		[ -n "${function:-}" ] || continue
		cat >"$tree$prefix/bin/$name" <<-END
		#!$prefix/bin/python3 -I
		import sys

		from $target import $function

		sys.exit($function())
		END
		chmod 755 "$tree$prefix/bin/$name"
		ln -s "../lib/agentwall/bin/$name" "$tree/usr/bin/$name"
	done <"$metadata"
	# Compiled here and taken as it is there: root's python would write it beside the source.
	$python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$tree" -p / "$site"
}

install_files() {
	local doc=$tree/usr/share/doc/agentwall units=$tree/usr/lib/systemd/system
	install -d "$units" "$doc/examples/hooks.d" "$tree/etc/agentwall/policies"
	install -m 644 deploy/agentwall.{service,socket,slice} "$units"
	install -m 644 deploy/agentwall.yaml "$tree/etc/agentwall"
	install -m 644 deploy/policies/README "$tree/etc/agentwall/policies"
	install -m 644 deploy/hooks.d/*.json "$doc/examples/hooks.d"
	install -m 644 deploy/daemon.json.example "$doc/examples"
	install -m 644 docs/*.md docs/*.schema.json "$doc"
	cat LICENSE LICENSES/* >"$doc/copyright"
	(cd "$site" && for each in *.dist-info; do
		each=${each%.dist-info}
		echo "${each%-*} ${each##*-}"
	done) >"$doc/python-packages.txt"
}

write_control() {
	local control=$tree/DEBIAN
	mkdir "$control"
	(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$control/md5sums"
	(cd "$tree" && find etc -type f -printf '/%p\n' | sort) >"$control/conffiles"
	install -m 755 deploy/debian/{postinst,prerm,postrm} "$control"
	cat >"$control/control" <<-END
	Package: agentwall
	Version: $debian_version
	Architecture: $arch
	Maintainer: agentwall <root@localhost>
	Installed-Size: $(du -sk --exclude DEBIAN "$tree" | cut -f1)
	Depends: python3 (>= $abi~), python3 (<< $next~), libbpf1, libc6 (>= 2.28), libgcc-s1, libstdc++6
	Recommends: python3-bpfcc
	Suggests: podman, docker.io, runc
	Section: net
	Priority: optional
	Description: eBPF egress firewall and monitor for agent sandboxes
	 Keeps every sandbox of a host under a policy that says what it may reach on the
	 network, and records what it tried. All Python packages it needs are inside.
	END
}

fill_wheelhouse
install_python
install_files
write_control
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
deb=$out/agentwall_${debian_version}_$arch.deb
# xz takes ten times as long for a seventh less.
dpkg-deb --root-owner-group -Zzstd -z3 --build "$tree" "$deb" >/dev/null
echo "$deb"
