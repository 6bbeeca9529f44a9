package governing

import (
	"crypto/ecdsa"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// Floors takes from enrolments which versions of policy are in force in the region, so that a node
// that joins, or comes back, takes no older one from a peer. An issuer proves each by the signed record:
// it can hold no node to a version that does not exist. What comes before the policy is open waits for it.
type Floors struct {
	log *slog.Logger

	mu      sync.Mutex
	book    *bundle.Book // nil: not open yet
	global  []*ecdsa.PublicKey
	waiting [][]byte
}

// NewFloors is told and not open yet.
func NewFloors(log *slog.Logger) *Floors { return &Floors{log: log} }

// Open begins to hold policy to what was told. Errors are the store's.
func (f *Floors) Open(book *bundle.Book, global []*ecdsa.PublicKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.book, f.global = book, global
	return f.raise(f.waiting)
}

// Told takes over the records of an enrolment, before anything of it is used. Errors are the store's.
func (f *Floors) Told(heads [][]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if heads = heads[:min(len(heads), spire.MaxPolicyHeads)]; f.book == nil {
		f.waiting = heads
		return nil
	}
	return f.raise(heads)
}

func (f *Floors) raise(heads [][]byte) error {
	for _, raw := range heads {
		v, err := bundle.VerifyRecord(raw, f.global, time.Now())
		if err != nil {
			f.log.Warn("the issuer names a policy that does not verify: it sets no floor", "err", err)
			continue
		}
		if err := f.book.Raise(v); err != nil {
			return err
		}
	}
	return nil
}

// Heads is what a node that enrols is told: of each of its levels the newest record that all
// enforce, by what is known here of the others of a record's scope.
func (p *Policies) Heads(node spiffeid.ID, others func(bundle.Kept) []rollout.Peer) (out [][]byte) {
	for _, s := range SlotsOf(node) {
		for _, k := range p.Kept() {
			if k.Record.Level == s.Level && k.Record.Scope == s.Scope && p.Enforced(&k.Record, k.Name) && (k.Record.Rollout == nil || allEnforce(others(k), k.Name)) {
				out = append(out, k.Statement)
				break
			}
		}
	}
	return out
}

// allEnforce reports whether nobody who is heard enforces another record.
func allEnforce(peers []rollout.Peer, name [32]byte) bool {
	return !slices.ContainsFunc(peers, func(p rollout.Peer) bool {
		return p.Heard && p.Enforces != [8]byte{} && p.Enforces != [8]byte(name[:])
	})
}
