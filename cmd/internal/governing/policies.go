package governing

import (
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/travel"
)

// Required are the levels without which a node denies everything.
var Required = []string{policy.Global, policy.Regional}

// Levels are those that a generation may have.
var Levels = []string{policy.Global, policy.Regional, policy.Local}

// Policies is what a node holds and what is in force on it. Its methods may be called by many
// at once.
type Policies struct {
	slots  []policySlot
	engine *policy.Engine
	book   *bundle.Book
	st     *store.Store
	global []*ecdsa.PublicKey
	change func(*store.Tx, decision.Change) error // records it, before it takes effect
	log    *slog.Logger
	stages stages

	mu     sync.Mutex                         // held while a generation is built, kept and put in force
	active atomic.Pointer[[]*bundle.Verified] // in the order of slots
	held   atomic.Pointer[[]bundle.Kept]      // of all scopes, the newest of each first

	// guarded by mu
	stale       map[string]string             // policy.Level.Stale by level
	generations map[string][]*bundle.Verified // that in force and the one the engine may go back to, by generation
	pinned      map[[32]byte]bool             // records that stay in the book
}

// policySlot is one of the levels that hold on this node.
type policySlot struct {
	level, scope string
	field        string      // of the configuration
	file         config.Path // empty: none is configured
}

// New is the policy of a node as configured, with nothing in force before Open. Change records what
// is about to be in force, in the transaction that it is given; where it fails nothing is put in force.
func New(c config.Config, engine *policy.Engine, st *store.Store, global []*ecdsa.PublicKey, change func(*store.Tx, decision.Change) error, log *slog.Logger) *Policies {
	p := &Policies{
		generations: map[string][]*bundle.Verified{},
		engine:      engine, book: bundle.NewBook(st), stages: stages{st}, st: st, global: global, change: change, log: log,
		slots: []policySlot{
			{policy.Global, bundle.ScopeMesh, "policy.global", c.Policy.Global},
			{policy.Regional, c.Node.TrustDomain().Name(), "policy.region", c.Policy.Region},
			{policy.Local, LocalScope(c.Node), "policy.local", c.Policy.Local},
		},
	}
	p.book.Pin(func(name [32]byte) bool { return p.pinned[name] })
	p.book.Stage(p.staged)
	return p
}

// Book is where the records are kept.
func (p *Policies) Book() *bundle.Book { return p.book }

// Own reports whether policy of a level and scope holds on this node.
func (p *Policies) Own(level, scope string) bool {
	return slices.ContainsFunc(p.slots, func(s policySlot) bool { return s.level == level && s.scope == scope })
}

// SlotsOf are the levels that hold on a node.
func SlotsOf(node spiffeid.ID) []travel.Slot {
	return []travel.Slot{
		{Level: policy.Global, Scope: bundle.ScopeMesh}, {Level: policy.Regional, Scope: node.TrustDomain().Name()}, {Level: policy.Local, Scope: LocalScope(node)},
	}
}

// LocalScope is the scope of a node's local policy: its zone, or itself where it has none.
func LocalScope(node spiffeid.ID) string {
	scope := node.TrustDomain().Name()
	if n, err := identity.ParseNode(node); err == nil && n.Zone != "" {
		return scope + "/zone/" + n.Zone
	}
	return scope + node.Path()
}

// Open puts in force what this node starts with: of each level the newest of what it holds
// and the configured file, or the one before where that does not compile. A node does not
// start with a file that it cannot verify. Errors wrap those of bundle.Verify and policy.Engine.Prepare,
// or are the store's or the file system's.
func (p *Policies) Open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var start, staged []*bundle.Verified
	older := map[string]*bundle.Verified{}
	for _, s := range p.slots {
		held, err := p.holds(s)
		if err != nil {
			p.log.Warn("policy held here does not verify any more: the configured file counts", "err", err)
		}
		newest, err := p.file(s)
		if err != nil {
			return err
		}
		if newest != nil {
			if _, err := p.book.Judge(newest); errors.Is(err, bundle.ErrFloor) {
				p.log.Warn("the configured policy file is older than what is in force in the region: it is left aside", "file", s.file, "err", err)
				newest = nil
			}
		}
		if len(held) > 0 && (newest == nil || newest.Record.Version <= held[0].Record.Version) {
			newest, held = held[0], held[1:]
		}
		for len(held) > 0 && newest != nil && p.waits(newest, held[0]) {
			staged = append(staged, newest)
			newest, held = held[0], held[1:]
		}
		if len(held) > 0 {
			older[s.level] = held[0]
		}
		if newest != nil {
			start = append(start, newest)
		}
	}
	err := p.install(start, decision.Started, "", false, time.Now())
	if err == nil {
		return p.keep(false, time.Now(), staged...)
	}
	if len(older) == 0 {
		return err
	}
	for i, v := range start {
		before := older[v.Record.Level]
		if bad := policy.Check(v.Level()); bad != nil && before != nil {
			p.log.Error("policy held here does not compile any more: the one before is put in force", "policy", v.Record.String(), "err", bad)
			start[i] = before
		}
	}
	return p.install(start, decision.Started, "", false, time.Now())
}

// holds returns the enforced records that are held of a slot, newest first.
func (p *Policies) holds(s policySlot) ([]*bundle.Verified, error) {
	held, err := p.book.Held(s.level, s.scope, p.global)
	return slices.DeleteFunc(held, func(v *bundle.Verified) bool { return v.Record.Mode != bundle.Enforce }), err
}

// file reads the configured file of a slot; nil where there is none.
func (p *Policies) file(s policySlot) (*bundle.Verified, error) {
	if s.file == "" {
		return nil, nil
	}
	b, err := config.ReadFile(s.field, string(s.file))
	if err != nil {
		return nil, err
	}
	v, err := p.VerifyFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.file, err)
	}
	if v.Record.Level != s.level || v.Record.Scope != s.scope || v.Record.Mode != bundle.Enforce {
		return nil, fmt.Errorf("%s: %w: it is %s policy for %s to %s, want %s for %s to %s", s.file, bundle.ErrMalformed,
			v.Record.Level, v.Record.Scope, v.Record.Mode, s.level, s.scope, bundle.Enforce)
	}
	return v, nil
}

// VerifyFile verifies a policy file. Errors wrap those of bundle.Split and bundle.Verify.
func (p *Policies) VerifyFile(b []byte) (*bundle.Verified, error) {
	signed, content, err := bundle.Split(b)
	if err != nil {
		return nil, err
	}
	return bundle.Verify(signed, content, p.global, time.Now())
}

// Reload takes over the configured files that are newer than what is held, all or none: one
// that is older is told of, and what came since stays. Errors wrap those of bundle.Verify,
// bundle.Book.Judge and policy.Engine.Prepare.
func (p *Policies) Reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var news, staged []*bundle.Verified
	for _, s := range p.slots {
		v, err := p.file(s)
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		newer, err := p.book.Judge(v)
		switch {
		case errors.Is(err, bundle.ErrRollback), errors.Is(err, bundle.ErrFloor), err == nil && !newer && p.Version(s.level) > v.Record.Version:
			p.log.Warn("the configured policy file is older than the policy held, which stays: to go back, publish the old content as a new version (bailiwick policy rollback)",
				"file", s.file, "policy", v.Record.String(), "in force", p.Version(s.level))
		case err != nil:
			return fmt.Errorf("%s: %w", s.file, err)
		case newer && p.waits(v, p.current(s.level)):
			staged = append(staged, v)
		case newer:
			news = append(news, v)
		}
	}
	for _, v := range staged {
		if err := policy.Check(v.Level()); err != nil {
			return err
		}
	}
	if err := p.keep(false, time.Now(), staged...); err != nil {
		return err
	}
	return p.install(news, decision.Published, "", false, time.Now())
}

// Take keeps a record and, where it holds on this node, puts it in force. handed is true
// for one that an operator gave to this node. refused is what is wrong with it; err is the
// store's.
func (p *Policies) Take(v *bundle.Verified, handed bool) (refused, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news, err := p.book.Judge(v)
	switch {
	case bundle.Refuses(err):
		return err, nil
	case err != nil:
		return nil, err
	case !news:
		err = p.keep(handed, time.Now(), v)
	case p.Enforces(v):
		err = p.install([]*bundle.Verified{v}, decision.Published, "", handed, time.Now())
	default:
		if err = policy.Check(v.Level()); err == nil {
			err = p.keep(handed, time.Now(), v)
		}
	}
	if e := (storeError{}); errors.As(err, &e) {
		return nil, e.error
	}
	return err, nil
}

// Enforces reports whether a record is to be put in force on this node.
func (p *Policies) Enforces(v *bundle.Verified) bool {
	return v.Record.Mode == bundle.Enforce && !p.waits(v, p.current(v.Record.Level)) && p.Own(v.Record.Level, v.Record.Scope)
}

// storeError tells a store that fails from a record that is refused.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// install puts records in force beside those of the other levels. The first of a start were
// measured by whoever signed them, and by this node when it took them. p.mu is held.
func (p *Policies) install(news []*bundle.Verified, why decision.Reason, detail string, handed bool, now time.Time) error {
	var all []*bundle.Verified
	var levels []policy.Level
	p.follow()
	start := len(p.InForce()) == 0
	for _, s := range p.slots {
		is := func(v *bundle.Verified) bool { return v.Record.Level == s.level }
		from := news
		i := slices.IndexFunc(from, is)
		if i < 0 {
			from = p.InForce()
			i = slices.IndexFunc(from, is)
		}
		if i >= 0 {
			l := from[i].Level()
			l.Stale, l.Measured = p.stale[s.level], start
			all, levels = append(all, from[i]), append(levels, l)
		}
	}
	use, err := p.engine.Prepare(levels...)
	if err != nil {
		return err
	}
	c := p.changeTo(all, why, detail)
	if err := p.keep(handed, now, news...); err != nil {
		return err
	}
	if c.From != c.To {
		if err := p.st.Update(func(tx *store.Tx) error { return p.change(tx, c) }); err != nil {
			return p.stored(err)
		}
	}
	use()
	p.active.Store(&all)
	p.remember(all, c.To)
	return nil
}

// changeTo is the change from the records in force to others, which the engine has prepared. p.mu is held.
func (p *Policies) changeTo(all []*bundle.Verified, why decision.Reason, detail string) decision.Change {
	c := decision.Change{Why: why, Detail: detail, From: p.engine.Revision(), To: p.engine.Prepared()}
	for _, v := range all {
		before := p.current(v.Record.Level)
		if before != nil && before.Name == v.Name {
			continue
		}
		r := changedRecord(v, before)
		if why == decision.Published && before != nil && before.Record.Digest != v.Record.Digest && slices.ContainsFunc(p.Kept(), func(k bundle.Kept) bool {
			return k.Record.Level == v.Record.Level && k.Record.Scope == v.Record.Scope && k.Record.Digest == v.Record.Digest && k.Record.Version < v.Record.Version
		}) {
			c.Why = decision.RolledBack
		}
		c.Records = append(c.Records, r)
	}
	return c
}

func changedRecord(v, before *bundle.Verified) decision.ChangedRecord {
	r := decision.ChangedRecord{
		Level: v.Record.Level, Scope: v.Record.Scope, Version: v.Record.Version, Record: hex.EncodeToString(v.Name[:]), Digest: hex.EncodeToString(v.Record.Digest[:]),
		Author: v.Record.Author, Key: hex.EncodeToString(v.Key[:]), Change: v.Record.Change,
	}
	if before != nil {
		r.From = before.Record.Version
	}
	return r
}

// keep makes records durable. One that is held already, or an older one that stands in for
// a newer that does not compile, changes nothing.
func (p *Policies) keep(handed bool, now time.Time, all ...*bundle.Verified) error {
	if p.held.Load() == nil { // at the start
		if err := p.list(); err != nil {
			return err
		}
	}
	for _, v := range all {
		p.pinned = p.pins()
		if err := p.book.Keep(v, handed, now); err != nil {
			return p.stored(err)
		}
	}
	return p.list()
}

func (p *Policies) list() error {
	held, err := p.book.List()
	if err != nil {
		return p.stored(err)
	}
	p.held.Store(&held)
	return nil
}

func (*Policies) stored(err error) error {
	for _, refusal := range []error{bundle.ErrRollback, bundle.ErrConflict, bundle.ErrFloor, bundle.ErrJump, nil} {
		if errors.Is(err, refusal) {
			return err
		}
	}
	return storeError{err}
}

// Version is that of the record in force at a level, or 0.
func (p *Policies) Version(level string) uint64 {
	for _, v := range p.InForce() {
		if v.Record.Level == level {
			return v.Record.Version
		}
	}
	return 0
}

// InForce are the records in force, in the order of the levels.
func (p *Policies) InForce() []*bundle.Verified {
	if all := p.active.Load(); all != nil {
		return *all
	}
	return nil
}

// Kept is what is held of all scopes, the newest of each first.
func (p *Policies) Kept() []bundle.Kept {
	if all := p.held.Load(); all != nil {
		return *all
	}
	return nil
}
