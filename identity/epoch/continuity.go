package epoch

// Disk says whether a node runs with the disk it last ran with. The zero value
// is Restored, so that a node that does not know stays careful.
type Disk int

const (
	// Restored means the disk is older than the TPM's memory, new, or from
	// another machine. The feed must not go on in its epoch: records may have
	// been sent that the disk no longer knows.
	Restored Disk = iota
	// Same means the feed goes on where the disk says.
	Same
)

func (d Disk) String() string {
	if d == Same {
		return "same"
	}
	return "restored"
}

// Continuity compares the TPM's `starts` counter (nv) with the value remembered
// on disk (0 when there is none), at start, before anything is signed.
//
// Every start then does, in this order:
//
//  1. in one transaction: remember nv+1 on disk and, if the answer was
//     Restored, that it was;
//  2. bump the counter to nv+1;
//  3. only now sign or send anything.
//
// A crash after step 1 leaves the disk one ahead of the counter: that is still
// the same disk, and the next start repeats step 1 with the same value. A disk
// that is behind by any number, or ahead by more than one (a cleared or another
// TPM), is Restored.
//
// A TPM's counter that was never bumped reads 1: that is the first start there
// ever was, and a disk that remembers nothing is then the right one.
//
// What this cannot see: a copy of the disk that is taken and put back between
// two starts. A peer that shows a signed head of ours that we lack does.
func Continuity(nv, disk uint64) Disk {
	if disk == nv || disk == nv+1 && disk != 0 || disk == 0 && nv == 1 {
		return Same
	}
	return Restored
}
