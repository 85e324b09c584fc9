#!/bin/sh
# Runs the levels avx512 and avx512int8 on an emulated CPU that has them, and compares their bits
# with those of avx2 on this one.  Exit code 0: all equal.
#
#   tests/emulated/avx512.sh WORK [CPU]
#
# Emulator and guest: Bochs 2.7 and a Linux kernel, Debian's packages unpacked into the folder WORK,
# not installed (150 MB).  CPU: corei7_icelake_u (default; VNNI), or corei7_skylake_x, where the level
# avx512int8 must die of an illegal instruction.  Wants the native build and Python of this checkout
# (PYTHON=...).  About a minute of one quiet core.
set -eu
cd "$(dirname "$0")/../.."
work=$(mkdir -p "$1" && cd "$1" && pwd) cpu=${2:-corei7_icelake_u}
python=${PYTHON:-.venv/bin/python} build=$(echo build/native-*/CMakeFiles | cut -d' ' -f1)
root=$work/root lib=$work/root/usr/lib/x86_64-linux-gnu
bin=$work/guest/bin

if [ ! -d "$root" ]; then
  mkdir -p "$work/deb"
  kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/{print $2}')
  (cd "$work/deb" && apt-get download -qq bochs bochs-term bochsbios vgabios libltdl7 isolinux \
    syslinux-common xorriso libisoburn1 libburn4 libisofs6 libjte2 cpio busybox-static "$kernel")
  for package in "$work"/deb/*.deb; do dpkg -x "$package" "$root"; done
fi
export LD_LIBRARY_PATH="$lib" LTDL_LIBRARY_PATH="$lib/bochs/plugins" BXSHARE="$root/usr/share/bochs"

mkdir -p "$bin" "$work/guest/proc" "$work/disc/isolinux"
PYTHONPATH=engine:kernels "$python" tests/emulated/record.py --max-flops 3000000 \
  --out "$work/guest/recording"
for level in avx512 avx512int8; do
  # shellcheck disable=SC2046
  c++ -std=c++17 -O1 -static -pthread -Ikernels/pyroclast_kernels tests/emulated/replay.cpp \
    $(find "$build/_cpp_$level.dir" -name '*.o' ! -name 'module.cpp.o') -o "$bin/replay-$level"
done
cp "$root/bin/busybox" "$bin/"
cat > "$work/guest/init" << 'END'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox grep -m1 'model name' /proc/cpuinfo
for replay in /bin/replay-*; do
  $replay /recording
  echo "$replay: exit code $?"
done
echo all replayed
/bin/busybox sleep 1 # until the line is out
/bin/busybox poweroff -f
END
chmod +x "$work/guest/init"

# Bochs 2.7 lays out the compacted XSAVE area otherwise than Linux expects: hence clearcpuid, without
# which Linux turns AVX off.
cat > "$work/disc/isolinux/isolinux.cfg" << 'END'
default l
prompt 0
label l
  kernel /vmlinuz
  append initrd=/guest clearcpuid=xsaves,xsavec,pku,fsrm,erms,smap,smep,umip,la57,ibt,shstk,pcid,invpcid lsm= ibt=off nopti spectre_v2=off noreplace-smp console=ttyS0 panic=-1 mitigations=off nokaslr tsc=unstable noapic acpi=off
END
cp "$root/usr/lib/ISOLINUX/isolinux.bin" "$root/usr/lib/syslinux/modules/bios/ldlinux.c32" \
  "$work/disc/isolinux/"
cp "$root"/boot/vmlinuz-* "$work/disc/vmlinuz"
(cd "$work/guest" && find . | "$root/bin/cpio" -o -H newc --quiet > "$work/disc/guest")
"$root/usr/bin/xorriso" -as mkisofs -quiet -o "$work/disc.iso" -J -R -b isolinux/isolinux.bin \
  -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$work/disc" 2> "$work/log"

cat > "$work/bochsrc" << END
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1
display_library: term
cpu: model=$cpu, count=1, ips=20000000, reset_on_triple_fault=0
memory: guest=1536, host=1536
romimage: file=$root/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=$root/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
log: $work/bochs.log
clock: sync=none
END
echo c > "$work/continue" # Debian's Bochs has the debugger built in, which waits for a command
rm -f "$work/serial"
TERM=xterm "$root/usr/bin/bochs-bin" -q -f "$work/bochsrc" -rc "$work/continue" \
  > "$work/screen" 2>&1 < /dev/null &
emulator=$!
trap 'kill -9 $emulator 2> /dev/null || true' EXIT
# Its screen is a terminal that somebody has to read, or it waits.
until terminal=$(grep -ao '/dev/pts/[0-9]*' "$work/screen"); do
  kill -0 $emulator && sleep 1
done
cat "$terminal" > /dev/null &
for _ in $(seq "${SECONDS_AT_MOST:-1200}"); do
  sleep 1
  grep -q '^all replayed' "$work/serial" 2> /dev/null && break
done
grep -v '^\[' "$work/serial" | sed -n '/^model name/,$p'
[ "$(grep -c '^/bin/replay-.*: exit code 0' "$work/serial")" = 2 ]
