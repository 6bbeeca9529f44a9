package travel

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	maxScopes  = 64   // that are worked on, and whose refusals are remembered
	maxRivals  = 4    // records of one version, beside that which is worked on
	maxNewest  = 1024 // slots of which the newest record is known
)

// ErrNoContent means that no peer in reach has the content of a record, or all of it. It is asked
// for again.
var ErrNoContent = errors.New("no peer in reach has the content of the policy record")

// Config connects a Desk with its node.
type Config struct {
	Store  *store.Store
	Global []*ecdsa.PublicKey // that records lead to
	// Wants reports whether this node keeps the policy of a level and scope.
	Wants func(level, scope string) bool
	// Judge reports whether a record is newer than what is held (bundle.Book.Judge).
	Judge func(*bundle.Verified) (news bool, err error)
	// Conflict is given each record that gives way to another one of its version (bundle.ErrConflict).
	// Errors are the store's.
	Conflict func(*bundle.Verified) error
	// Take compiles a record with its content, keeps it and puts it in force. Run calls it, one at
	// a time. refused is why it never will be taken; err is the store's, and ends Run.
	Take func(*bundle.Verified) (refused, err error)
	// Held returns a content that is held whole, by the digest of its chunks, or nil.
	Held func(chunks [32]byte) []byte
	// Peers are those to ask for the content of a record, the best first.
	Peers func(*bundle.Record) []spiffeid.ID
	// Ask sends a question to a peer and returns its answer, of at most limit bytes. It ends with
	// ctx, which has a deadline. Run calls it from several goroutines.
	Ask func(ctx context.Context, peer spiffeid.ID, question []byte, limit int) ([]byte, error)
	// Budget is what this node knows that the link to a peer takes, in bytes a second; 0: nothing. nil:
	// of none.
	Budget func(spiffeid.ID) uint64
	Log    *slog.Logger
}

// Slot is what versions of a policy replace each other in.
type Slot struct{ Level, Scope string }

// Refusal is a record that verified and was not taken.
type Refusal struct {
	Record bundle.Record
	Err    error
}

// Desk works on records. Offer, Refused and Answer may be called from any goroutine, Run once.
type Desk struct {
	cfg   Config
	parts parts
	wake  chan struct{}
	take  sync.Mutex // held while Config.Take works

	mu      sync.Mutex // held for map work only
	open    map[place]*candidate
	busy    map[string]*candidate // by level: worked on now
	recent  [][32]byte            // contents that were fetched, the last one last
	newest  map[Slot]Noted
	refused map[Slot]Refusal
	seen    map[[32]byte]bool // names of records that were refused
}

// place is where a record is worked on: the newest known of its slot, and the newest of those under it.
type place struct {
	Slot
	under bool
}

// candidate is a record that is being worked on.
type candidate struct {
	at     place
	record *bundle.Verified // without content
	due    time.Time
	pause  time.Duration
	told   bool               // that nobody has the content
	rivals []*bundle.Verified // other records of the version, which gave way

	replaced context.CancelFunc // ends the work on it; nil: none was begun
}

// New makes a desk with nothing on it.
func New(cfg Config) *Desk {
	return &Desk{cfg: cfg, parts: parts{cfg.Store}, wake: make(chan struct{}, 1),
		open: map[place]*candidate{}, busy: map[string]*candidate{}, newest: map[Slot]Noted{}, refused: map[Slot]Refusal{}, seen: map[[32]byte]bool{}}
}

// Offer hands in a signed record from anywhere. One that is not news, or is not for this node, is
// no error. Under a newest record that has a rollout, an older one that Config.Judge calls news is
// worked on as well: it is to hold until the newest's ring begins. Errors are those of bundle.VerifyRecord and Config.Judge: then the record is nothing
// to pass on.
func (d *Desk) Offer(raw []byte, now time.Time) error {
	r, err := bundle.ReadRecord(raw)
	if err != nil {
		return err
	}
	slot := Slot{r.Level, r.Scope}
	if d.known(slot, r.Version, statement.Digest(raw)) {
		return nil
	}
	due := now
	if from := time.Unix(r.NotBefore, 0); from.After(now) {
		due = from // what is to hold later has to verify then, and is looked at again
	}
	v, err := bundle.VerifyRecord(raw, d.cfg.Global, due)
	if err != nil {
		return err
	}
	if !d.cfg.Wants(r.Level, r.Scope) {
		return d.note(v)
	}
	news, err := d.cfg.Judge(v)
	if err != nil {
		switch {
		case errors.Is(err, bundle.ErrConflict):
			return errors.Join(err, d.cfg.Conflict(v))
		case bundle.Refuses(err) && !errors.Is(err, bundle.ErrRollback):
			d.refuse(v, err)
		}
		return err
	}
	if err := d.note(v); err != nil || !news {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at := place{slot, d.newest[slot].Record.Version > r.Version}
	c := d.open[at]
	if d.seen[v.Name] || c == nil && len(d.open) >= maxScopes || c != nil && !v.Over(c.record) {
		if c != nil && c.record.Record.Version == r.Version && c.record.Name != v.Name && len(c.rivals) < maxRivals {
			c.rivals = append(c.rivals, v)
		}
		return nil
	}
	var rivals []*bundle.Verified
	if c != nil {
		if rivals = c.rivals; c.record.Record.Version != r.Version {
			rivals = nil
		} else if len(rivals) < maxRivals {
			rivals = append(rivals, c.record)
		}
		d.giveUp(c)
		if !at.under && v.Record.Rollout != nil && v.Record.Version > c.record.Record.Version { // it waits for its ring: what is to hold until then is still to come
			d.put(place{slot, true}, c.record, now)
		}
	}
	if under := d.open[place{slot, true}]; under != nil && v.Record.Rollout == nil && !at.under {
		d.giveUp(under)
	}
	d.put(at, v, due)
	d.open[at].rivals = rivals
	return nil
}

func (d *Desk) put(at place, v *bundle.Verified, due time.Time) {
	d.open[at] = &candidate{at: at, record: v, due: due, pause: firstRetry}
	d.kick()
}

func (d *Desk) giveUp(c *candidate) {
	if c.replaced != nil {
		c.replaced()
	}
	delete(d.open, c.at)
}

// known reports whether nothing is to be learned of a record: these very bytes were judged
// before, or a newer record is being worked on that it would have no place under.
func (d *Desk) known(slot Slot, version uint64, bytes [32]byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.open[place{slot, true}]; c != nil && (c.record.Record.Version > version || statement.Digest(c.record.Statement()) == bytes) {
		return true
	}
	if c := d.open[place{slot, false}]; c != nil && c.record.Record.Version > version && c.record.Record.Rollout == nil {
		return true
	}
	return d.newest[slot].bytes == bytes
}

// note remembers the newest record of each slot that verified, wanted here or not.
func (d *Desk) note(v *bundle.Verified) error {
	slot := Slot{v.Record.Level, v.Record.Scope}
	d.mu.Lock()
	defer d.mu.Unlock()
	before, have := d.newest[slot]
	if have {
		if err := v.After(before.Record.Version); errors.Is(err, bundle.ErrRollback) {
			if v.Over(&bundle.Verified{Record: before.Record, Name: before.Name}) {
				d.newest[slot] = Noted{v.Record, v.Name, statement.Digest(v.Statement())}
			}
			return nil
		} else if err != nil {
			return err
		}
	} else if len(d.newest) >= maxNewest {
		return nil
	}
	d.newest[slot] = Noted{v.Record, v.Name, statement.Digest(v.Statement())}
	return nil
}

// Noted is a record that verified.
type Noted struct {
	Record bundle.Record
	Name   [32]byte
	bytes  [32]byte // the digest of the statement
}

// Newest lists the newest record of each slot that came here and verified, wanted here or not, as
// far as there is room.
func (d *Desk) Newest() (out []Noted) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.newest {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Noted) int { return compare(a.Record, b.Record) })
	return out
}

// Refused lists the newest refusal of each slot since which none was taken, by level and scope.
func (d *Desk) Refused() []Refusal {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Values(d.refused), func(a, b Refusal) int { return compare(a.Record, b.Record) })
}

// Waiting lists what is worked on: records that wait for their time or their content.
func (d *Desk) Waiting() (out []bundle.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.open {
		out = append(out, c.record.Record)
	}
	slices.SortFunc(out, compare)
	return out
}

func compare(a, b bundle.Record) int {
	return cmp.Or(strings.Compare(a.Level, b.Level), strings.Compare(a.Scope, b.Scope), cmp.Compare(b.Version, a.Version))
}
