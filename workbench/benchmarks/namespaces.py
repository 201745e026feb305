"""Hosts on a switch, all inside one machine: network namespaces whose links are real TCP at the rate of a token bucket.

Nothing is added to the machine's own network and nothing outlives its maker: names, links and processes belong to namespaces that a holder
keeps, which reads from its maker and ends with it, however that ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final, Self, final

from workbench.channel.launch import find_mpi
from workbench.errors import WorkbenchError

TOOLS: Final = ("unshare", "nsenter", "ip", "tc")
SUBNET: Final = "10.77.0."
BUCKET: Final = "burst 32k limit 1m"
"""What a link lets pass at once, and what waits before it; both ends of every link have one, as a switch's port does."""

PROBE: Final = "ip link add veth0 type veth peer name veth1 && tc qdisc add dev veth0 root tbf rate 1gbit burst 32k limit 1m"

SWITCH: Final = """
set -e
mount -t tmpfs tmpfs /run
cp /etc/hosts /run/hosts
mount --bind /run/hosts /etc/hosts  # hosts find each other by name; the machine's own file stays as it is
ip netns add sw
ip -n sw link add br0 type bridge forward_delay 0
ip -n sw link set br0 up
"""

HOST: Final = """
echo {subnet}{host} h{host} >> /etc/hosts
ip netns add h{host}
ip link add veth0 netns h{host} type veth peer name p{host} netns sw
ip -n h{host} link set lo up
ip -n h{host} addr add {subnet}{host}/24 dev veth0
ip -n h{host} link set veth0 gso_max_size 16384  # a segment larger than the bucket would be cut and lost
ip -n h{host} link set veth0 up
ip -n sw link set p{host} master br0
ip -n sw link set p{host} gso_max_size 16384
ip -n sw link set p{host} up
tc -n h{host} qdisc replace dev veth0 root tbf rate {rate} {bucket}
tc -n sw qdisc replace dev p{host} root tbf rate {rate} {bucket}
ip netns exec h{host} sh -c 'echo reno > /proc/sys/net/ipv4/tcp_congestion_control'
"""

# what the launcher calls in place of ssh: a host's address, then the command of its daemon, which needs a host name of its own
REMOTE: Final = "/run/remote"  # in the mounts of the namespaces alone
SHELL: Final = f"""
cat > {REMOTE} << 'end'
#!/bin/sh
host=h${{1##*.}}; shift
exec ip netns exec $host unshare --uts sh -c "hostname $host; $*"
end
chmod 700 {REMOTE}
"""


def missing() -> str | None:
    """Why this machine cannot have such hosts; None where it can."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"no {tool} here"
    if find_mpi().family != "openmpi":
        return "ranks are started across hosts by Open MPI's launcher, which is not here"
    tried = subprocess.run([*_apart(), "sh", "-c", PROBE], capture_output=True, text=True, check=False, timeout=30)
    words = (tried.stderr.strip() or f"exit code {tried.returncode}").splitlines()[-1]
    return None if tried.returncode == 0 else f"no network namespaces with a token bucket here: {words}"


def _apart() -> list[str]:
    """A command's own network, mounts and processes; without root also users of its own."""
    return ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", "--mount", "--pid", "--fork", "--kill-child"]


@final
class Hosts:
    """So many hosts, 10.77.0.1 and up, each on a full-duplex link of `rate` (in the words of `tc`) to one switch. Use in a `with` statement."""

    def __init__(self, count: int, rate: str = "1gbit") -> None:
        made = [HOST.format(host=host, subnet=SUBNET, rate=rate, bucket=BUCKET) for host in range(1, count + 1)]
        script = "".join([SWITCH, SHELL, *made, "echo ready\nexec cat\n"])
        self._holder = subprocess.Popen(
            [*_apart(), "--mount-proc", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            words = self._holder.communicate(timeout=30)[1].strip()
            raise WorkbenchError(f"the network namespaces could not be made: {words}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs on the hosts, and with it the hosts."""
        self._holder.communicate(timeout=30)  # the holder's input ends; all processes of its namespace end with it

    def address(self, host: int) -> str:
        """Of a host, from 1."""
        return f"{SUBNET}{host}"

    def command(self, host: int, *command: str) -> list[str]:
        """`command` as it runs on a host, under the host's own name."""
        holder = self._holder.pid
        entered = ["nsenter", "--target", str(holder), "--net", "--mount", f"--pid=/proc/{holder}/ns/pid_for_children"]
        if os.geteuid():
            entered += ["--user", "--preserve-credentials"]
        named = ["unshare", "--uts", "sh", "-c", f'hostname h{host}; exec "$@"', "sh"]
        return [*entered, "ip", "netns", "exec", f"h{host}", *named, *command]

    def mpiexec(self, ranks: int, *command: str, environment: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `command` on so many ranks, one host each, which talk over TCP and nothing else."""
        mpi = find_mpi()
        hosts = ",".join(f"{self.address(host)}:1" for host in range(1, ranks + 1))
        launch = [mpi.mpiexec, "-n", str(ranks), *mpi.arguments(), "--host", hosts]
        launch += ["--prtemca", "plm_ssh_agent", REMOTE, "--prtemca", "prte_if_include", "veth0"]
        told = os.environ | mpi.environment(ranks) | tcp("veth0") | (environment or {})
        return subprocess.run(
            self.command(1, *launch, *command), env=told, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
        )


def tcp(interface: str) -> dict[str, str]:
    """What Open MPI is told so that messages travel over this interface and in no other way."""
    return {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": interface}
