# Runs inside the lab for bench/boot.ts: the monitors in turn, each with the same kernel, initramfs,
# memory and command line, all files in /tmp. One line a run: KIND MONITOR TIMES...
# The work folder holds program/, data/, bzimage, initramfs and stopwatch. $1 Node, $2 command
# line, $3 how many runs with kernel messages, $4 how many without.
node=$1 cmdline=$2 loud=$3 quiet=$4
cp -r program data bzimage initramfs stopwatch /tmp/
cd /tmp || exit 1
mkdir reports
export XDG_DATA_HOME=/tmp/data
stored=/tmp/data/faraday/kernels/stock/vmlinux

compose() { # KIND PARAMETERS
  "$node" program/bin/faraday.js image compose --out "$1" --kernel stock --initrd initramfs \
    --memory 128M --cmdline-replace "$cmdline $2" >&2 || exit 1
}
compose quiet quiet
compose loud ''

watch() {
  ./stopwatch -l 30 'Linux version' 'Run /init' 'USER SPACE' -- "$@" 2>> errors < /dev/null
}

faraday() { # KIND PARAMETERS
  watch "$node" program/bin/faraday.js run --kernel stock --initrd initramfs --memory 128M \
    --cmdline-replace "$cmdline $2" --report report.json
  cp report.json "reports/$1-$((number++)).json"
}

cell() { # KIND
  watch program/build/faraday-cell "$1"
}

microvm() { # PARAMETERS
  # Without the PIC and the PIT it starts faster than with its defaults: this is QEMU at its best.
  watch qemu-system-x86_64 -M microvm,acpi=on,pic=off,pit=off,rtc=on -accel kvm -cpu host \
    -m 128M -smp 1 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -kernel "$stored" -initrd initramfs \
    -append "$cmdline $1"
}

kvmtool() { # PARAMETERS
  watch lkvm run --kernel bzimage --initrd initramfs --mem 128 --cpus 1 --network mode=none \
    --console serial --params "$cmdline $1"
}

run_all() { # ROUNDS KIND PARAMETERS
  number=0
  for _ in $(seq "$1"); do
    faraday "$2" "$3" > line
    echo "$2 faraday $(cat line)"
    echo "node empty $(./stopwatch -- "$node" -e 0 < /dev/null)"
    echo "$2 cell $(cell "$2")"
    echo "$2 microvm $(microvm "$3")"
    if command -v lkvm > /dev/null; then echo "$2 kvmtool $(kvmtool "$3")"; fi
  done
}

# Once for the caches: files into memory, the kernel's traits onto Faraday's shelf.
run_all 1 quiet quiet > /dev/null
run_all "$quiet" quiet quiet
run_all "$loud" loud ''
for report in reports/*; do
  echo "report $(basename "$report" .json) $(tr -d '\n' < "$report")"
done
cat errors >&2
