#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings a Debian machine to where the Makefile's targets work. Says what it installs; installs only
# what is missing; is quick and silent when nothing is.
#   setup.sh packages SET...   Debian packages of these sets of tools/packages.txt
#   setup.sh venv              .venv with agentwall in editable mode and its test extra
#   setup.sh clients           build/clients with the npm packages of tests/clients/package.json, and
#                              Debian's node
#   setup.sh as-root CMD...    CMD as root, through sudo where need be
# With AGENTWALL_NO_INSTALL=1 it names what is missing and stops with exit code 1.
set -euo pipefail
cd "$(dirname "$0")/.."
list=tools/packages.txt
policy=/usr/sbin/policy-rc.d

say() { echo "agentwall setup: $*"; }
die() { say "$*" >&2; exit 1; }

refuse_when_told() { # WHAT
	[ "${AGENTWALL_NO_INSTALL:-}" = 1 ] || return 0
	die "$1; AGENTWALL_NO_INSTALL=1 is set, so nothing is installed"
}

# Run as root: directly, or through sudo.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo --preserve-env=AGENTWALL_NO_INSTALL "$@"
	else
		die "needs root for: $*; run as root or install sudo"
	fi
}

# Columns of the list for the sets given, one package a line.
wanted() { # COLUMN SET...
	local column=$1
	shift
	awk -v column="$column" -v sets=" $* " \
		'!/^#/ && NF && index(sets, " " $1 " ") { print $column }' "$list" | sort -u
}

missing_packages() { # SET...
	local installed
	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u)
	comm -23 <(wanted 2 "$@") <(echo "$installed")
}

apt_install() { # PACKAGE...
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# Debian starts a service as it installs it. The tests start their own, on ports and in namespaces of
# their own, so nothing may run for having set up.
hold_services() {
	[ -e "$policy" ] && return
	printf '#!/bin/sh\n# Made by agentwall tools/setup.sh for the length of one installation.\nexit 101\n' |
		as_root tee "$policy" >/dev/null
	as_root chmod 755 "$policy"
	trap 'as_root rm -f "$policy"' EXIT
}

# Keep what was just installed from starting at the next boot, where systemd does the booting.
disable_units() { # PACKAGE...
	command -v systemctl >/dev/null || return 0
	local package units unit
	for package in "$@"; do
		units=$(awk -v package="$package" '!/^#/ && $2 == package { print $3; exit }' "$list")
		[ "$units" = - ] && continue
		for unit in ${units//,/ }; do
			[ -e "/lib/systemd/system/$unit" ] || continue
			as_root systemctl --quiet disable "$unit" >/dev/null 2>&1 ||
				say "could not disable $unit: it starts at the next boot"
		done
	done
}

packages() { # SET...
	if ! command -v dpkg-query >/dev/null; then
		say "no dpkg here: have the equivalents of these at hand:" $(wanted 2 "$@")
		return
	fi
	local missing
	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -gt 0 ] || return 0
	refuse_when_told "missing Debian packages: ${missing[*]}"
	say "installing with apt-get, reasons in $list: ${missing[*]}"
	hold_services
	ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || as_root apt-get update -q
	# Lists that are too old name files that are gone: read them again and try once more.
	apt_install "${missing[@]}" || { as_root apt-get update -q && apt_install "${missing[@]}"; }
	disable_units "${missing[@]}"
}

# What .venv was made from: where the tree lies, the interpreter, and pyproject.toml.
venv_key() {
	{ pwd; /usr/bin/python3 --version; cat pyproject.toml; } | sha256sum | cut -d' ' -f1
}

venv() {
	local key stamp=.venv/agentwall-setup
	key=$(venv_key)
	[ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && return
	refuse_when_told ".venv is absent or was made from another pyproject.toml"
	say "installing into .venv with pip: agentwall (editable) and its test extra"
	/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		die "python 3.11 or later is needed, /usr/bin/python3 is $(/usr/bin/python3 --version)"
	.venv/bin/python -c 'import pip' 2>/dev/null || /usr/bin/python3 -m venv --clear .venv
	.venv/bin/python -m pip install --disable-pip-version-check -e '.[test]' |
		grep -E '^Successfully installed|^ERROR' || die "pip failed"
	echo "$key" >"$stamp"
}

# Debian's own Node, which links the system's OpenSSL, beside whatever node the machine has: unpacked, not
# installed. Where node is Debian's there is nothing to do.
debian_node() {
	local library version at=build/clients/debian-node
	ldd "$(command -v node)" 2>/dev/null | grep -q 'libssl\.so' && return
	library=$(apt-cache pkgnames libnode 2>/dev/null | grep -xE 'libnode[0-9]+' | sort -V | tail -n 1) || true
	version=$(apt-cache show "${library:-none}" 2>/dev/null | sed -n 's/^Version: //p' | head -n 1) || true
	rm -rf "$at" && mkdir -p "$at"
	(cd "$at" && apt-get download -q "$library" "nodejs=$version" node-acorn node-cjs-module-lexer \
		node-undici >/dev/null 2>&1 && for each in *.deb; do dpkg-deb -x "$each" . && rm "$each"; done) && return
	rm -rf "$at"
	say "Debian's node was not fetched: tests of it will be skipped" >&2
}

# Real clients for tests. npm comes from Debian only where there is none: another one, such as that of
# node's own packages, would be in its way. No script of a package is run. Where nothing can be fetched
# the tests of these clients are skipped and say so.
clients() {
	local stamp=build/clients/package.json
	cmp -s tests/clients/package.json "$stamp" && [ -d build/clients/node_modules ] && return
	refuse_when_told "build/clients is absent or was made from another package.json"
	command -v npm >/dev/null || packages clients
	say "installing into build/clients with npm: what tests/clients/package.json names"
	mkdir -p build/clients && cp tests/clients/package.json "$stamp"
	(cd build/clients && npm install --ignore-scripts --no-audit --no-fund --no-package-lock \
		--loglevel=error) && { debian_node; return; }
	rm -f "$stamp"
	say "npm fetched nothing: tests of real clients will be skipped" >&2
}

case ${1:-} in
packages | venv | clients) "$@" ;;
as-root) shift && as_root "$@" ;;
*) die "usage: tools/setup.sh packages SET... | venv | clients | as-root CMD..." ;;
esac
