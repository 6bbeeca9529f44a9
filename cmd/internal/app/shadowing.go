package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/shadow"
)

// ErrNoShadow means that no candidate is compared on this node.
var ErrNoShadow = errors.New("no candidate policy is compared on this node: start one with bailiwick policy shadow start")

// ErrShadow means that a candidate is none for this node: it has no level, one twice, or
// one of another region.
var ErrShadow = errors.New("not a candidate policy for this node")

// shadowing holds a candidate policy against the one in force on this node. The candidate
// is kept and begins again with the node, and when other policy is put in force; what was
// counted begins anew.
//
//	policy/shadow: "candidate" -> CBOR of shadowed
type shadowing struct {
	shadow   *shadow.Shadow
	staged   *shadow.Shadow // of rolling, which hears of the same decisions
	engine   *policy.Engine // in force
	isolated func() bool    // policy.Config.Isolated of it
	inForce  func() []*bundle.Verified
	verify   func(file []byte) (*bundle.Verified, error)
	store    *store.Store
	log      *slog.Logger

	mu        sync.Mutex // held while a candidate is compiled and kept
	candidate *shadowed  // nil: there is none

	watching sync.Mutex // held while the engine is told who listens
}

// masked hides in a decision what the policy in force hides in those that are recorded.
func masked(engine *policy.Engine) func(policy.Decision) policy.Decision {
	return func(d policy.Decision) policy.Decision {
		rules, err := engine.Recording(context.Background(), d)
		return decision.Masked(d, rules, err)
	}
}

// shadowed is a candidate as it was given: a signed file, or levels that nobody has signed.
type shadowed struct {
	Started int64           `cbor:"1,keyasint"` // Unix seconds
	File    []byte          `cbor:"2,keyasint,omitempty"`
	Levels  []shadowedLevel `cbor:"3,keyasint,omitempty"`
}

type shadowedLevel struct {
	Level   string `cbor:"1,keyasint"`
	Content []byte `cbor:"2,keyasint"` // as package bundle packs it
}

// openShadow brings back the candidate that was there when the node stopped.
func (a *App) openShadow() error {
	a.shadowing = &shadowing{
		shadow: shadow.New(shadow.Config{Metrics: a.metrics, Mask: masked(a.engine)}), staged: shadow.New(shadow.Config{Mask: masked(a.engine)}), engine: a.engine, isolated: a.isolated, store: a.store, log: a.log,
		inForce: a.policies.inForce, verify: a.policies.verifyFile,
	}
	a.rolling = a.newRolling()
	return a.shadowing.load()
}

const (
	shadowBucket = "policy/shadow"
	shadowKey    = "candidate"
	// unsignedRevision is that of a level that nobody has signed.
	unsignedRevision = "candidate"
	// shadowCache is how many answers a candidate remembers: it is not waited for.
	shadowCache = 512
)

// load begins with the candidate that is kept, if there is one.
func (s *shadowing) load() error {
	var kept *shadowed
	err := s.store.View(func(tx *store.Tx) error {
		b := tx.Get(shadowBucket, []byte(shadowKey))
		if b == nil {
			return nil
		}
		kept = new(shadowed)
		return statement.Unmarshal(slices.Clone(b), kept)
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, shadowBucket, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.candidate = kept
	s.begin()
	return nil
}

// start compiles a candidate, keeps it and compares with it from now on. Errors wrap
// ErrShadow, those of bundle.Verify and policy.Engine.Activate, or are the store's.
func (s *shadowing) start(c shadowed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	engine, err := s.compile(c)
	if err != nil {
		return err
	}
	b, err := statement.Marshal(c)
	if err != nil {
		return err
	}
	if err := s.store.Update(func(tx *store.Tx) error { return tx.Put(shadowBucket, []byte(shadowKey), b) }); err != nil {
		return err
	}
	s.candidate = &c
	s.compare(engine)
	return nil
}

// stop forgets the candidate. The error is ErrNoShadow or the store's.
func (s *shadowing) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.candidate == nil {
		return ErrNoShadow
	}
	if err := s.store.Update(func(tx *store.Tx) error { return tx.Delete(shadowBucket, []byte(shadowKey)) }); err != nil {
		return err
	}
	s.candidate = nil
	s.shadow.Stop()
	s.watch()
	return nil
}

// given returns the candidate, or nil.
func (s *shadowing) given() *shadowed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.candidate
}

// rebase begins again, against what is in force now.
func (s *shadowing) rebase() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
}

// begin compares with the candidate that is kept, if there is one. s.mu is held.
func (s *shadowing) begin() {
	if s.candidate == nil {
		return
	}
	engine, err := s.compile(*s.candidate)
	if err != nil {
		s.log.Error("the candidate policy is not compared any more", "err", err)
		s.shadow.Stop()
		s.watch()
		return
	}
	s.compare(engine)
}

func (s *shadowing) compare(engine *policy.Engine) {
	s.shadow.Start(shadow.Candidate{Engine: engine, Revision: engine.Revision(), Against: s.engine.Revision()})
	s.watch()
}

// watch has the engine tell of its decisions while somebody compares, and no longer: it
// costs little, and that is for nothing otherwise.
func (s *shadowing) watch() {
	s.watching.Lock()
	defer s.watching.Unlock()
	if !s.shadow.Running() && !s.staged.Running() {
		s.engine.Observe(nil)
		return
	}
	s.engine.Observe(func(in policy.Input, d policy.Decision) {
		s.shadow.Observe(in, d)
		s.staged.Observe(in, d)
	})
}

// compile builds the generation of a candidate: its levels, and of the others those in
// force. What nobody has signed gets the terms of the level in force, so that it may allow
// what that may.
func (s *shadowing) compile(c shadowed) (*policy.Engine, error) {
	levels := s.levels()
	news := map[string]policy.Level{}
	if len(c.File) > 0 {
		v, err := s.verify(c.File)
		if err != nil {
			return nil, err
		}
		if in := levels[v.Record.Level]; in.Name != "" && !s.sameScope(v) {
			return nil, fmt.Errorf("%w: it is policy of %s", ErrShadow, v.Record.Scope)
		}
		news[v.Record.Level] = v.Level()
	}
	for _, l := range c.Levels {
		if !slices.Contains(levelNames, l.Level) {
			return nil, fmt.Errorf("%w: level %q is none of %v", ErrShadow, l.Level, levelNames)
		}
		if _, twice := news[l.Level]; twice {
			return nil, fmt.Errorf("%w: level %s is there twice", ErrShadow, l.Level)
		}
		content, err := bundle.Unpack(l.Content)
		if err != nil {
			return nil, err
		}
		level := levels[l.Level]
		level.Name, level.Revision = l.Level, unsignedRevision
		level.Modules, level.Data, level.Schemas = content.Modules, content.Data, content.Schemas
		news[l.Level] = level
	}
	if len(news) == 0 {
		return nil, fmt.Errorf("%w: it has no level", ErrShadow)
	}
	return s.generation(slices.Collect(maps.Values(news))...)
}

// levels are those in force, by their names.
func (s *shadowing) levels() map[string]policy.Level {
	levels := map[string]policy.Level{}
	for _, v := range s.inForce() {
		levels[v.Record.Level] = v.Level()
	}
	return levels
}

// generation compiles these levels, with those in force in the place of the others.
func (s *shadowing) generation(news ...policy.Level) (*policy.Engine, error) {
	levels := s.levels()
	for _, l := range news {
		levels[l.Name] = l
	}
	var all []policy.Level
	for _, name := range levelNames {
		if l, ok := levels[name]; ok {
			all = append(all, l)
		}
	}
	engine := policy.New(policy.Config{Require: requiredLevels, Cache: shadowCache, Isolated: s.isolated})
	return engine, engine.Activate(all...)
}

// levelNames are the levels a generation may have.
var levelNames = []string{policy.Global, policy.Regional, policy.Local}

// sameScope reports whether a record is for the scope that the level in force has.
func (s *shadowing) sameScope(v *bundle.Verified) bool {
	return slices.ContainsFunc(s.inForce(), func(in *bundle.Verified) bool {
		return in.Record.Level == v.Record.Level && in.Record.Scope == v.Record.Scope
	})
}

// since is when the operator gave the candidate.
func (c *shadowed) since() time.Time { return time.Unix(c.Started, 0).UTC() }
