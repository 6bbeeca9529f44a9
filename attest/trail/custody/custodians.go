package custody

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Kept is the copy of this node's own trail at one of its custodians.
type Kept struct {
	Custodian spiffeid.ID
	Epoch     uint64    // the newest it has; 0: none
	Leaves    uint64    // of it
	Behind    uint64    // leaves of this node's newest epoch that it lacks
	Whole     bool      // it had, when asked, all that there was a round before
	Heard     time.Time // when it last answered; zero: not since the start
	Err       error     // why it does not answer, or what is wrong with what it has; nil: nothing
}

// errNoCopy is a custodian's that has nothing of this trail yet.
var errNoCopy = errors.New("it has no copy yet")

// askCustodians asks each of this node's custodians what it has of its trail.
func (k *Keeper) askCustodians(ctx context.Context, members []spiffeid.ID) (out []Kept) {
	epochs, err := trail.Epochs(k.cfg.Trail)
	if err != nil || len(epochs) == 0 {
		return nil
	}
	newest := epochs[len(epochs)-1]
	own, err := trail.OpenSnapshot(trail.EpochDir(k.cfg.Trail, newest))
	if err != nil {
		return nil // its first head is not signed yet
	}
	due := k.own // what custodians have had a round's time for
	if due.epoch != newest {
		due = grown{newest, 1}
	}
	rank := Rank(k.cfg.Self, members)
	before := k.Custodians()
	for _, c := range rank[:min(len(rank), k.cfg.Copies)] {
		one := Kept{Custodian: c}
		if i := slices.IndexFunc(before, func(b Kept) bool { return b.Custodian == c }); i >= 0 {
			one = before[i]
			one.Whole = false // until it says so again
		}
		if a, err := k.ask(ctx, c, question{Owner: k.cfg.Self.String(), From: headOnly}); err != nil {
			one.Err = err
		} else {
			one = judge(c, a, own, newest)
			one.Whole = one.Err == nil && one.Epoch == newest && one.Leaves >= due.size
		}
		out = append(out, one)
	}
	k.own = grown{newest, own.Head().Size}
	return out
}

// grown is how far this node's trail was at the end of a round.
type grown struct{ epoch, size uint64 }

// judge holds a custodian's newest head against this node's own trail.
func judge(custodian spiffeid.ID, a answer, own *trail.Snapshot, newest uint64) Kept {
	k := Kept{Custodian: custodian, Behind: own.Head().Size, Heard: time.Now()}
	if len(a.Epochs) == 0 {
		k.Err = errNoCopy
		return k
	}
	head, err := trail.PeekCheckpoint(a.Head)
	if err != nil {
		k.Err = fmt.Errorf("%w: %w", ErrAnswer, err)
		return k
	}
	if k.Epoch, k.Leaves = a.Epochs[len(a.Epochs)-1], head.Size; k.Epoch != newest {
		return k // of an epoch that ended: what is new has not come there
	}
	k.Behind -= min(k.Behind, head.Size)
	switch root, err := own.Root(min(head.Size, own.Head().Size)); {
	case err != nil:
		k.Err = err
	case head.Size > own.Head().Size:
		if now, err := trail.OpenSnapshot(own.Dir()); err != nil || now.Head().Size < head.Size { // it may have grown meanwhile
			k.Err = fmt.Errorf("%w: it has %d leaves, this disk %d", trail.ErrRollback, head.Size, own.Head().Size)
		}
	case root != head.Root:
		k.Err = fmt.Errorf("%w: its first %d leaves are others", trail.ErrRoot, head.Size)
	}
	return k
}

// Custodians lists the copies of this node's own trail as they were at the last round; none before.
func (k *Keeper) Custodians() []Kept {
	k.status.mu.Lock()
	defer k.status.mu.Unlock()
	return k.status.kept
}

// Copies is how many custodians a trail has, where the region has as many nodes.
func (k *Keeper) Copies() int { return k.cfg.Copies }

// Room is how many bytes the copies on this node have, and may have.
func (k *Keeper) Room() (used, most int64) {
	k.status.mu.Lock()
	defer k.status.mu.Unlock()
	return k.status.used, k.cfg.MaxBytes
}
