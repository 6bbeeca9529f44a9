// Package admission holds the changes of an origin against what policy granted it.
//
// Policy is asked what an origin may write (kind state_admit), not whether this change may
// come: once for an origin, a generation and the facts about the origin, and again after
// Config.TTL, so that a level that ended or a fact that only Rego knows to be old is noticed.
// Whatever is not an allow (a denial, a missing, expired or failing level) denies all its
// changes until then. The rest is arithmetic:
//
//	a grant covers a change   if its key is below the prefix, its kind among the kinds, its
//	                          scope no wider and its value no longer
//	a change is let through   if a grant covers it and has a token left
//
// A grant's bucket gets rate tokens a second, up to Burst seconds' worth, by the time that
// the origin signed. So what a node missed is taken in as fast as it comes, and the same
// changes have the same answer everywhere, also days later. What a snapshot restates was
// counted when it was written. A del costs a token like a put. An honest node holds its own
// programs to its grants (Config.Share), so its peers refuse it nothing; what they refuse of
// another is not shown until policy changes, they start anew, or its owner writes the key again
// within the rate.
//
// A Book is memory only, of at most Config.Origins origins; who is forgotten begins with a
// full bucket. It is pure but for its lock.
package admission

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Burst is how many seconds' worth of a grant's rate may come at once.
const Burst = 10

var (
	// ErrDenied means policy grants the origin nothing. The message has the rule.
	ErrDenied = errors.New("policy lets this origin write nothing here")

	// ErrGrant means no grant of the origin covers the change. The message names the bound:
	// prefix, kind, scope or bytes.
	ErrGrant = errors.New("the change is outside what policy grants its origin")

	// ErrRate means the origin changes more than its grant lets it, by its own clock. Write
	// less often, or put several values into one key.
	ErrRate = errors.New("the origin exceeds the rate of its grant")
)

// Op is one change, as its origin signed it.
type Op struct {
	Key   string // /<owner path>/<kind>/<name>
	Kind  string
	Scope string // zone, region or global
	Size  int    // of the value, bytes
	At    time.Time
	// Restated: by a snapshot. It was counted when it was written.
	Restated bool
}

// Config says how a Book asks.
type Config struct {
	// Ask answers a state_admit about an origin.
	Ask func(source *policy.Peer) policy.Decision
	// TTL is how long an answer is kept. Zero means ten seconds.
	TTL time.Duration
	// Origins is how many are remembered. Zero means 8192.
	Origins int
	// Share of each bucket that may be used. Zero means all of it. A node that asks about its
	// own writes leaves some: its record is signed a moment later, and judged by that time.
	Share float64
}

// Book is the memory of grants. Its methods may be called concurrently.
type Book struct {
	cfg Config

	mu       sync.Mutex // held for moments, and while Ask answers
	accounts map[string]*account
}

// account is what is known of one origin.
type account struct {
	source   policy.Peer // without the age of its attestation
	decision policy.Decision
	until    time.Time
	buckets  map[string]*bucket // by the grant's id
	told     map[string]bool    // refusals that were reported under this answer
}

// bucket counts one grant's changes.
type bucket struct {
	tokens float64
	at     time.Time // by the origin's clock
}

// New makes an empty Book.
func New(cfg Config) *Book {
	if cfg.TTL <= 0 {
		cfg.TTL = 10 * time.Second
	}
	if cfg.Origins <= 0 {
		cfg.Origins = 8192
	}
	if cfg.Share <= 0 {
		cfg.Share = 1
	}
	return &Book{cfg: cfg, accounts: map[string]*account{}}
}

// Refusal is why a change is not let through: what it wraps, and the decision to record.
// Repeated is set when the same was said before under the same answer.
type Refusal struct {
	Err      error
	Decision policy.Decision
	Repeated bool
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives errors.Is the sentinel.
func (r *Refusal) Unwrap() error { return r.Err }

// Admit charges a change to its origin, or says why not: a *Refusal that wraps ErrDenied,
// ErrGrant or ErrRate. revision is that of the generation in force, now the receiver's
// time.
func (b *Book) Admit(now time.Time, revision string, source *policy.Peer, op Op) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.account(now, revision, source)
	if !a.decision.Allow {
		return a.refuse(a.decision, fmt.Errorf("%w: rule %s: %s", ErrDenied, a.decision.Rule, a.decision.Told()))
	}
	why, nearest := fmt.Errorf("%w: there is none", ErrGrant), -1
	for _, g := range a.decision.Grants {
		bound, met := exceeded(g, op)
		switch {
		case bound == "" && (op.Restated || a.take(g, op.At, b.cfg.Share)):
			return nil
		case bound == "":
			why = fmt.Errorf("%w: %s: %g changes a second, %g at once", ErrRate, g.ID, g.Rate, max(g.Rate*Burst, 1))
		case met > nearest:
			why = fmt.Errorf("%w: %s of grant %s", ErrGrant, bound, g.ID)
		}
		nearest = max(nearest, met)
	}
	d := a.decision
	d.ID, d.Allow, d.Grants, d.At, d.Target = policy.NewID(), false, nil, now.UTC(), op.Key
	d.Rule, d.Reason = policy.RuleGrant, why.Error()
	return a.refuse(d, why)
}

// Grants returns what an origin may write, as it stands.
func (b *Book) Grants(now time.Time, revision string, source *policy.Peer) policy.Decision {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.account(now, revision, source).decision
}

func (a *account) refuse(d policy.Decision, err error) error {
	kind := d.Rule
	if errors.Is(err, ErrRate) {
		kind = "rate"
	}
	r := &Refusal{Err: err, Decision: d, Repeated: a.told[kind]}
	a.told[kind] = true
	return r
}

// account returns what holds for a source, asking policy where that is not known.
func (b *Book) account(now time.Time, revision string, source *policy.Peer) *account {
	facts := *source
	if at := facts.Attestation; at != nil {
		timeless := *at
		timeless.AgeSeconds = 0
		facts.Attestation = &timeless
	}
	a := b.accounts[facts.SPIFFEID]
	if a != nil && a.decision.Revision == revision && now.Before(a.until) && reflect.DeepEqual(a.source, facts) {
		return a
	}
	if a == nil {
		b.makeRoom(now)
		a = &account{buckets: map[string]*bucket{}}
		b.accounts[facts.SPIFFEID] = a
	}
	a.source, a.decision, a.until, a.told = facts, b.cfg.Ask(source), now.Add(b.cfg.TTL), map[string]bool{}
	for id := range a.buckets {
		if !slices.ContainsFunc(a.decision.Grants, func(g policy.Grant) bool { return g.ID == id }) {
			delete(a.buckets, id)
		}
	}
	return a
}

// makeRoom forgets those whose answer is old, and if that does not help, anyone.
func (b *Book) makeRoom(now time.Time) {
	if len(b.accounts) < b.cfg.Origins {
		return
	}
	for id, a := range b.accounts {
		if !now.Before(a.until) {
			delete(b.accounts, id)
		}
	}
	for id := range b.accounts {
		if len(b.accounts) < b.cfg.Origins {
			return
		}
		delete(b.accounts, id)
	}
}

// take spends a token at a time by the origin's clock.
func (a *account) take(g policy.Grant, at time.Time, share float64) bool {
	full := max(g.Rate*Burst, 1)
	k := a.buckets[g.ID]
	if k == nil {
		k = &bucket{tokens: full, at: at}
		a.buckets[g.ID] = k
	}
	if at.After(k.at) {
		k.tokens += at.Sub(k.at).Seconds() * g.Rate
		k.at = at
	}
	k.tokens = min(k.tokens, full)
	if k.tokens < 1+full*(1-share) && k.tokens < full {
		return false
	}
	k.tokens--
	return true
}

// exceeded names the bound of a grant that an op breaks, or nothing, and how many bounds it
// met before.
func exceeded(g policy.Grant, op Op) (bound string, met int) {
	want := slices.Index(policy.Scopes, op.Scope)
	switch {
	case op.Key != g.Prefix && !strings.HasPrefix(op.Key, strings.TrimSuffix(g.Prefix, "/")+"/"):
		return fmt.Sprintf("key %s is outside the prefix %s", op.Key, g.Prefix), 0
	case len(g.Kinds) > 0 && !slices.ContainsFunc(g.Kinds, func(k string) bool { return matches(k, op.Kind) }):
		return fmt.Sprintf("kind %s is not among the kinds", op.Kind), 1
	case want < 0 || want > slices.Index(policy.Scopes, g.Scope):
		return fmt.Sprintf("scope %s is wider than the %s", op.Scope, g.Scope), 2
	case op.Size < 0 || op.Size > g.Bytes:
		return fmt.Sprintf("%d bytes are more than the %d", op.Size, g.Bytes), 3
	}
	return "", 4
}

func matches(pattern, kind string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(kind, prefix)
	}
	return pattern == kind
}
