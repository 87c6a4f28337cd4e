# pitwarden's guardian, started by the agent as `sh guardian.sh RUNTIME_DIR/agent.lock`: when its agent is gone and no other one
# comes, it kills the workers that do not leave by themselves, and what those that leave have started. A shell has 1 MiB
# where Node or Python would have 30; nothing is used here but its own commands, and `sleep`.
#
# A number alone proves nothing. A process is signalled when its start time is the recorded one, when it is in the session of a
# worker, or when it is this user's and carries the mark that a worker leaves to all that it starts (src/os/process/tree-mark.ts).
# Sessions are inherited at birth and cannot be joined, so one process in it that is older than the worker's end proves
# the session. A cgroup is proven by its name, which ends in a worker's id that nobody else can have come upon.

# Fields of proc_pid_stat(5). The name before them may hold parentheses and newlines. A process that is there and cannot be read
# (the host has no descriptors left, say) is in the state "unknown": it is not gone, and nothing is proven of it.
read_stat() {
  text='' state=X parent='' session='' born=''
  [ -e "/proc/$1" ] || return 0
  state=unknown
  while IFS= read -r line || [ -n "$line" ]; do text="$text$line "; done <"/proc/$1/stat"
  [ -n "$text" ] || return 0
  set -- ${text##*)}
  state=${1:-unknown} parent=${2:-} session=${4:-} born=${20:-}
}

# Proven to be alive. $1: pid, $2: start time
is_alive() {
  read_stat "$1"
  case $state in [ZXx] | unknown) return 1 ;; esac
  [ "$born" = "$2" ]
}

# Not known to be empty. $1: cgroup
is_populated() {
  [ "$1" != - ] || return 1
  was_read=''
  while read -r name value; do
    was_read=yes
    [ "$name $value" != 'populated 1' ] || return 0
  done <"$1/cgroup.events"
  [ -z "$was_read" ] && [ -e "$1/cgroup.events" ]
}

# $1: pid, $2: cgroup
is_in() {
  while IFS= read -r line; do
    case $line in 0::/?*) case $2 in *"${line#0::}") return 0 ;; esac ;; esac
  done <"/proc/$1/cgroup"
  return 1
}

# Whoever holds the lock: a successor as a rule.
is_agent_there() {
  text=''
  read -r text <"$lock"
  agent=${text#*'"pid":'} since=${text#*'"startTime":"'}
  agent=${agent%%[!0-9]*} since=${since%%[!0-9]*}
  [ -n "$agent" ] && [ -n "$since" ] && is_alive "$agent" "$since"
}

# Lines of the agent: PID START_TIME LIMIT_SECONDS MARK CGROUP; - where there is no cgroup. A later one of a process holds.
watch() {
  keys='' count=0 forget_at=64
  while read -r pid start limit mark cgroup; do
    # The first process is nobody's worker, 0 is the guardian's own group, and 01 would be one more name of -1, which is all.
    case $pid in 1 | 0* | "$$" | ????????*) continue ;; esac
    # What the shell can count with.
    case $start in 0?* | ?????????????????*) continue ;; esac
    case $limit in 0?* | ?????????????????*) continue ;; esac
    case "$pid.$start.$limit.$mark" in *[!0-9.]*) continue ;; esac
    case $mark in $mark_form) ;; *) continue ;; esac
    [ -n "$cgroup" ] || continue
    key=${pid}_$start
    eval "known=\${limit_$key-}"
    [ -n "$known" ] || keys="$keys $key" count=$((count + 1))
    eval "limit_$key=\$limit mark_$key=\$mark cgroup_$key=\$cgroup"
    [ $count -lt $forget_at ] || keep is_left
  done
}

# Forgets those of which $1 says that nothing is left.
keep() {
  kept='' count=0
  for key in $keys; do
    eval "limit=\$limit_$key mark=\$mark_$key cgroup=\$cgroup_$key seen=\${seen_$key-}" pid=${key%_*} start=${key#*_}
    if $1; then
      kept="$kept $key" count=$((count + 1))
    else
      unset "limit_$key" "mark_$key" "cgroup_$key" "seen_$key"
    fi
  done
  keys=$kept forget_at=$((2 * count + 64))
}

is_left() {
  is_alive "$pid" "$start" || [ "$state" = unknown ] || is_populated "$cgroup"
}

# A look each second, until nothing is left. An agent that is there has a guardian of its own for what it took over; that is
# believed at the third sight, since the first may be of one that could not start. Not in a row: of agents that die again
# and again the guardians would be many.
outlive() {
  alone=0 sights=0
  keep is_left
  while [ -n "$keys" ]; do
    if is_agent_there; then
      alone=0 sights=$((sights + 1))
      [ $sights -lt 3 ] || return
    else
      table=''
      read_uptime
      keep end
      alone=$((alone + 1))
    fi
    sleep 1 || return
  done
}

# In the unit of start times; empty: not known now.
read_uptime() {
  up=''
  read -r up rest </proc/uptime
  now=${up%.*}${up#*.}
}

# False: there was nothing left to end.
end() {
  if is_alive "$pid" "$start"; then
    [ $alone -lt "$limit" ] || kill_worker
  elif [ "$state" = unknown ]; then
    return 0
  elif is_populated "$cgroup"; then
    echo 1 >"$cgroup/cgroup.kill"
  elif find_left; then
    [ -z "$proven" ] || kill -s KILL -- "-$pid" $left
    for entry in $marked; do
      ! is_alive "${entry%:*}" "${entry#*:}" || kill -s KILL -- "${entry%:*}"
    done
  else
    return 1
  fi
  [ -z "$now" ] || eval "seen_$key=\$now"
}

kill_worker() {
  [ "$cgroup" = - ] || ! is_in "$pid" "$cgroup" || echo 1 >"$cgroup/cgroup.kill"
  kill -s KILL -- "-$pid" "$pid"
}

# What a worker that has ended has left: what is in its session, where that is proven to be its own, and what has its mark.
find_left() {
  left='' proven='' marked=''
  [ -n "$table" ] || list_processes
  for entry in $table; do
    case $entry in
      "$pid":*)
        process=${entry#*:} process=${process%:*}
        left="$left ${process%:*}"
        [ -z "$seen" ] || [ "${process#*:}" -gt "$seen" ] || proven=yes
        ;;
      *:"$mark")
        process=${entry#*:} process=${process%:*}
        [ "${process#*:}" -lt "$start" ] || marked="$marked $process"
        ;;
    esac
  done
  [ -n "$proven$marked" ]
}

# SESSION:PID:START_TIME:MARK of each; - where it has no mark, or is not this user's.
list_processes() {
  set +f
  set -- /proc/[0-9]*
  set -f
  for path; do
    read_stat "${path#/proc/}"
    case $state in [ZXx] | unknown) continue ;; esac
    found=-
    # The children of process 2 are the kernel's.
    [ "$parent" = 2 ] || ! [ -O "$path" ] || read_mark "$path"
    table="$table $session:${path#/proc/}:$born:$found"
  done
}

read_mark() {
  while read -r one two three soft hard unit; do
    [ "$one $two $three" = 'Max realtime timeout' ] || continue
    case $hard in
      *[!0-9]*) ;;
      $mark_form)
        read_uids "$1"
        [ -z "$uids" ] || [ "$uids" != "$own_uids" ] || found=$hard
        ;;
    esac
    return
  done <"$1/limits"
}

# Real, effective, saved and file system uid: a program that another user started as this one has another first.
read_uids() {
  uids=''
  while read -r name numbers; do
    [ "$name" != Uid: ] || uids=$numbers
  done <"$1/status"
}

set -f
trap '' INT TERM HUP QUIT
lock=$1
# 19 digits, from 2^62 on.
mark_form='46[1-8]????????????????'
read_uids /proc/$$
own_uids=$uids
# On one line: the file is not looked at again, whatever becomes of it.
watch; outlive; exit
