#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# vmtest.sh KERNEL [opts] -- CMD [ARG...]
#   Boot a Debian kernel under QEMU TCG on a throw-away overlay of THIS machine's root
#   file system (virtiofs, read-only lower + tmpfs upper) and run CMD in the current
#   directory; stdout+stderr come back here and the exit status is CMD's.
#   KERNEL: 5.10 | 6.1 | 6.12 | 7.3 | sid  (Debian cloud flavour; from bullseye-security, bookworm, bookworm,
#           trixie-backports, sid) | 6.1-full | 6.12-full | a package name linux-image-* of bookworm
#   opts  : -t SECS time limit (default 600)  -m MIB memory (2048)  -c CPUS (2)
#           -a "extra kernel args"  -o DIR  host dir shared read-write as $OUT in the guest
#   needs : apt install --no-install-recommends qemu-system-x86 busybox-static kmod zstd lz4 xz-utils
#   env   : VMTEST_CACHE (default ~/.cache/vmtest)
# exit: CMD's status; 123 the kernel's packages are out of reach; 124 time limit; 125 set-up or boot failure
set -u
die(){ echo "vmtest: $*" >&2; exit 125; }
unreachable(){ echo "vmtest: $*" >&2; exit 123; }
[ $# -ge 1 ] || { sed -n 3,14p "$0"; exit 125; }
KERNEL=$1; shift
T=600 M=2048 C=2 A= O=
while [ $# -gt 0 ] && [ "$1" != -- ]; do case $1 in
  -t) T=$2; shift 2;; -m) M=$2; shift 2;; -c) C=$2; shift 2;; -a) A=$2; shift 2;; -o) O=$(realpath "$2"); shift 2;; *) die "unknown option $1";; esac; done
[ "${1-}" = -- ] && shift; [ $# -gt 0 ] || die "no command"
CACHE=${VMTEST_CACHE:-$HOME/.cache/vmtest}; mkdir -p "$CACHE" || die cache
SUITE=; SEC=
case $KERNEL in
  6.1) META=linux-image-cloud-amd64;; 6.12) META=linux-image-6.12-cloud-amd64;;
  5.10) META=linux-image-cloud-amd64 SUITE=bullseye-security SEC=-security;;
  7.3) META=linux-image-cloud-amd64 SUITE=trixie-backports;; sid) META=linux-image-cloud-amd64 SUITE=sid;;
  6.1-full) META=linux-image-amd64;; 6.12-full) META=linux-image-6.12-amd64;;
  linux-image-*) META=$KERNEL;; *) die "unknown kernel $KERNEL";; esac

# ---- 1. kernel image + modules + headers, unpacked in the cache, nothing installed ----
K=$CACHE/$META${SUITE:+-$SUITE}
AG="apt-get -qq" AC=apt-cache
if [ -n "$SUITE" ]; then   # another suite's package list, kept apart from the machine's own apt state
  L=$CACHE/apt-$SUITE; AO="-o Dir::Etc::sourcelist=$L/s.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$L/lists -o Dir::Cache=$L/cache"
  AG="apt-get -qq $AO" AC="apt-cache $AO"
fi
if [ ! -e "$K/ready" ]; then
  rm -rf "$K"; mkdir -p "$K/debs" "$K/x"
  if [ -n "$SUITE" ]; then mkdir -p "$L/lists/partial" "$L/cache/archives/partial"
    B=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m1 '/debian/\?$') || unreachable "no Debian mirror in the machine's apt sources"; B=${B%/}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $B$SEC $SUITE main" > "$L/s.list"; $AG update || unreachable "apt update $SUITE"; fi
  PKG=$($AC depends "$META" | awk '$1=="Depends:"&&$2~/^linux-image/{print $2;exit}'); [ -n "$PKG" ] || PKG=$META
  HDR=${PKG/linux-image/linux-headers}; R=${PKG#linux-image-}
  (cd "$K/debs" && $AG download "$PKG" $($AC depends "$PKG" | awk -v r="$R" '$1=="Depends:"&&($2=="linux-modules-"r||$2=="linux-binary-"r||$2=="linux-base-"r){print $2}') 2>/dev/null && $AG download "$HDR" $($AC depends "$HDR" | awk '$1=="Depends:"&&$2~/^linux-(headers|kbuild)/{print $2}') 2>/dev/null)
  ls "$K"/debs/linux-image*.deb >/dev/null 2>&1 || unreachable "cannot download $PKG (apt-get update?)"
  for d in "$K"/debs/*.deb; do dpkg-deb -x "$d" "$K/x" || die unpack; done
  [ -d "$K/x/lib/modules" ] || { mkdir -p "$K/x/lib"; mv "$K/x/usr/lib/modules" "$K/x/lib/modules"; }   # merged-/usr packages
  V=$(ls "$K/x/lib/modules" | head -1); [ -n "$V" ] || die "no modules in $PKG"; echo "$V" > "$K/version"
  H=$K/x/usr/src/linux-headers-$V
  if [ -d "$H" ]; then   # one merged, relocatable header tree for BCC: -common + flavour on top
    mkdir -p "$K/headers"; cp -a "$K"/x/usr/src/linux-headers-*-common/. "$K/headers/"; cp -a "$H/." "$K/headers/" 2>/dev/null
    rm -f "$K/x/lib/modules/$V/build" "$K/x/lib/modules/$V/source"; ln -s "$K/headers" "$K/x/lib/modules/$V/build"; ln -s "$K/headers" "$K/x/lib/modules/$V/source"
  fi
  rm -rf "$K/debs" "$K/x/usr"; depmod -b "$K/x" "$V" || die depmod
  # initramfs: busybox + the few modules needed to reach virtiofs and overlay
  I=$K/irfs; mkdir -p "$I/bin" "$I/m" "$I/proc" "$I/sys" "$I/dev" "$I/lo" "$I/up" "$I/new"
  cp "$(command -v busybox)" "$I/bin/busybox" || die "busybox-static missing"; n=10
  for m in virtio_pci virtiofs overlay; do
    modprobe -d "$K/x" -S "$V" --show-depends "$m" 2>/dev/null | awk '$1=="insmod"{print $2}' | while read -r f; do
      b=$(basename "${f%.xz}"); ls "$I"/m/*-"$b" >/dev/null 2>&1 && continue; n=$(ls "$I/m" | wc -l); t=$I/m/$(printf %02d $n)-$b
      case $f in *.xz) xz -dc "$f" > "$t";; *) cp "$f" "$t";; esac; done; done
  cat > "$I/init" <<'I'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in /m/*; do [ -f $m ] && $b insmod $m; done
$b mount -t virtiofs -o ro root /lo || { echo "vmtest-init: no virtiofs root"; $b poweroff -f; }
$b mount -t tmpfs -o size=75% up /up; $b mkdir /up/u /up/w
$b mount -t overlay -o lowerdir=/lo,upperdir=/up/u,workdir=/up/w ov /new || { echo "vmtest-init: no overlay"; $b poweroff -f; }
for d in proc sys dev; do $b mount --move /$d /new/$d; done
$b cp /vmtest/* /new/run/ 2>/dev/null
exec $b switch_root /new /bin/bash /run/vmtest-guest
I
  chmod +x "$I/init"
  (cd "$I" && find . | busybox cpio -o -H newc 2>/dev/null) > "$K/initrd"
  # uncompressed ELF with a PVH note: QEMU enters it directly, no decompression under TCG
  Z=$K/x/boot/vmlinuz-$V; [ -e "$Z" ] || Z=$K/x/lib/modules/$V/vmlinuz; [ -e "$Z" ] || die "no vmlinuz in $PKG"
  python3 - "$Z" "$K/vmlinux" <<'P' || cp "$Z" "$K/vmlinux"
import sys,subprocess
d=open(sys.argv[1],'rb').read()
for mag,cmd in ((b'\x02\x21\x4c\x18',['lz4','-dc']),(b'\x28\xb5\x2f\xfd',['zstd','-dcq']),(b'\xfd7zXZ\0',['xz','-dc','--single-stream']),(b'\x1f\x8b\x08',['gzip','-dc'])):
    i=d.find(mag)
    if i<0: continue
    try: o=subprocess.run(cmd,input=d[i:],capture_output=True).stdout
    except OSError: continue
    if o[:4]==b'\x7fELF': open(sys.argv[2],'wb').write(o); sys.exit(0)
sys.exit(1)
P
  touch "$K/ready"
fi
V=$(cat "$K/version")

# ---- 2. per-run files: command and environment go in a second cpio appended to the initramfs ----
W=$(mktemp -d -t vmtest.XXXXXX); mkdir -p "$W/c/vmtest"; PIDS=
cleanup(){ for p in $PIDS; do kill "$p" 2>/dev/null; done; rm -rf "$W"; }; trap cleanup EXIT
{ cat <<G
mount -t tmpfs run /run 2>/dev/null;
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t cgroup2 cg /sys/fs/cgroup; mkdir -p /sys/fs/cgroup/unified; mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tr /sys/kernel/tracing; mount -t debugfs d /sys/kernel/debug; mount -t securityfs s /sys/kernel/security
mkdir -p /lib/modules; mount --bind $(printf %q "$K/x/lib/modules") /lib/modules
ip link set lo up; hostname vm-${V%%+*}
export HOME=/root TERM=dumb PATH=$(printf %q "$PATH") OUT=/mnt; export VMTEST_KERNEL=$V
G
  [ -n "$O" ] && echo 'mount -t virtiofs out /mnt'
  printf 'cd %q\n' "$PWD"; printf '(%s) </dev/null >/dev/ttyS1 2>&1; rc=$?\n' "exec $(printf '%q ' "$@")"
  cat <<'G'
cat /dev/null; sync; echo "rc=$rc" >/dev/ttyS2
sleep 0.2; /bin/busybox poweroff -f
G
} > "$W/c/vmtest/vmtest-guest"
(cd "$W/c" && find vmtest | busybox cpio -o -H newc 2>/dev/null) > "$W/c.cpio"; cat "$K/initrd" "$W/c.cpio" > "$W/initrd"

# ---- 3. boot ----
vfs(){ /usr/lib/qemu/virtiofsd --socket-path="$W/$1.sock" -o source="$2" -o sandbox=chroot -o "cache=$3" -o xattr --rlimit-nofile=0 >"$W/$1.log" 2>&1 & PIDS="$PIDS $!"; for _ in $(seq 100); do [ -S "$W/$1.sock" ] && return; sleep .05; done; cat "$W/$1.log" >&2; die "virtiofsd"; }
vfs root / always; OD=()
[ -n "$O" ] && { vfs out "$O" auto; OD=(-chardev socket,id=c2,path="$W/out.sock" -device vhost-user-fs-pci,chardev=c2,tag=out); }
: > "$W/out"; : > "$W/rc"
# Nehalem: all that distributions demand; what newer processors have costs an emulator dear
# (the verifier takes twice as long on -cpu max).
timeout -k 5 "$T" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu Nehalem -smp "$C" -m "$M" -nodefaults -no-user-config -display none -no-reboot \
  -object memory-backend-memfd,id=mem,size="${M}M",share=on -numa node,memdev=mem \
  -chardev socket,id=c1,path="$W/root.sock" -device vhost-user-fs-pci,chardev=c1,tag=root "${OD[@]}" \
  -device virtio-rng-pci \
  -serial file:"$W/console" -serial file:"$W/out" -serial file:"$W/rc" \
  -kernel "$K/vmlinux" -initrd "$W/initrd" \
  -append "console=ttyS0 rdinit=/init panic=-1 ${VMTEST_LOGLEVEL:-quiet} mitigations=off random.trust_cpu=on lsm=landlock,lockdown,yama,bpf audit=0 $A" >"$W/qemu.log" 2>&1 </dev/null &
Q=$!; PIDS="$Q $PIDS"
tail -c +1 -f --pid=$Q "$W/out" 2>/dev/null & PIDS="$PIDS $!"
wait $Q; qrc=$?; sleep 0.3
RC=$(sed -n 's/^rc=\([0-9]*\).*/\1/p' "$W/rc" | tail -1)
[ -n "${VMTEST_DEBUG:-}" ] && { cat "$W/console" "$W/qemu.log" >&2; }
[ -n "$RC" ] && exit "$RC"
[ $qrc -eq 124 ] && { echo "vmtest: time limit ${T}s" >&2; tail -n 5 "$W/console" >&2; exit 124; }
cat "$W/console" "$W/qemu.log" "$W/root.log" | tail -n 40 >&2; die "no exit status from guest"
