"""Every id in one line: what is tried · what must happen · which measure's loss it would show.

A line may stand for a group (`S01.*`); `lines()` spells all of them out. The first line that fits an id is its line, so
the particular ones come before their group. A self-test holds this table and the registered probes together.
`–` in the last column: a fact of the kernel or of several measures at once, no one measure's own effect.
"""

import fnmatch
from typing import NamedTuple


class Line(NamedTuple):
    ids: str
    tried: str
    must: str
    shows: str


_TABLE = """
F01.direct           | open the host's canary file by its own path                          | not readable          | rootfs.pivot
F01.any_directory    | the canary's path below each directory of /                          | not readable          | rootfs.detach_old
F01.any_mount        | the canary's path below each mount point                             | not readable          | rootfs.detach_old
F01.walk_up          | forty times `..` from a descriptor of /, then the canary's path      | not readable          | rootfs.pivot
F01.dotdot           | the canary's path by /.. (a root left stacked on the new one)        | not readable          | rootfs.detach_old
F01.*                | the canary's path by a way that has once led out ({name})            | not readable          | rootfs.detach_old
F02                  | chroot                                                               | EPERM, ENOSYS         | seccomp.allowlist
F03                  | read the propagation of every mount                                  | none in a peer group  | mounts.private
F04.points           | read the mount table                                                 | only own places       | rootfs.detach_old
F04.stacked          | count the mounts at /                                                | one                   | rootfs.detach_old
F04.sources          | paths of the host among the roots of mounts                          | shown (INFO)          | –
F05.*                | mknod and mknodat of the character device {name}                     | refused               | caps.permitted
F06.*                | mknod and mknodat of the block device {name}                         | refused               | caps.permitted
F07                  | open_by_handle_at, inode 2 of /app's file system                     | EPERM, ENOSYS         | seccomp.forbidden
F08.*                | mount a new {name} in /tmp                                           | EPERM, ENOSYS         | seccomp.forbidden
F09.*                | bind {name} in /tmp                                                  | EPERM, ENOSYS         | seccomp.forbidden
F10.*                | remount {name} without its flags                                     | EPERM, ENOSYS         | seccomp.forbidden
F11.*                | unmount {name} (MNT_EXPIRE: only marks)                              | EPERM, ENOSYS         | seccomp.forbidden
F12                  | pivot_root with bad pointers                                         | EPERM, ENOSYS         | seccomp.forbidden
F13.*                | {name} with a bad descriptor and pointer                             | EPERM, ENOSYS         | seccomp.forbidden
F14.*                | set the privileged attribute {name} on files of our own              | refused               | caps.permitted
F15.shim_link        | read the link /proc/1/exe                                            | refused               | proc.hidepid
F15.shim_exec        | execute /proc/1/exe                                                  | refused               | proc.hidepid
F15.shim_*           | open the shim's binary for writing ({name})                          | refused               | idmap.agent_uid
F15.*                | open the interpreter or libc for writing ({name})                    | refused               | rootfs.readonly
F16.*                | walk the root for {name} nodes                                       | none                  | dev.minimal
F17.flag.root        | the read-only flag of /'s mount                                      | set                   | rootfs.readonly
F17.flag.app         | the read-only flag of /app's mount                                   | set                   | app.readonly
F17.flag.dev         | the read-only flag of /dev's mount                                   | set                   | dev.readonly
F17.erofs            | touch /usr                                                           | EROFS, not EACCES     | rootfs.readonly
F17.app_erofs        | touch /app                                                           | EROFS, not EACCES     | app.readonly
F17.walk             | walk the root for anything writable                                  | only the scratch      | rootfs.readonly
F17.*                | create a file in {name}                                              | refused               | rootfs.readonly
F24.*                | hard link {name} into /tmp                                           | refused               | –
F28.shm              | run a program from /dev/shm                                          | EACCES                | shm.noexec
F28.tmp              | run a program from /tmp                                              | shown (INFO)          | –
F29.other.*          | the owner of {name}                                                  | root or unmapped      | –
F29.*                | the owner of {name} in the base                                      | uid 0 of the session  | rootfs.owners
F32.shadow           | password hashes in /etc/shadow                                       | none                  | rootfs.pivot
F32.machine_id       | the machine id                                                       | not the host's        | rootfs.pivot
F33.*                | list the host's {name} directory                                     | absent or empty       | rootfs.pivot
M01.*                | size= of the tmpfs at {name}                                         | set, as promised      | {name}.size
M02.*                | nr_inodes= of the tmpfs at {name}                                    | set, as promised      | {name}.inodes
M03.home             | write in the home directory                                          | works                 | home.owner
M03.*                | write in {name}                                                      | works                 | –
M04.proc             | noexec on /proc                                                      | set                   | proc.noexec
M04.dev              | noexec on /dev                                                       | set                   | dev.noexec
M04.dev_pts          | noexec on /dev/pts                                                   | set                   | dev.pts_noexec
M04.shm              | noexec on /dev/shm                                                   | set                   | shm.noexec
M05                  | the mode of the home directory                                       | 0700                  | home.mode
M06.*                | the owner of {name}                                                  | the agent             | {name}.owner
M07                  | the owner of what is in /mnt                                         | the agent             | storage.owners
K11.every            | nosuid on every mount                                                | set                   | tmp.nosuid
K11.dev_pts          | nosuid on /dev/pts                                                   | set                   | dev.pts_nosuid
K11.root             | nosuid on /                                                          | set                   | rootfs.nosuid
K11.*                | nosuid on the mount of {name}                                        | set                   | {name}.nosuid
K12.every            | nodev on every writable mount                                        | set                   | tmp.nodev
K12.root             | nodev on /                                                           | set                   | rootfs.nodev
K12.*                | nodev on the mount of {name}                                         | set                   | {name}.nodev
K20.setuid           | walk for set-uid programs on mounts that honour them                 | none                  | tmp.nosuid
K20.chown            | give an own file to uid 0                                            | refused               | caps.permitted
P01                  | /proc/self names this process                                        | it does               | ns.pid
P01.foreign_pids     | owners of all processes listed in /proc                              | all our own           | proc.hidepid
P01.hidepid          | /proc/1                                                              | not there             | proc.hidepid
P01.hidepid_option   | hidepid= in the mount table                                          | invisible             | proc.hidepid
P01.subset           | names in /proc that are no process                                   | none                  | proc.subset
P01.subset_option    | subset= in the mount table                                           | pid                   | proc.subset
P01.one              | proc mounts                                                          | /proc only            | rootfs.detach_old
P02.*                | read /proc/{name}                                                    | absent, masked        | proc.subset
P03.own.*            | write {name} of our own process                                      | refused               | idmap.setgroups_deny
P03.pid1_*           | open PID 1's {name} for writing                                      | refused               | idmap.agent_uid
P03.*                | open the tunable {name} for writing (never written)                  | refused               | proc.subset
P04                  | open everything in /proc/sys and /sys for writing                    | none opened           | sys.absent
P05.owner            | who owns /proc/1/environ                                             | hidden, or unmapped   | shim.nondumpable
P05.*                | read {name} of PID 1                                                 | refused               | proc.hidepid
P07.*                | read the kernel's log ({name})                                       | refused               | seccomp.allowlist
P08                  | list /sys                                                            | absent or empty       | sys.absent
P08.mounted          | kernel file systems in the mount table                               | none                  | sys.absent
P08.*                | list /sys part {name}                                                | absent                | sys.absent
P09                  | frame numbers in our own pagemap                                     | zero                  | caps.permitted
P10                  | crash a child in /tmp                                                | no core               | rlimit.core
P11                  | the security label                                                   | shown (INFO)          | –
P13.boot_id          | the host's boot id                                                   | not readable          | proc.subset
P06.allow            | names in the environment at start                                    | only expected ones    | env.clear
P06.canary           | the daemon's own variable                                            | not there             | env.clear
P06.version          | the version's own variables                                          | there, unchanged      | –
P06.path             | PATH                                                                 | usual places only     | env.clear
P06.*                | variables of the kind {name} in the environment                      | none                  | env.clear
I01                  | NSpid of our own process                                             | one number            | ns.pid
I02                  | signal 0 to every pid up to 70,000                                   | EPERM for PID 1 only  | ns.pid
I03.*                | {name} on a process of the host                                      | ESRCH, ENOENT         | ns.pid
I04.*                | ptrace {name} of PID 1                                               | EPERM, ENOSYS         | seccomp.forbidden
I05                  | ptrace seize of the agent's own process                              | EPERM, ENOSYS         | seccomp.forbidden
I06.*                | process_vm_{name} on PID 1                                           | EPERM, ENOSYS         | seccomp.forbidden
I07                  | pidfd_getfd from PID 1                                               | EPERM, ENOSYS         | seccomp.forbidden
I08                  | kcmp with PID 1                                                      | EPERM, ENOSYS         | seccomp.forbidden
I09.permission       | signal 0 to PID 1                                                    | EPERM                 | idmap.agent_uid
I09.by.*             | signal PID 1 by {name}                                               | EPERM, ESRCH          | idmap.agent_uid
I09.*                | SIG{name} to PID 1                                                   | EPERM                 | idmap.agent_uid
I10.*                | scheduling class {name}                                              | EPERM, ENOSYS         | rlimit.rtprio
I11.io               | real-time I/O class                                                  | EPERM, ENOSYS         | caps.permitted
I11.*                | priority {name}                                                      | EPERM, EACCES         | rlimit.nice
I12                  | set oom_score_adj to -1                                              | EACCES                | caps.permitted
I12.floor            | lower oom_score_adj below its own                                    | EACCES, where it can  | –
I12.score            | oom_score_adj                                                        | as promised, above 0  | oom.score
I16                  | what signal 0 reaches from 2 to 70,000                               | our own uid only      | ns.pid
I17.*                | {name} on PID 1                                                      | refused               | idmap.agent_uid
I18                  | the parent of an orphan                                              | PID 1                 | ns.pid
I19                  | 200 orphans that end at once                                         | all reaped            | –
I20                  | trace an own child                                                   | shown (INFO)          | –
I21                  | our process group                                                    | inside (not 0)        | setsid
U01.mnt              | the mnt namespace's inode                                            | not the daemon's      | ns.mount
U01.*                | the {name} namespace's inode                                         | not the daemon's      | ns.{name}
U02.*                | the {name} namespace's inode                                         | not another session's | –
U03.time             | the time namespace                                                   | shown (INFO)          | –
U03.children         | pid and pid_for_children                                             | equal                 | –
K03.range            | our uid on the host                                                  | not in a peer's range | idmap.session_range
K03.host_uid         | our uid on the host                                                  | no user of the host   | ns.user
K03.*                | the {name}                                                           | own ids, above 65535  | ns.user
K04                  | /proc/self/setgroups                                                 | deny                  | idmap.setgroups_deny
K04.call             | setgroups                                                            | EPERM                 | caps.permitted
K05                  | supplementary groups                                                 | none                  | idmap.setgroups_deny
K06.agent_uid        | the three uids                                                       | 1000                  | idmap.agent_uid
K06.agent_gid        | the three gids                                                       | 1000                  | idmap.agent_gid
K06.every_thread     | ids of every thread of the agent                                     | 1000                  | idmap.agent_uid
K06.*                | become another by {name}                                             | refused               | caps.permitted
K22                  | the login uid                                                        | none                  | –
K01.start.inheritable| the inheritable set as executed                                      | empty                 | caps.inheritable
K01.start.effective  | the effective set as executed                                        | empty                 | caps.permitted
K01.start.*          | the {name} set as executed                                           | empty                 | caps.{name}
K01.every_thread     | five sets of every thread of the session                             | empty                 | caps.permitted
K01.capget           | capget                                                               | empty                 | caps.permitted
K01.inheritable      | the inheritable set                                                  | empty                 | caps.inheritable
K01.effective        | the effective set                                                    | empty                 | caps.permitted
K01.*                | the {name} set                                                       | empty                 | caps.{name}
K02.no_new_privs     | NoNewPrivs in status                                                 | 1                     | no_new_privs
K02.prctl            | PR_GET_NO_NEW_PRIVS                                                  | 1                     | no_new_privs
K02.filters          | number of filters                                                    | as in the plan        | seccomp.forbidden
K02.*                | Seccomp in status ({name})                                           | 2                     | seccomp.allowlist
K07.*                | capset: raise {name}                                                 | EPERM                 | caps.permitted
K08.*                | unshare a user namespace with one of {name}                          | refused               | seccomp.forbidden
K09.clone3           | clone3 with no arguments                                             | ENOSYS                | seccomp.allowlist
K09.*                | clone into a user namespace with one of {name}                       | refused               | seccomp.clone_namespaces
K10.*                | setns to {name}                                                      | EPERM, ENOSYS         | seccomp.forbidden
K16                  | securebits                                                           | locked, no root       | securebits
K16.set              | change securebits                                                    | EPERM                 | caps.permitted
K17.*                | ambient and bounding set: {name}                                     | EPERM, EINVAL         | caps.permitted
K18                  | unset no_new_privs                                                   | EINVAL                | –
K19.mm               | PR_SET_MM                                                            | EPERM, ENOSYS         | seccomp.prctl
K19.*                | prctl {name} with nonsense                                           | EPERM, ENOSYS         | seccomp.prctl
S01.personality_query| read the personality                                                 | shown (INFO)          | –
S01.personality_*    | set {name}                                                           | EPERM, ENOSYS         | seccomp.personality
S01.vhangup          | vhangup in a session of its own                                      | EPERM, ENOSYS         | seccomp.allowlist
S01.*                | {name} with bad arguments                                            | EPERM, ENOSYS         | seccomp.allowlist
S02.unlisted.*       | {name}, real and not on the list, with bad arguments                 | ENOSYS                | seccomp.allowlist
S02.*                | system call number {name}, unknown                                   | ENOSYS                | –
S11.*                | {name} with bad arguments, forbidden by name                         | EPERM                 | seccomp.forbidden
S14.*                | {name} of a device with a bad path                                   | EPERM                 | seccomp.mknod
S15.*                | {name} of nothing, which is not carried out                          | success               | seccomp.sync
S03.*                | x32 {name}                                                           | refused, killed       | seccomp.foreign_tables
S04.*                | i386 {name} by int 0x80                                              | refused, killed       | seccomp.foreign_tables
S05.own_terminal     | push a byte into a terminal of our own                               | EPERM                 | seccomp.ioctl_tiocsti
S05.*                | ioctl {name} on a pipe                                               | EPERM                 | seccomp.ioctl_tiocsti
S16.*                | ioctl {name} on a pipe                                               | EPERM                 | seccomp.ioctl_files
S06                  | open /dev/tty                                                        | ENXIO                 | setsid
S06.stat             | tty_nr of our own process                                            | 0                     | setsid
S07.*                | {name}: what agents need                                             | works                 | –
S08                  | numbers 0 to 600 with six times -1                                   | as the golden table   | –
S08.time             | 100,000 cheap calls                                                  | shown (INFO)          | –
S12                  | a filter with a listener of our own                                  | shown (INFO)          | –
N01                  | interfaces by netlink                                                | lo                    | net.loopback_only
N01.ifconf           | interfaces by SIOCGIFCONF                                            | lo                    | net.loopback_only
N01.addresses        | addresses                                                            | 127/8, ::1            | net.loopback_only
N01.routes           | routes                                                               | by lo only            | net.loopback_only
N01.up               | a connection over our own 127.0.0.1                                  | works                 | net.loopback
N02.*                | connect to the host's listener ({name})                              | refused               | ns.net
N03.*                | connect to the host's abstract socket ({name})                       | refused               | ns.net
N04.*                | /proc/self/net/{name}                                                | own network only      | ns.net
N05.allowed.*        | a socket of {name}                                                   | works                 | –
N05.shown.*          | a socket of {name}                                                   | shown (INFO)          | –
N05.high_bits        | AF_ALG with high bits in the family                                  | refused               | seccomp.socket_families
N05.pair.*           | a socketpair of {name}                                               | refused               | seccomp.socket_families
N05.*                | a socket of {name}                                                   | refused               | seccomp.socket_families
N06.*                | the kernel's route to {name} (look-up, nothing is sent)              | none                  | ns.net
N10.*                | control sockets of the runtime ({name})                              | not reachable         | rootfs.pivot
N12.*                | netlink: {name} on an interface that is not there                    | EPERM                 | caps.permitted
N13.*                | ioctl: {name} of an interface that is not there                      | EPERM                 | caps.permitted
N14.*                | socket option {name}                                                 | EPERM                 | caps.permitted
N16.*                | put {name} onto a socket                                             | EPERM, ENOSYS         | seccomp.socket_layers
N15                  | bind port 81                                                         | shown (INFO)          | –
C01.*                | the host's System V object ({name})                                  | ENOENT                | ns.ipc
C02.*                | {name} objects in our namespace                                      | none                  | ns.ipc
C03.search.session   | the daemon's key in our session keyring                              | refused, ENOKEY       | keyring.session
C03.search.*         | the daemon's key in the {name} keyring                               | refused, ENOKEY       | idmap.session_range
C03.*                | key call {name}                                                      | EPERM, ENOSYS         | seccomp.forbidden
C04.*                | /proc/{name}                                                         | absent, empty         | proc.subset
C05.*                | {name} with a bad length                                             | EPERM, ENOSYS         | seccomp.allowlist
C06.reading          | read clocks                                                          | works                 | –
C06.*                | set or steer a clock ({name})                                        | refused               | caps.permitted
C07                  | the mount at /dev/shm                                                | own tmpfs             | ns.mount
C07.empty            | files of others in /dev/shm                                          | none                  | ns.mount
C10                  | open the host's message queue                                        | ENOENT                | ns.ipc
C10.directory        | list /dev/mqueue                                                     | absent, empty         | dev.minimal
C11.*                | connect to the host's {name} socket                                  | absent                | rootfs.pivot
C12                  | the host name                                                        | not the host's        | hostname
C12.domain           | the domain name                                                      | none                  | ns.uts
C13                  | the host's file in /dev/shm                                          | ENOENT                | ns.mount
C14                  | System V shared memory of our own                                    | shown (INFO)          | –
G01                  | /proc/self/cgroup                                                    | / only                | ns.cgroup
G01.mountinfo        | cgroup mounts                                                        | none                  | sys.absent
G02.*                | open cgroup file {name} for writing, wherever                        | none                  | sys.absent
G06                  | clone3 into another cgroup                                           | ENOSYS                | seccomp.allowlist
G08                  | open a device that no list allows                                    | EPERM, EACCES         | cgroup.devices
R02                  | fork until refused                                                   | EAGAIN below pids     | cgroup.pids
R03                  | the memory that the session believes to have                         | shown (INFO)          | –
R05                  | spin on all processors                                               | at most the quota     | cgroup.cpu
D01                  | names in /dev                                                        | the usual few         | dev.minimal
D01.block            | block devices in /dev                                                | none                  | dev.minimal
D02.works            | read urandom and zero, write null                                    | works                 | –
D02.replace.*        | {name} of a node in /dev                                             | refused               | dev.readonly
D02.*                | the number of /dev/{name}                                            | the right one         | dev.minimal
D03                  | terminals in /dev/pts before we open one                             | none                  | dev.pts_newinstance
D03.first            | open a terminal: its number                                          | works, 0              | dev.ptmx_mode
D03.instance         | the device of /dev/pts                                               | not the host's        | dev.pts_newinstance
D03.cap              | max= of /dev/pts                                                     | set                   | dev.pts_max
D03.mode             | mode= of /dev/pts                                                    | 0620                  | dev.pts_mode
D03.console          | /dev/console                                                         | absent, own terminal  | dev.minimal
D04.*                | /dev/{name}                                                          | absent                | dev.minimal
D05                  | make a directory in /dev                                             | refused               | dev.readonly
D05.disk             | majors of all nodes in /dev                                          | 1, 5, 136             | dev.minimal
D06                  | the mode of /dev                                                     | 0755                  | dev.mode
L01                  | descriptors at start                                                 | 0, 1, 2               | close_range
L01.three            | descriptors 0, 1, 2 at start                                         | open                  | stdio.own
L01.now              | descriptors of the agent now                                         | none foreign          | close_range
L01.count            | number of descriptors now                                            | as before             | –
L02                  | `..` from each directory descriptor                                  | none leads out        | close_range
L02.proc_fd          | chdir to /proc/self/fd/3…63                                          | no directory          | close_range
L03                  | working directory at start                                           | /app                  | cwd
L03.reachable        | the link /proc/self/cwd                                              | inside                | cwd
L04.own.*            | inode of {name}                                                      | of this session only  | stdio.own
L04.reopen           | open stdout's pipe for reading                                       | shown (INFO)          | –
L04.*                | what {name} is                                                       | null, pipe, socket    | stdio.own
L07                  | umask at start                                                       | as promised           | umask
L08                  | session id at start                                                  | inside (not 0)        | setsid
L09                  | blocked and ignored signals at start                                 | none                  | signals
L10                  | scheduling class and priority                                        | ordinary              | –
L11                  | the death signal at start                                            | KILL                  | deathsig
R01.raise.*          | raise the hard limit {name}                                          | refused               | caps.permitted
R01.shown.*          | the limit {name}                                                     | shown (INFO)          | –
R01.nofile_works     | open files until refused                                             | EMFILE at the limit   | rlimit.nofile
R01.*                | the hard limit {name}                                                | as promised           | rlimit.{name}
Y01.*                | another session's {name}                                             | not there             | ns.mount
Y02.session_id       | another session's id in our own files of /proc                       | nowhere               | –
Y02.proc             | another session's name or secret in any process                      | nowhere               | ns.pid
Y02                  | another session's secret in any file                                 | nowhere               | ns.mount
Y03.*                | another session's System V object ({name})                           | not there             | ns.ipc
Y04                  | another session's message queue                                      | not there             | ns.ipc
Y05.*                | another session's Unix socket ({name})                               | refused               | ns.net
Y06.*                | another session's port ({name})                                      | refused               | ns.net
Y07.*                | another session's key in the {name} keyring                          | refused               | idmap.session_range
Y08.*                | {name} on another session's process                                  | refused               | ns.pid
Y09.inotify          | quota of inotify instances while another session holds all it can get | untouched             | ns.owner
Y09.inotify_share    | the same, while another session of its template holds all it can get | untouched             | inotify.share
Y09.watches          | the same of inotify watches                                          | untouched             | inotify.watches
Y09.*                | quota of {name} while another session holds all of one uid           | untouched             | idmap.session_range
"""

LINES = [Line(*(cell.strip() for cell in row.split("|"))) for row in _TABLE.strip().splitlines()]


def line_of(id):
    """The line that describes `id`, its group's name filled in; None for an id that nobody described."""
    for line in LINES:
        if fnmatch.fnmatchcase(id, line.ids):
            name = _name_within(id, line.ids)
            return Line(id, *(cell.replace("{name}", name) for cell in line[1:]))
    return None


def _name_within(id, pattern):
    """What stands for the `*`: the group's row, without the part that all of the group share."""
    return id[len(pattern) - 1:] if pattern.endswith("*") else id.rpartition(".")[2]


def lines():
    """One line of text per registered id."""
    import families  # noqa: F401
    from registry import PROBES

    return [" · ".join(line_of(id)) for id in PROBES]
