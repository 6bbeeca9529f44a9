package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/admission"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// ownShare is how much of its own buckets a node uses: its records are signed a moment
// after it asks, and judged by peers as of then.
const ownShare = 0.9

// gate decides which changes become visible here, and which this node's programs may
// write: by the grants of their origin and the schemas of their keys.
type gate struct {
	self    spiffeid.ID
	engine  *policy.Engine
	subject func(spiffeid.ID) *policy.Peer
	control func(source spiffeid.ID, call string) bool // whether a control call of a node may be
	record  func(policy.Decision)                      // of what was refused, once an answer

	// segmented reports whether the authority keeps out the part of an origin's state that a key is
	// in. Nil: nothing is.
	segmented func(origin spiffeid.ID, kind, name string) bool

	peers, own *admission.Book
	refused    *prometheus.CounterVec // own writes; those of peers the replica counts
}

func newGate(self spiffeid.ID, engine *policy.Engine, subject func(spiffeid.ID) *policy.Peer, control func(spiffeid.ID, string) bool, record func(policy.Decision), reg prometheus.Registerer) *gate {
	g := &gate{self: self, engine: engine, subject: subject, control: control, record: record}
	g.refused = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_state_refused_writes_total", Help: "Writes of local programs that peers would not show, by why: schema, grant, rate or policy.",
	}, []string{"why"})
	g.peers = admission.New(admission.Config{Ask: g.ask})
	g.own = admission.New(admission.Config{Ask: g.ask, Share: ownShare})
	return g
}

func (g *gate) ask(source *policy.Peer) policy.Decision {
	return g.engine.Decide(context.Background(), policy.Input{
		V: policy.InputVersion, Kind: policy.StateAdmit, Time: policy.Time{Unix: time.Now().Unix(), Trusted: true},
		Self: g.subject(g.self), Source: source,
	})
}

// refusal is an error with the word that the trail and the metrics have for it.
type refusal struct {
	error
	why string
}

func (r refusal) Why() string   { return r.why }
func (r refusal) Unwrap() error { return r.error }

// foreign decides about a change of another node, as it was signed.
func (g *gate) foreign(rec feed.Record, op feed.Op) error {
	written, restated := rec.HLC.Time(), false
	if rec.Kind == feed.Snapshot {
		written, restated = op.Written.HLC.Time(), true
	}
	return g.judge(g.peers, rec.Feed().Origin, op, written, restated)
}

// local decides about a change that a program of this node wants to write now.
func (g *gate) local(op feed.Op) error {
	err := g.judge(g.own, g.self, op, time.Now(), false)
	if r := (refusal{}); errors.As(err, &r) {
		g.refused.WithLabelValues(r.why).Inc()
	}
	return err
}

// refuse names the generation that an answer rests on: a later one may give another.
func (g *gate) refuse(err error, why string) error {
	return refusal{fmt.Errorf("%w (policy %s)", err, g.engine.Revision()), why}
}

// controlCalls are what signed state of a kind does for the nodes that get it, where that is
// what keeps them repairable: no level but the global one may keep it out.
var controlCalls = map[string]string{
	feed.KindPolicy: "policy_sync", feed.KindAuthority: "trust_sync",
	feed.KindEvidence: "standing_sync", feed.KindAccusation: "standing_sync", feed.KindAttestation: "standing_sync",
}

// clears reports whether state of a kind may clear its origin: the evidence of a held node's machine,
// which is judged by what it shows. Kept out, nobody came back who is held for want of it.
func (g *gate) clears(origin spiffeid.ID, kind string) bool {
	if kind != feed.KindAttestation {
		return false
	}
	source := g.subject(origin)
	return source != nil && source.Standing == quarantine.Held.String()
}

func (g *gate) judge(book *admission.Book, origin spiffeid.ID, op feed.Op, written time.Time, restated bool) error {
	key, err := feed.ParseKey(op.Key)
	if err != nil {
		return err
	}
	if g.segmented != nil && g.segmented(origin, key.Kind, key.Name) {
		return refusal{fmt.Errorf("%w: %s", quarantine.ErrSegmented, op.Key), "segment"}
	}
	if op.Action == feed.Put { // first: what breaks its schema costs no token
		if err := g.engine.Fits(key.Kind, key.Name, written, op.Value).Refused(); err != nil {
			return g.refuse(err, "schema")
		}
	}
	err = book.Admit(time.Now(), g.engine.Revision(), g.subject(origin), admission.Op{
		Key: op.Key, Kind: key.Kind, Scope: op.Scope.String(), Size: len(op.Value), At: written, Restated: restated,
	})
	if said := (*admission.Refusal)(nil); errors.As(err, &said) {
		rate, grant := errors.Is(err, admission.ErrRate), errors.Is(err, admission.ErrGrant)
		if call, is := controlCalls[key.Kind]; !rate && (!grant && g.clears(origin, key.Kind) || is && g.control(origin, call)) {
			return nil
		}
		if !said.Repeated {
			g.record(said.Decision)
		}
		switch {
		case grant:
			return g.refuse(err, "grant")
		case rate:
			return g.refuse(err, "rate")
		}
		return g.refuse(err, "policy")
	}
	return err
}
