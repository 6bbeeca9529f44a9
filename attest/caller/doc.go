// Package caller says which local process is at the other end of a socket.
//
//	FromUnix      the process that connected to our Unix socket
//	FromTCP       the process that holds the socket bound to client and connected to server
//	FromListener  the process that listens on an address
//
// Each returns a Process: process ID, user, group, program file, and selectors spelled as SPIRE's "unix" workload attestor spells them:
//
//	unix:uid:1000  unix:gid:1000  unix:user:web  unix:group:web
//	unix:path:/usr/bin/shop  unix:sha256:<64 hex digits>
//
// # What always holds
//
// A process is held by a pidfd from the moment it is found, so a process ID
// that is used again cannot be mistaken for it. /proc/<pid> is opened once, the
// pidfd is proven alive after that, everything is read through that directory,
// and credentials, program and life are looked at again after the last read. A
// process that executed another program or changed its user in between is
// refused.
//
// The program is hashed only when an entry needs that to match ([Process.Shows]):
// reading a large one takes longer than all the rest. It is hashed through the
// open file of the running inode, never by its path. unix:path is given only if that path, opened here, is the very file
// that runs: a deleted file has none, and neither has one that only a container's
// mount namespace calls by that name. A program that may not be read, or is
// larger than [MaxExe], has no unix:sha256. Fewer selectors match fewer
// entries, so a missing one never gives anything away.
//
// A TCP socket is looked up by sock_diag(7), which answers with its inode and
// the user that made it; the holders of that inode are found by reading
// /proc/<pid>/fd of every process. A socket held by several processes (after a
// fork) belongs to all of them, and is attributed only if they run the same
// program as the same user, and that user, or root, made it. Root's processes do
// not count beside another user's, nor does process 1 beside others: servers
// that drop their privileges and socket activation work so, and root needs no
// socket to act for anyone. Of an address on which several sockets listen
// (SO_REUSEPORT), all must be alike.
//
// A complete scan costs about a millisecond per 100 processes; requests that
// wait share one. For [HintFor] after one, further sockets are looked for in the
// processes it proved first, and a socket found there is not sought elsewhere.
//
// FromUnix refuses a process whose user or group is not what it was when it
// connected, because set-user-ID programs inherit sockets.
//
// # What it does not do
//
// unix:path and unix:sha256 tell programs apart; they are no wall between
// processes of one user, who may trace each other, and scripts look like their
// interpreter. Before Linux 6.5 (no SO_PEERPIDFD) a process ID used again
// between connect and FromUnix is noticed only if user or group differ. Without
// CAP_SYS_PTRACE, only processes of our own user can be found or hashed. A
// thread with a descriptor table of its own is not seen, and what is not seen
// is refused. Linux only.
package caller
