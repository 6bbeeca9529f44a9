package audit

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/beside"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
)

// earlier are the heads that were witnessed first after each of some leaves, proven to lie in
// the past of the head of s.
func earlier(s *trail.Snapshot, indexes []uint64) (out []casefile.Seen, err error) {
	covered := uint64(0)
	for _, i := range indexes {
		if i < covered {
			continue
		}
		c, ok, err := trail.SeenAfter(s.Dir(), i)
		if err != nil {
			return nil, err
		}
		if !ok || c.Size > s.Head().Size || c.Text() == s.Head().Text() && len(c.Raw) <= len(s.Head().Raw) {
			break // what is behind was not witnessed before this head
		}
		proof, err := trail.Consistency(s.Dir(), c.Size, s.Head().Size)
		if err != nil {
			return nil, err
		}
		covered = c.Size
		out = append(out, casefile.Seen{Size: c.Size, Raw: trail.Earlier{Proof: proof, Head: c.Raw}.Encode()})
	}
	return out, nil
}

// addWitnesses adds what says who the witnesses of the heads in a case are, as far as it is
// beside the trails: rosters, and the keys of those who cosigned.
func addWitnesses(c *casefile.Case, dirs []string) error {
	return casefile.EachHead(*c, func(head trail.Checkpoint) error {
		raw, err := find(dirs, filepath.Join(witnessing.RostersDir, hex.EncodeToString(head.Roster[:])), witness.MaxRoster)
		if raw == nil || err != nil {
			return err
		}
		roster, err := witness.ParseRoster(raw)
		if err != nil || roster.Hash() != head.Roster {
			return nil // damaged: as if it were not there
		}
		c.Rosters = once(c.Rosters, raw)
		v := witness.Judge(head, func([32]byte) (witness.Roster, bool) { return roster, true })
		for _, by := range v.By {
			for _, m := range roster.Members() {
				if m.ID != by.Witness {
					continue
				}
				b, err := find(dirs, witnessing.KeyPath("", m.Key), witnessing.MaxRecord)
				if err != nil {
					return err
				}
				if k, err := witnessing.ReadRecord(b); err == nil && k.Witness == m.Key {
					c.Witnesses = once(c.Witnesses, b)
				}
			}
		}
		return nil
	})
}

// addTrust adds the trust records that are beside the trails.
func addTrust(c *casefile.Case, dirs []string) error {
	for _, dir := range dirs {
		for _, at := range places(dir) {
			records, err := beside.Trust(at)
			if err != nil {
				return err
			}
			if err := AddTrust(c, records); err != nil {
				return err
			}
		}
	}
	return nil
}

// places are the folders of trails that may have something beside a trail in dir. Beside a
// custodian's copy, <state>/custody/<owner>/trail, are the custodian's own.
func places(dir string) []string {
	return []string{dir, filepath.Join(dir, "..", "..", "..", "trail")}
}

// find reads a file from the first of some folders of trails that has it; nil: none.
func find(dirs []string, name string, limit int64) ([]byte, error) {
	for _, dir := range dirs {
		for _, at := range places(dir) {
			path := filepath.Join(at, name)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return bounded.ReadFile(path, limit)
		}
	}
	return nil, nil
}
