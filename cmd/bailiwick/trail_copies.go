package main

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/custody"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
)

// copied is a custodian's copy of one epoch.
type copied struct {
	Dir  string `json:"dir"`
	Size uint64 `json:"size"` // leaves under its head
	raw  []byte // the head
}

// fleetCopies adds the copies of an owner's trail on the nodes of the dev fleet.
func (v *verifying) fleetCopies(owner spiffeid.ID) error {
	f, err := dev.Find(".")
	if err != nil {
		return err
	}
	for _, n := range f.Nodes {
		dir := custody.TrailOf(filepath.Join(n.StateDir(), custody.DirName), owner)
		if epochs, err := trail.Epochs(dir); err == nil && len(epochs) > 0 {
			v.copies = append(v.copies, dir)
		}
	}
	return nil
}

// copied reads the heads of the copies that have an epoch. A copy that has not begun it yet is left out; a
// folder that is no copy of anything is a mistake.
func (v verifying) copied(epoch uint64) (out []copied, err error) {
	for _, dir := range v.copies {
		epochs, err := trail.Epochs(dir)
		if err == nil && len(epochs) == 0 {
			err = trail.ErrNoTrail
		}
		if err != nil {
			return nil, &usageError{errors.Join(errors.New("--copies "+dir), err)}
		}
		s, err := trail.OpenSnapshot(trail.EpochDir(dir, epoch))
		if errors.Is(err, trail.ErrNoTrail) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, copied{Dir: s.Dir(), Size: s.Head().Size, raw: s.Head().Raw})
	}
	return out, nil
}
