#!/bin/bash
# Installs what the testbed (cluster.sh) runs: SLURM, munge, slurmdbd and MariaDB.
#   sudo slurm/testbed/install.sh
# Safe to run again; returns at once when all is there. Starts no service.
set -euo pipefail

PACKAGES=(slurm-wlm munge slurmdbd mariadb-server)
POLICY=/usr/sbin/policy-rc.d

die() { echo "install.sh: $*" >&2; exit 1; }

# Asked of dpkg: `sbatch --version` fails where there is no slurm.conf yet.
slurm_version() { dpkg-query -W -f='slurm-wlm ${Version}' slurm-wlm; }
installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    die "this needs Debian or Ubuntu (apt-get); elsewhere install slurm, munge, slurmdbd and mariadb by hand."
fi

missing=()
for package in "${PACKAGES[@]}"; do
    installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
    echo "SLURM is installed already: $(slurm_version)"
    exit 0
fi
[ "$(id -u)" = 0 ] || die "run it as root: sudo slurm/testbed/install.sh"

# dpkg would start munge, mariadb and the SLURM daemons, with the machine's own configuration. The
# testbed starts its own. A policy-rc.d that answers 101 forbids the start; it is here only while we install.
saved=
restore_policy() {
    if [ -n "$saved" ]; then mv -f "$saved" "$POLICY"; else rm -f "$POLICY"; fi
}
# A marker in our file tells it from the machine's own, should a kill -9 have left ours behind.
if [ -e "$POLICY" ] && ! grep -q calsweep-testbed "$POLICY"; then
    saved=$POLICY.calsweep-saved
    mv -f "$POLICY" "$saved"
elif [ -e "$POLICY.calsweep-saved" ]; then
    saved=$POLICY.calsweep-saved
fi
trap restore_policy EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\n# calsweep-testbed: no service may start during this install\nexit 101\n' > "$POLICY"
chmod 755 "$POLICY"

export DEBIAN_FRONTEND=noninteractive
apt_install() { apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null; }
log=$(mktemp)
echo "Installing ${missing[*]} (about a minute) ..."
# The package lists may be old or absent: refresh them only then, so that a warm machine is quick.
if ! apt_install >"$log" 2>&1; then
    apt-get update -q >>"$log" 2>&1 || true
    apt_install >>"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt-get failed; the log is $log"; }
fi
rm -f "$log"
echo "Installed: $(slurm_version). Next: slurm/testbed/cluster.sh up"
