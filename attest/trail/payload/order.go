package payload

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// Scope says what a payload is about, as far as erasure goes. Its zero value is of nobody and of no class.
type Scope struct {
	Subject string   // SPIFFE ID of whoever asked, or uid:1000 for a user; empty where nobody is known
	Kind    string   // of the decision
	Classes []string // of data, sorted
}

func (s Scope) String() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // texts always encode
	}
	return string(b)
}

// Order is what is to be erased: everything in a scope that has Subject, Class and Kind, those of them that are
// set. What is set to nothing at all is refused: see Check.
type Order struct {
	Subject string    `cbor:"subject,omitempty"`
	Class   string    `cbor:"class,omitempty"`
	Kind    string    `cbor:"kind,omitempty"`
	Before  time.Time `cbor:"-"`                // a UTC midnight: only of the days before; zero: everything so far
	Day     string    `cbor:"before,omitempty"` // of Before
	By      string    `cbor:"by"`               // who ordered it, in words
	Reason  string    `cbor:"reason"`           // why; never the data itself

	// Set by Erase.
	ID     string `cbor:"erasure"` // 16 hex digits
	At     int64  `cbor:"at"`      // Unix seconds
	Serial uint64 `cbor:"serial"`  // of the newest key then
	Keys   int    `cbor:"keys"`    // how many there were
}

// ErrOrder means that an order says nothing to erase, or does not say it exactly.
var ErrOrder = errors.New("an order to erase is not complete")

// ErrHeld means that nothing may be erased: the node is under a legal hold, which the error names. Whoever
// takes orders checks that; Erase does not know of holds.
var ErrHeld = errors.New("nothing is erased under a legal hold")

// Check refuses, with ErrOrder, an order without a subject, class or kind, without a name or a reason, or whose
// time is not the beginning of a UTC day: keys are of whole days.
func (o Order) Check() error {
	var errs []error
	if o.Subject == "" && o.Class == "" && o.Kind == "" {
		errs = append(errs, fmt.Errorf("%w: want a subject, a class of data or a kind of decision", ErrOrder))
	}
	if !o.Before.IsZero() && !o.Before.Equal(o.Before.UTC().Truncate(24*time.Hour)) {
		errs = append(errs, fmt.Errorf("%w: before %s: want a day, such as 2026-11-21: keys are of whole UTC days", ErrOrder, o.Before.Format(time.RFC3339)))
	}
	if o.By == "" || o.Reason == "" {
		errs = append(errs, fmt.Errorf("%w: want who orders it, and a reason", ErrOrder))
	}
	return errors.Join(errs...)
}

// covers reports whether a key of a day is to be destroyed.
func (o Order) covers(day string, k *key) bool {
	return k.Erased == nil && (o.Day == "" || day < o.Day) && (o.Serial == 0 || k.Serial <= o.Serial) &&
		(o.Subject == "" || k.Subject == o.Subject) && (o.Kind == "" || k.Kind == o.Kind) &&
		(o.Class == "" || slices.Contains(k.Classes, o.Class))
}

// Erasure is what is left of a key.
type Erasure struct {
	ID string `cbor:"1,keyasint" json:"id"` // of the order; the trail's leaf payload.erase has it
	At int64  `cbor:"2,keyasint" json:"at"` // Unix seconds
	By string `cbor:"3,keyasint" json:"by"`
}

func (e Erasure) String() string {
	return fmt.Sprintf("erased on %s by %s (erasure %s)", time.Unix(e.At, 0).UTC().Format(time.DateOnly), e.By, e.ID)
}

// ordersBucket holds every order that was given, by its ID.
const ordersBucket = "payload/orders"

func (o Order) write(tx *store.Tx) error {
	b, err := statement.Marshal(o)
	if err != nil {
		return err
	}
	return tx.Put(ordersBucket, []byte(o.ID), b)
}

func readOrders(s *store.Store) (out []Order, err error) {
	err = s.View(func(tx *store.Tx) error {
		var bad error
		tx.Range(ordersBucket, nil, func(_, v []byte) bool {
			var o Order
			if err := statement.Unmarshal(v, &o); err != nil {
				bad = fmt.Errorf("%w: %s: %v", store.ErrCorrupt, ordersBucket, err)
				return false
			}
			out = append(out, o)
			return true
		})
		return bad
	})
	return out, err
}
