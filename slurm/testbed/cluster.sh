#!/bin/bash
# A real SLURM on one machine, for tests and trials: several slurmd, one controller, accounting.
#
#   slurm/testbed/cluster.sh up | down | wipe | status | env
#   slurm/testbed/cluster.sh start-node N | stop-node N [SIGNAL] | restart-ctld
#
#   up            start what is not running, wait until every node is idle
#   down          end all jobs and everything this cluster started; jobs' history is kept
#   wipe          down, then delete the folder, history and all
#   env           print the line that points a shell at it:  eval "$(slurm/testbed/cluster.sh env)"
#   stop-node     stop the slurmd of node N (TERM unless told; KILL leaves its jobs running)
#
# N counts from 1; node N is named 127.0.0.N. Install first: sudo slurm/testbed/install.sh
set -euo pipefail

# ------------------------------------------------------------------------------------------- knobs
# All come from the environment, at `up`. It keeps them in $ROOT/knobs, so that the other commands need
# only SLURM_TESTBED_ROOT, and not even that for the usual folder.
ROOT=${SLURM_TESTBED_ROOT:-/tmp/calsweep-slurm-$UID}
ACCT=${ACCT:-dbd}           # dbd: slurmdbd and MariaDB, so sacct answers | none: no accounting
NNODES=${NNODES:-2}         # how many slurmd
CPUS=${CPUS:-16}            # of each node; need not exist, jobs simply share the machine
MEM=${MEM:-32000}           # of each node, in MB; need not exist either
GPUS=${GPUS:-4}             # fake GPUs of each node: they are handed out, nothing is behind them
ARRAYSIZE=${ARRAYSIZE:-5001} # MaxArraySize: indices of an array stay below it
MAXSUBMIT=${MAXSUBMIT:-}     # jobs that a user may have submitted at a time, enforced; needs ACCT=dbd
BASEPORT=${BASEPORT:-17000}  # controller; +1 slurmdbd; +10+N node N

ROOT=$(realpath -m -- "$ROOT")
export SLURM_CONF=$ROOT/etc/slurm.conf
DAEMON_CONF=$ROOT/etc/daemon.conf
export PATH=$PATH:/usr/sbin:/sbin # the daemons' place, absent from a user's PATH
RUN=$ROOT/run
LOG=$ROOT/log
ME=$(id -un)

die() { echo "cluster.sh: $*" >&2; exit 1; }
say() { echo "testbed: $*"; }

node_name() { echo "127.0.0.${1#127.0.0.}"; } # takes 2 as well as 127.0.0.2
node_names() { for ((i = 1; i <= NNODES; i++)); do node_name "$i"; done; }

wait_for() { # SECONDS COMMAND...: polls until the command succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "cluster.sh: waited in vain for: $*; see $LOG, then: cluster.sh down" >&2
            return 1
        fi
        sleep 0.1
    done
}

# --------------------------------------------------------------------------------------- processes
# Every daemon is started with SLURM_CONF set to this cluster's file, so its environment tells whose
# it is. A pid file alone proves nothing: it may be stale and its number somebody else's by now.
# (slurmd hands its own file, DAEMON_CONF, to slurmstepd and to the jobs.)
ours() { grep -qzFx -e "SLURM_CONF=$SLURM_CONF" -e "SLURM_CONF=$DAEMON_CONF" "/proc/$1/environ" 2>/dev/null; }

pid_of() { # DAEMON: prints the pid if the daemon runs and is ours, else fails
    local pid
    pid=$(cat "$RUN/$1.pid" 2>/dev/null) && [ -n "$pid" ] && ours "$pid" && echo "$pid"
}

running() { # is any daemon of this cluster alive?
    local file
    for file in "$RUN"/*.pid; do
        pid_of "$(basename "$file" .pid)" >/dev/null && return
    done
    return 1
}

stop() { # DAEMON [SIGNAL]: waits for its end; KILL after 15 s
    local pid
    if pid=$(pid_of "$1"); then
        kill -"${2:-TERM}" "$pid" 2>/dev/null || true
        for ((i = 0; i < 150; i++)); do
            ours "$pid" || break
            sleep 0.1
        done
        if ours "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
    fi
    rm -f "$RUN/$1.pid"
}

# Ends what outlives a slurmd: its slurmstepds, and tasks whose slurmstepd was killed. Tasks are told
# by SLURMD_NODENAME, which only a job's processes have: a user's shell may well have our SLURM_CONF.
end_leftovers() {
    local dir pid
    for dir in /proc/[0-9]*; do
        pid=${dir#/proc/}
        ours "$pid" || continue
        if [ "$(cat "$dir/comm" 2>/dev/null)" = slurmstepd ] ||
            grep -qz '^SLURMD_NODENAME=' "$dir/environ" 2>/dev/null; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
}

# ----------------------------------------------------------------------------------- configuration
# Bound to loopback only: with No*InAddrAny a daemon binds to what its host name resolves to. So they
# run under the host name `localhost`, in a name space of their own. Making one needs root; without it
# they keep the machine's name, and the binding works only where that resolves to 127.0.0.1.
can_rename_host() { unshare --uts sh -c 'hostname localhost' 2>/dev/null; }
binds_to_loopback() { [ "$(getent ahostsv4 "$HOST" | awk 'NR == 1 { print $1 }')" = 127.0.0.1 ]; }

daemon() { # COMMAND...: runs it as one of this cluster's
    if [ "$HOST" = localhost ]; then
        unshare --uts sh -c 'hostname localhost && exec "$@"' _ "$@"
    else
        "$@"
    fi
}

munge_auth() {
    echo "AuthType=auth/munge"
    # Without cred_expire a requeued job waits for the default, 120 s.
    echo "AuthInfo=socket=$RUN/munge.sock${1:-}"
}

write_slurm_conf() {
    local i
    cat <<CONF
ClusterName=testbed
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$BASEPORT
SlurmUser=$ME
SlurmdUser=$ME
CredType=cred/munge
$(munge_auth ,cred_expire=15)

# No systemd and no cgroups are needed. OverMemoryKill stands in for a cgroup's memory limit.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE

StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd.%n.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd.%n.log
PlugStackConfig=$ROOT/etc/plugstack.conf
MailProg=/bin/true

# Short timers: a dead node is noticed in half a minute.
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=5
MinJobAge=300
ReturnToService=1

# Ids start anywhere: a job folder named by id, kept over a wipe, would else hold an older job's result.
FirstJobId=$((RANDOM * 10 + 1000))
MaxJobCount=20000
MaxArraySize=$ARRAYSIZE

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2,sched_min_interval=50000,defer_batch
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
PriorityType=priority/basic

# Without preempt_send_user_signal and a GraceTime a preempted job gets TERM and KILL, never its USR2.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal

# config_overrides: believe CPUS and MEM below, whatever the machine has.
SlurmdParameters=config_overrides
CONF
    if [ "$ACCT" = dbd ]; then
        # AccountingStoragePass is the munge socket: without it clients try the machine's own munge.
        cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((BASEPORT + 1))
AccountingStoragePass=$RUN/munge.sock
AccountingStoreFlags=job_comment
JobCompType=jobcomp/none
CONF
        [ -z "$MAXSUBMIT" ] || echo "AccountingStorageEnforce=associations,limits"
    else
        echo "AccountingStorageType=accounting_storage/none"
    fi
    [ "$GPUS" = 0 ] || echo "GresTypes=gpu"
    # Nodes are named by address: torch's rendezvous resolves the node's name, and these need no /etc/hosts.
    # All listen on 127.0.0.1, one port each: a reply goes to the sender's address, which is 127.0.0.1 always.
    for ((i = 1; i <= NNODES; i++)); do
        echo "NodeName=$(node_name "$i") NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((BASEPORT + 10 + i))" \
            "CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM" \
            "$([ "$GPUS" = 0 ] || echo "Gres=gpu:fake:$GPUS") State=UNKNOWN"
    done
    # `high` preempts `main`.
    echo "PartitionName=main Default=YES PriorityTier=10 PreemptMode=REQUEUE GraceTime=10" \
        "Nodes=ALL DefaultTime=60 MaxTime=INFINITE State=UP"
    echo "PartitionName=high PriorityTier=100 PreemptMode=OFF Nodes=ALL DefaultTime=60 MaxTime=INFINITE State=UP"
}

# The daemons' own file. Not for clients: a srun in a user's shell would listen on what the machine's real
# name resolves to (127.0.1.1 on a stock Debian), and hang, for it is called back on 127.0.0.1.
write_daemon_conf() {
    echo "include $SLURM_CONF"
    ! binds_to_loopback || echo "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
}

write_gres_conf() {
    # One file per GPU: a Count= without files makes the node INVAL.
    local name
    [ "$GPUS" != 0 ] || return 0
    for ((i = 0; i < GPUS; i++)); do
        ln -sfn /dev/null "$ROOT/dev/gpu$i"
    done
    for name in $(node_names); do
        echo "NodeName=$name Name=gpu Type=fake File=$ROOT/dev/gpu[0-$((GPUS - 1))]"
    done
}

write_slurmdbd_conf() {
    # StorageHost=localhost means MariaDB's socket, whose path comes by MYSQL_UNIX_PORT; no password,
    # no port: MariaDB knows its user by the socket.
    cat <<CONF
$(munge_auth)
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=$((BASEPORT + 1))
$(! binds_to_loopback || echo "CommunicationParameters=NoInAddrAny")
SlurmUser=$ME
PidFile=$RUN/slurmdbd.pid
LogFile=$LOG/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$ME
StorageLoc=slurm_acct
CONF
}

write_cgroup_conf() { printf '%s\n' CgroupAutomount=no ConstrainCores=no ConstrainRAMSpace=no; }

# ----------------------------------------------------------------------------------------- daemons
start_munged() {
    pid_of munged >/dev/null && return
    [ -f "$ROOT/munge/key" ] || (umask 077; head -c 1024 /dev/urandom >"$ROOT/munge/key")
    munged --force --key-file="$ROOT/munge/key" --socket="$RUN/munge.sock" --pid-file="$RUN/munged.pid" \
        --log-file="$ROOT/munge/log" --seed-file="$ROOT/munge/seed" --num-threads=4
    wait_for 10 munge -n -S "$RUN/munge.sock"
}

sql() { mariadb --no-defaults --socket="$RUN/mariadbd.sock" -e "$1"; }

start_mariadbd() {
    pid_of mariadbd >/dev/null && return
    if [ ! -e "$ROOT/mariadb/ready" ]; then
        rm -rf "$ROOT/mariadb" # a half-made one
        mkdir "$ROOT/mariadb"
        mariadb-install-db --no-defaults --user="$ME" --datadir="$ROOT/mariadb" --skip-test-db \
            --auth-root-authentication-method=socket --auth-root-socket-user="$ME" >"$LOG/mariadb-install.log" 2>&1
        touch "$ROOT/mariadb/ready"
    fi
    setsid mariadbd --no-defaults --user="$ME" --datadir="$ROOT/mariadb" --socket="$RUN/mariadbd.sock" \
        --pid-file="$RUN/mariadbd.pid" --skip-networking --skip-log-bin --performance-schema=OFF \
        --innodb-buffer-pool-size=128M --innodb-flush-log-at-trx-commit=2 --innodb-lock-wait-timeout=900 \
        >"$LOG/mariadbd.log" 2>&1 </dev/null &
    wait_for 30 sql "select 1"
    sql "create database if not exists slurm_acct"
}

start_slurmdbd() {
    pid_of slurmdbd >/dev/null && return
    MYSQL_UNIX_PORT=$RUN/mariadbd.sock daemon slurmdbd
    wait_for 30 sacctmgr -n list cluster
    if ! sacctmgr -nP list cluster | grep -q '^testbed|'; then sacctmgr -i -Q add cluster testbed >/dev/null; fi
    if [ -n "$MAXSUBMIT" ]; then
        sacctmgr -i -Q add account testbed >/dev/null || true # there already, after a second `up`
        sacctmgr -i -Q add user "$ME" account=testbed >/dev/null || true
        sacctmgr -i -Q modify user "$ME" set MaxSubmitJobs="$MAXSUBMIT" >/dev/null
    fi
}

ctld_answers() { scontrol ping | grep -q UP; }

start_slurmctld() {
    pid_of slurmctld >/dev/null && return
    daemon slurmctld -f "$DAEMON_CONF"
    wait_for 20 ctld_answers
}

start_node() {
    local name
    name=$(node_name "$1")
    pid_of "slurmd.$name" >/dev/null && return
    mkdir -p "$ROOT/spool/$name"
    daemon slurmd -f "$DAEMON_CONF" -N "$name"
}

no_node_unknown() { ! sinfo -h -o %T | grep -q '^unk'; }
# A star marks a node that does not answer (yet). A drained node is as ready as somebody wanted it.
all_nodes_ready() { ! sinfo -h -o %T | grep -qE '^(unk|down)|[*]$'; }

# ---------------------------------------------------------------------------------------- commands
port_is_free() { ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

prepare() { # what must be true before the first daemon starts
    local i program
    case $ACCT in dbd | none) ;; *) die "ACCT is dbd or none, not $ACCT" ;; esac
    for program in slurmctld slurmd munged; do
        command -v "$program" >/dev/null || die "SLURM is not installed; run: sudo slurm/testbed/install.sh"
    done
    mkdir -p "$ROOT"
    [ -O "$ROOT" ] || die "$ROOT belongs to another user; set SLURM_TESTBED_ROOT to a folder of your own"
    # A socket's path holds 107 characters at most.
    [ ${#ROOT} -le 80 ] || die "the folder's path is too long for a socket: $ROOT"
    for ((i = 0; i <= 10 + NNODES; i++)); do
        port_is_free $((BASEPORT + i)) || die "port $((BASEPORT + i)) is taken; choose another BASEPORT"
    done
    if [ "$ACCT" = dbd ] && ! { command -v slurmdbd && command -v mariadbd; } >/dev/null; then
        say "slurmdbd or mariadbd is missing: running without accounting (sacct will not answer)"
        ACCT=none
    fi
    HOST=localhost
    can_rename_host || HOST=$(hostname -s)
    binds_to_loopback || say "cannot bind to loopback only without root: the daemons listen on every address"
    chmod 755 "$ROOT"
    mkdir -p "$ROOT"/{etc,run,log,state,spool,dev,munge}
    chmod 700 "$ROOT/munge"
    rm -f "$RUN"/*.pid
    # Written only while nothing runs: daemons that read different files quarrel.
    write_slurm_conf >"$SLURM_CONF"
    write_daemon_conf >"$DAEMON_CONF"
    write_gres_conf >"$ROOT/etc/gres.conf"
    write_cgroup_conf >"$ROOT/etc/cgroup.conf"
    : >"$ROOT/etc/plugstack.conf"
    if [ "$ACCT" = dbd ]; then (umask 077; write_slurmdbd_conf >"$ROOT/etc/slurmdbd.conf"); fi
    local knob
    for knob in ACCT NNODES CPUS MEM GPUS ARRAYSIZE MAXSUBMIT BASEPORT HOST; do printf '%s=%q\n' "$knob" "${!knob}"; done >"$ROOT/knobs"
}

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

up() {
    local name began=$EPOCHREALTIME
    if running; then say "running already: starting what is missing, knobs as they were"; else prepare; fi
    start_munged
    if [ "$ACCT" = dbd ]; then
        start_mariadbd
        start_slurmdbd
    fi
    start_slurmctld
    for name in $(node_names); do start_node "$name"; done
    # A node that was away long enough to be marked down comes back only when told.
    for name in $(sinfo -h -N -p main -t down -o %N); do
        scontrol update nodename="$name" state=resume 2>/dev/null || true
    done
    wait_for 30 all_nodes_ready
    say "$NNODES nodes up after $(seconds_since "$began") s, accounting: $ACCT"
    say "to use it: export SLURM_CONF=$SLURM_CONF"
}

no_jobs() { [ -z "$(squeue -h -o %A)" ]; }

cancel_jobs() {
    # KILL first: a submitit job shrugs off the TERM of a plain scancel and is killed KillWait later.
    local ids
    ids=$(squeue -h -o %A 2>/dev/null | sort -u)
    [ -n "$ids" ] || return 0
    # shellcheck disable=SC2086  # one argument per job
    {
        scancel --state=PENDING $ids
        scancel --signal=KILL --full --state=RUNNING $ids
        scancel $ids
    } 2>/dev/null || true
    wait_for 12 no_jobs 2>/dev/null || true
}

down() {
    local name began=$EPOCHREALTIME
    if pid_of slurmctld >/dev/null && ctld_answers; then cancel_jobs; fi
    stop slurmctld # before the slurmds: otherwise it first waits for them
    for name in $(node_names); do stop "slurmd.$name" & done # side by side: each takes 2 s
    wait
    end_leftovers
    stop slurmdbd
    stop mariadbd
    stop munged
    say "down after $(seconds_since "$began") s"
}

status() {
    local file name
    say "folder $ROOT"
    if ! running; then say "not running"; return; fi
    for file in "$RUN"/*.pid; do
        name=$(basename "$file" .pid)
        if pid_of "$name" >/dev/null; then say "$name runs"; else say "$name is dead"; fi
    done
    sinfo
    squeue
}

if running; then
    # shellcheck source=/dev/null
    source "$ROOT/knobs"
fi
case ${1:-} in
    up) up ;;
    down) down ;;
    wipe) down; rm -rf "$ROOT" ;;
    status) status ;;
    env) echo "export SLURM_CONF=$SLURM_CONF" ;;
    start-node) start_node "${2:?which node?}" ;;
    stop-node) stop "slurmd.$(node_name "${2:?which node?}")" "${3:-TERM}" ;;
    restart-ctld)
        stop slurmctld
        start_slurmctld
        wait_for 30 no_node_unknown # until the nodes have reported again, sinfo has nothing to say
        ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
