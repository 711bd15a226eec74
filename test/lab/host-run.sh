# The emulated host's first process once its root is in place: runs the job's command and reports.
# /run/lab/job holds job.sh (WORK, NONCE, LIMIT in seconds), command (a bash script) and input.
#
# Output and status leave by one virtio-serial port, apart from kernel messages, in one stream:
#   NUL NONCE " started" LF, the output, NUL NONCE " status" LF with " late" added after a time-out
# and, amid the output, NUL NONCE " alive" LF every few seconds: an emulated host may freeze.
lab=/run/lab
. "$lab/job/job.sh"
bb() { "$lab/busybox" "$@"; }

bb ip link set lo up
# A fifo between the command and the port: the port can be opened once only, and what the command
# leaves running must not keep us waiting.
bb mkfifo "$lab/output"
# The port appears a little after its driver is loaded.
until [ -c /dev/vport0p1 ]; do
  bb sleep 0.01
done
# Nice, so that it moves what has gathered rather than each byte of a guest's console by itself:
# that made the guests' start half as slow again.
/usr/bin/nice -n 19 "$lab/busybox" cat "$lab/output" > /dev/vport0p1 &
exec 3<> "$lab/output"
bb printf '\0%s started\n' "$NONCE" >&3

while bb sleep 5; do
  bb printf '\0%s alive\n' "$NONCE" >&3
done &
alive=$!

export HOME=/tmp/home TERM=dumb FARADAY_LAB=1
bb mkdir -p "$HOME"
# Not through bb(): $! must be the leader of the new process group, not a shell of ours.
"$lab/busybox" setsid /bin/bash "$lab/job/command" < "$lab/job/input" >&3 2>&1 &
command=$!
(
  bb sleep "$LIMIT"
  bb touch "$lab/late"
  bb kill -TERM "-$command"
  bb sleep 5
  bb kill -KILL "-$command"
) 3>&- &
wait "$command"
status=$?

bb kill "$alive"
# What it wrote to the work folder is still in memory.
bb sync
late=
[ -e "$lab/late" ] && late=' late'
bb printf '\0%s %s%s\n' "$NONCE" "$status" "$late" >&3
# The machine outside switches this one off once it has read that.
exec 3>&-
while :; do
  bb sleep 60
done
