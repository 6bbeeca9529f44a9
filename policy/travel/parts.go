package travel

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

const (
	partsBucket = "policy/parts"
	maxPartial  = 4 // contents of which parts are on the disk
)

// parts are those of contents that are under way, on the disk.
type parts struct{ st *store.Store }

func partKey(digest [32]byte, part int) []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(digest[:]), uint32(part))
}

// get returns a part, nil where it is not here.
func (p parts) get(digest [32]byte, part int) (b []byte, err error) {
	err = p.st.View(func(tx *store.Tx) error {
		b = bytes.Clone(tx.Get(partsBucket, partKey(digest, part)))
		return nil
	})
	return b, err
}

func (p parts) put(digest [32]byte, part int, b []byte) error {
	return p.st.Update(func(tx *store.Tx) error { return tx.Put(partsBucket, partKey(digest, part), b) })
}

// drop forgets all parts but those of the contents that keep reports.
func (p parts) drop(keep func(digest [32]byte) bool) error {
	var gone [][]byte
	if err := p.st.View(func(tx *store.Tx) error {
		gone = nil
		tx.Range(partsBucket, nil, func(k, _ []byte) bool {
			if len(k) < 32 || !keep([32]byte(k)) {
				gone = append(gone, bytes.Clone(k))
			}
			return true
		})
		return nil
	}); err != nil || len(gone) == 0 {
		return err
	}
	return p.st.Update(func(tx *store.Tx) error {
		for _, k := range gone {
			if err := tx.Delete(partsBucket, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// digests are the contents of which parts are here.
func (p parts) digests() (out [][32]byte, err error) {
	err = p.st.View(func(tx *store.Tx) error {
		out = nil
		tx.Range(partsBucket, nil, func(k, _ []byte) bool {
			if len(k) >= 32 && (len(out) == 0 || out[len(out)-1] != [32]byte(k)) {
				out = append(out, [32]byte(k))
			}
			return true
		})
		return nil
	})
	return out, err
}
