# Runs inside the lab for bench/record.ts: one guest in engine v8, recorded or not, all files in /tmp.
# Prints 'sample USER-SPACE END ...' in milliseconds, then 'recording EVENTS BYTES'; leaves the
# recording in the work folder, which holds program/, data/, root.ext4 and stopwatch.
# $1 Node, $2 kind: plain or recorded.
node=$1 kind=$2 work=$PWD
cp -r program data stopwatch /tmp/
cp --sparse=always root.ext4 /tmp/
cd /tmp || exit 1
export XDG_DATA_HOME=/tmp/data
record=()
[ "$kind" = recorded ] && record=(--record boot.rec)

# Programs and files into memory, the kernel's traits onto Faraday's shelf; no guest yet.
"$node" program/bin/faraday.js image compose --out composed --kernel stock --rootfs root.ext4 \
  --memory 128M > /dev/null || exit 1
cat data/faraday/kernels/stock/* root.ext4 program/build/* > /dev/null

echo "sample $(./stopwatch -l 150 'USER SPACE' -- "$node" program/bin/faraday.js run --engine v8 \
  --kernel stock --rootfs root.ext4 --memory 128M "${record[@]}" 2> errors < /dev/null)"
if [ "$kind" = recorded ]; then
  events=$("$node" program/bin/faraday.js replay boot.rec | sed -n 's/.*: \([0-9]*\) events .*/\1/p')
  echo "recording $events $(stat -c %s boot.rec)"
  cp boot.rec "$work/"
fi
cat errors >&2
