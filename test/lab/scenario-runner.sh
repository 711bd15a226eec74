# Runs inside the lab: every scenario in scenarios/, one after the other, each in a folder under /tmp
# with a time limit of its own. Leaves results/NAME/ in the work folder: output, status, report.json
# and what the scenario put into keep/.
# $1 Node, $2 the store's folder, $3 the folder with scenario.sh, $4 the cloud package's files
export NODE=$1 FARADAY=/tmp/program/bin/faraday.js LIBRARY=/tmp/scenario.sh IMAGES=/tmp/images
export XDG_DATA_HOME=/tmp/data CLOUD=cloud GENERIC=generic FILES=$4
cp "$3/scenario.sh" "$LIBRARY"
mkdir -p "$IMAGES" /tmp/data/faraday
cp --sparse=always root.ext4 initramfs "$IMAGES/"
cp -r program /tmp/
cp -r "$2/faraday/kernels" /tmp/data/faraday/
results=$PWD/results
for script in "$PWD"/scenarios/*.sh; do
  NAME=$(basename "$script" .sh)
  export NAME
  limit=$(sed -n 's/^# limit //p' "$script")
  mkdir -p "/tmp/scenarios/$NAME/keep"
  cd "/tmp/scenarios/$NAME" || exit 1
  started=$SECONDS
  timeout -k 2 "$limit" bash -c '. "$LIBRARY"; . "$0"' "$script" > output 2>&1 < /dev/null
  echo $? > status
  echo "$NAME: status $(cat status) after $((SECONDS - started)) s"
  mkdir -p "$results/$NAME"
  cp -r output status "$results/$NAME/"
  cp report.json keep/* "$results/$NAME/" 2> /dev/null
  cd /
  rm -rf "/tmp/scenarios/$NAME"
done
exit 0
