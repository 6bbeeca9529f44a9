package governing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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

// Shadowing holds a candidate policy against the one in force on this node. The candidate
// is kept and begins again with the node, and when other policy is put in force; what was
// counted begins anew.
//
//	policy/shadow: "candidate" -> CBOR of shadowed
type Shadowing struct {
	shadow   *shadow.Shadow
	staged   *shadow.Shadow // of rolling, which hears of the same decisions
	engine   *policy.Engine // in force
	isolated func() bool    // policy.Config.Isolated of it
	inForce  func() []*bundle.Verified
	verify   func(file []byte) (*bundle.Verified, error)
	store    *store.Store
	log      *slog.Logger

	mu        sync.Mutex // held while a candidate is compiled and kept
	candidate *Candidate // nil: there is none

	watching sync.Mutex // held while the engine is told who listens
}

// masked hides in a decision what the policy in force hides in those that are recorded.
func masked(engine *policy.Engine) func(policy.Decision) policy.Decision {
	return func(d policy.Decision) policy.Decision {
		rules, err := engine.Recording(context.Background(), d)
		return decision.Masked(d, rules, err)
	}
}

// Candidate is one as it was given: a signed file, or levels that nobody has signed.
type Candidate struct {
	Started int64            `cbor:"1,keyasint"` // Unix seconds
	File    []byte           `cbor:"2,keyasint,omitempty"`
	Levels  []CandidateLevel `cbor:"3,keyasint,omitempty"`
}

// CandidateLevel is a level that nobody has signed.
type CandidateLevel struct {
	Level   string `cbor:"1,keyasint"`
	Content []byte `cbor:"2,keyasint"` // as package bundle packs it
}

// OpenShadowing brings back the candidate that was there when the node stopped. Isolated is that of the
// engine's policy.Config. Errors are the store's.
func OpenShadowing(p *Policies, isolated func() bool, metrics prometheus.Registerer, log *slog.Logger) (*Shadowing, error) {
	s := &Shadowing{
		shadow: shadow.New(shadow.Config{Metrics: metrics, Mask: masked(p.engine)}), staged: shadow.New(shadow.Config{Mask: masked(p.engine)}),
		engine: p.engine, isolated: isolated, store: p.st, log: log, inForce: p.InForce, verify: p.VerifyFile,
	}
	return s, s.load()
}

// Run compares with the operator's candidate until ctx ends.
func (s *Shadowing) Run(ctx context.Context) error { return s.shadow.Run(ctx) }

// RunStaged compares for staged policy until ctx ends.
func (s *Shadowing) RunStaged(ctx context.Context) error { return s.staged.Run(ctx) }

// Report is what was found of the candidate so far; false: none is compared.
func (s *Shadowing) Report() (shadow.Report, bool) { return s.shadow.Report() }

const (
	shadowBucket = "policy/shadow"
	shadowKey    = "candidate"
	// unsignedRevision is that of a level that nobody has signed.
	unsignedRevision = "candidate"
	// shadowCache is how many answers a candidate remembers: it is not waited for.
	shadowCache = 512
)

// load begins with the candidate that is kept, if there is one.
func (s *Shadowing) load() error {
	var kept *Candidate
	err := s.store.View(func(tx *store.Tx) error {
		b := tx.Get(shadowBucket, []byte(shadowKey))
		if b == nil {
			return nil
		}
		kept = new(Candidate)
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

// Start compiles a candidate, keeps it and compares with it from now on. Errors wrap
// ErrShadow, those of bundle.Verify and policy.Engine.Activate, or are the store's.
func (s *Shadowing) Start(c Candidate) error {
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

// Stop forgets the candidate. The error is ErrNoShadow or the store's.
func (s *Shadowing) Stop() error {
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

// Given returns the candidate, or nil.
func (s *Shadowing) Given() *Candidate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.candidate
}

// Rebase begins again, against what is in force now.
func (s *Shadowing) Rebase() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
}

// begin compares with the candidate that is kept, if there is one. s.mu is held.
func (s *Shadowing) begin() {
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

func (s *Shadowing) compare(engine *policy.Engine) {
	s.shadow.Start(shadow.Candidate{Engine: engine, Revision: engine.Revision(), Against: s.engine.Revision()})
	s.watch()
}

// watch has the engine tell of its decisions while somebody compares, and no longer: it
// costs little, and that is for nothing otherwise.
func (s *Shadowing) watch() {
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
func (s *Shadowing) compile(c Candidate) (*policy.Engine, error) {
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
		if !slices.Contains(Levels, l.Level) {
			return nil, fmt.Errorf("%w: level %q is none of %v", ErrShadow, l.Level, Levels)
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
func (s *Shadowing) levels() map[string]policy.Level {
	levels := map[string]policy.Level{}
	for _, v := range s.inForce() {
		levels[v.Record.Level] = v.Level()
	}
	return levels
}

// generation compiles these levels, with those in force in the place of the others.
func (s *Shadowing) generation(news ...policy.Level) (*policy.Engine, error) {
	levels := s.levels()
	for _, l := range news {
		levels[l.Name] = l
	}
	var all []policy.Level
	for _, name := range Levels {
		if l, ok := levels[name]; ok {
			all = append(all, l)
		}
	}
	engine := policy.New(policy.Config{Require: Required, Cache: shadowCache, Isolated: s.isolated})
	return engine, engine.Activate(all...)
}

// sameScope reports whether a record is for the scope that the level in force has.
func (s *Shadowing) sameScope(v *bundle.Verified) bool {
	return slices.ContainsFunc(s.inForce(), func(in *bundle.Verified) bool {
		return in.Record.Level == v.Record.Level && in.Record.Scope == v.Record.Scope
	})
}

// Since is when the operator gave the candidate.
func (c *Candidate) Since() time.Time { return time.Unix(c.Started, 0).UTC() }
