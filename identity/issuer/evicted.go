package issuer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

const evictedBucket = "issuer/evicted" // path of an agent ID -> number of its newest eviction, 8 bytes

// EvictionKept is for how long an eviction is remembered: no SVID that the agent had
// then is valid after it.
const EvictionKept = maxLifetime + 24*time.Hour

// Eviction is one of the operator's. Other issuers of the region follow it: Forget.
type Eviction struct {
	Agent  spiffeid.ID
	Number uint64 // grows with every eviction here; it is about when that was, in nanoseconds since 1970
}

// Evictions returns those of the last EvictionKept, the newest of each agent.
func (s *Server) Evictions() (out []Eviction, err error) {
	var bad error
	oldest := uint64(time.Now().Add(-EvictionKept).UnixNano())
	err = s.cfg.Store.View(func(tx *store.Tx) error {
		tx.Range(evictedBucket, nil, func(k, v []byte) bool {
			var e Eviction
			if e, bad = s.readEviction(k, v); bad == nil && e.Number >= oldest {
				out = append(out, e)
			}
			return bad == nil
		})
		return bad
	})
	return out, err
}

func (s *Server) readEviction(k, v []byte) (Eviction, error) {
	id, err := spiffeid.FromPath(s.td, string(k))
	if err != nil || len(v) != 8 {
		return Eviction{}, fmt.Errorf("stored eviction of %q: %d bytes, %w", k, len(v), err)
	}
	return Eviction{Agent: id, Number: binary.BigEndian.Uint64(v)}, nil
}

// enterEviction remembers that an agent was evicted, and forgets what is long over.
func enterEviction(tx *store.Tx, id spiffeid.ID, now time.Time) error {
	number, oldest := uint64(now.UnixNano()), uint64(now.Add(-EvictionKept).UnixNano())
	var over [][]byte
	tx.Range(evictedBucket, nil, func(k, v []byte) bool {
		if len(v) != 8 || binary.BigEndian.Uint64(v) < oldest {
			over = append(over, bytes.Clone(k))
		} else {
			number = max(number, binary.BigEndian.Uint64(v)+1) // whatever the clock did
		}
		return true
	})
	for _, k := range over {
		if err := tx.Delete(evictedBucket, k); err != nil {
			return err
		}
	}
	return tx.Put(evictedBucket, []byte(id.Path()), binary.BigEndian.AppendUint64(nil, number))
}
