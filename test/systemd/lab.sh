#!/bin/bash
# A lab: a real systemd as the first process of namespaces of its own, until stdin ends. See lab.ts.
#   lab.sh FOLDER CHECKOUT NODE PYTHON
# FOLDER is for the lab alone. Prints `init PID` when systemd is being started, with its process id out here.
#
# Inside are: a cgroup v2 tree of its own; an empty /run, /var/lib and /var/log; a copy of /etc, for users to be made in, with
# no units but stand-ins for the targets that units depend on, and journald; in /opt an installed pitwarden (a copy of
# CHECKOUT's build), NODE and PYTHON. Nothing of the host's own units runs. Everything else is the host's.
set -eu -o pipefail

# Of namespaces: the mounts that are made from here on are seen by nobody else, and go with the last process that sees them.
if [[ ${LAB_STEP:-} == "" ]]; then
  exec env LAB_STEP=outer unshare --mount bash "$0" "$@"
fi

folder=$1 checkout=$2 node=$3 python=$4

if [[ $LAB_STEP == outer ]]; then
  mount --make-rprivate /
  mkdir -p "$folder/cgroup"
  mount -t cgroup2 none "$folder/cgroup"
  own=$folder/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
  lab=$own/pitwarden-lab-$$
  mkdir "$lab"
  clear_away() {
    echo $$ >"$own/cgroup.procs"
    [[ ! -e $lab/cgroup.kill ]] || echo 1 >"$lab/cgroup.kill"
    # A cgroup is empty a moment after its last process was killed.
    for _ in $(seq 100); do
      find "$lab" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [[ -e $lab ]] || return 0
      sleep 0.05
    done
    echo "left behind: $lab" >&2
  }
  trap clear_away EXIT
  echo $$ >"$lab/cgroup.procs"
  LAB_STEP=inner unshare --pid --fork --kill-child --mount --uts --ipc --cgroup --mount-proc \
    bash "$0" "$@" </dev/null &
  unshare=$!
  init=
  until [[ -n $init ]]; do
    init=$(cat "/proc/$unshare/task/$unshare/children")
    sleep 0.01
  done
  echo "init ${init%% *}"
  # Whoever began this has ended it, or has ended.
  cat >/dev/null
  # Its death is the death of systemd, and with it of all that is inside.
  kill -KILL "$unshare"
  wait "$unshare" 2>/dev/null || true
  exit 0
fi

umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lab /run/lock /run/log/journal
mount -t tmpfs -o mode=755 tmpfs /run/lab
cp -a /etc /run/lab/etc
rm -rf /run/lab/etc/systemd/system
mount --bind /run/lab/etc /etc
mkdir -p /run/lab/opt/{node/bin,python,pitwarden/node_modules}
mount --rbind "$python" /run/lab/opt/python
touch /run/lab/opt/node/bin/node
mount --bind "$node" /run/lab/opt/node/bin/node
home=/run/lab/opt/pitwarden
cp -r "$checkout"/{bin,dist,proto,systemd,examples,package.json} $home
mkdir -p $home/python
cp -r "$checkout/python/src" $home/python/src
mount --bind "$checkout/node_modules" $home/node_modules
mkdir -p $home/.venv/{bin,lib}
mount --bind "$checkout/.venv/lib" $home/.venv/lib
real=$(basename "$(realpath "$checkout/.venv/bin/python")")
ln -s "/opt/python/bin/$real" $home/.venv/bin/python
sed "s|^home = .*|home = /opt/python/bin|" "$checkout/.venv/pyvenv.cfg" >$home/.venv/pyvenv.cfg
chmod -R go+rX /run/lab/opt/pitwarden/{bin,dist,proto,systemd,examples,python,package.json}
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /var/log
mount --rbind /run/lab/opt /opt

units=/etc/systemd/system
mkdir -p $units
for name in sysinit basic shutdown network multi-user sockets timers paths slices local-fs; do
  printf '[Unit]\nDefaultDependencies=no\n' >$units/$name.target
done
cp /lib/systemd/system/systemd-journald{.service,.socket,-dev-log.socket} $units/
printf '[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service\n' >$units/lab.target
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=lab SYSTEMD_UNIT_PATH=$units /lib/systemd/systemd --system \
  --unit=lab.target --log-level=info --log-target=journal-or-kmsg --show-status=no >"$folder/systemd.log" 2>&1
