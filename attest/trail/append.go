package trail

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// MaxWaiting is how many leaves may wait in the outbox while the trail's disk is full or its key
// does not sign. From half of it on, events whose kind is Gapped are counted only: a flood of
// denials leaves room for what must be recorded.
const MaxWaiting = 1 << 16

// ErrBacklog means that MaxWaiting leaves wait in the outbox, because the trail takes none: its
// disk is full or its key does not sign. The event did not happen. Trail.Err says what is wrong.
var ErrBacklog = errors.New("too many leaves wait for the trail: not recorded, not done")

// owedBucket holds, by reason, how many events were counted only: u64, big-endian.
const owedBucket = "trail/owed"

// Append records an event in the transaction that makes it true. body is
// written as deterministic CBOR; use text keys, an auditor reads them. Keep it
// under some 400 bytes and put digests of what is larger. On an error, such as
// ErrBacklog, the caller must let the transaction fail: not recorded, not done.
// While too much waits, an event of a Gapped kind is counted, without an error.
func Append(tx *store.Tx, kind Kind, body any) error {
	if kind.name == "" {
		return fmt.Errorf("%w: a leaf without a kind", ErrLeaf)
	}
	b, err := statement.Marshal(body)
	if err != nil {
		return fmt.Errorf("leaf %s: %w", kind, err)
	}
	return AppendEncoded(tx, kind, b)
}

// AppendEncoded is Append of a body that is deterministic CBOR already.
func AppendEncoded(tx *store.Tx, kind Kind, body []byte) error {
	waiting := tx.Waiting()
	switch {
	case kind.fails == Gapped && waiting >= MaxWaiting/2:
		return owe(tx, 1, "too many leaves waited: "+kind.name)
	case waiting >= MaxWaiting:
		return fmt.Errorf("%w: %s behind %d others", ErrBacklog, kind, waiting)
	}
	return tx.Leaf(kind.name, body)
}

// Room says with ErrBacklog that an event of a Closed kind could not be recorded now. It is for those
// who must know before they sign what a transaction is to keep.
func Room(s *store.Store) error {
	return s.View(func(tx *store.Tx) error {
		if n := tx.Waiting(); n >= MaxWaiting {
			return fmt.Errorf("%w: behind %d others", ErrBacklog, n)
		}
		return nil
	})
}

// write is Append whatever waits.
func write(tx *store.Tx, kind Kind, body any) error {
	b, err := statement.Marshal(body)
	if err != nil {
		return fmt.Errorf("leaf %s: %w", kind, err)
	}
	return tx.Leaf(kind.name, b)
}

// AppendGap records in a transaction that count events are missing, for a reason: those that the
// transaction itself takes away, so that neither happens without the other. Trail.Gap is for
// events that no transaction knows of.
func AppendGap(tx *store.Tx, count uint64, why string) error {
	if count == 0 {
		return nil
	}
	if tx.Waiting() >= MaxWaiting/2 {
		return owe(tx, count, why)
	}
	return write(tx, gapKind, Gap{Count: count, Why: clip(why)})
}

// owe counts events for a gap leaf of later.
func owe(tx *store.Tx, count uint64, why string) error {
	why = clip(why)
	reasons := map[string]uint64{}
	tx.Range(owedBucket, nil, func(k, v []byte) bool {
		reasons[string(k)] = counted(v)
		return true
	})
	if _, ok := reasons[why]; why == "" || !ok && len(reasons) >= maxReasons {
		why = variousReasons
	}
	return tx.Put(owedBucket, []byte(why), binary.BigEndian.AppendUint64(nil, reasons[why]+count))
}

func counted(v []byte) uint64 {
	if len(v) != 8 {
		return 1 // nothing of ours; something was counted
	}
	return binary.BigEndian.Uint64(v)
}

// settle makes leaves of what was counted only, once there is room.
func settle(s *store.Store) error {
	owed := false
	if err := s.View(func(tx *store.Tx) error {
		k, _ := tx.Last(owedBucket)
		owed = k != nil
		return nil
	}); err != nil || !owed {
		return err
	}
	return s.Update(func(tx *store.Tx) (err error) {
		tx.Range(owedBucket, nil, func(k, v []byte) bool {
			err = errors.Join(write(tx, gapKind, Gap{Count: counted(v), Why: string(k)}), tx.Delete(owedBucket, k))
			return err == nil
		})
		return err
	})
}
