package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// ErrResidency means that state of a data class would go to a node that may not hold it.
var ErrResidency = errors.New("state of this data class may not be kept by every node of the region")

// residency keeps labelled state where policy lets it be (kind replicate). Schemas of state label
// keys with data classes; where a node is comes from its identity, so from enrolment.
//
// It is asked three times: when a program of this node writes, about every node of the region, for
// a record that one of them may not have would cut that one off from all this node says next; when
// a record is about to be sent to a peer; and when one comes, once its signature is verified, for a
// denial names its origin. Unlabelled state is asked nothing.
//
// What it does not hide: the headers of records go everywhere, with their origin, times, sizes and
// the hash of their body. What a node took in before policy changed stays on its disk, encrypted.
type residency struct {
	self    spiffeid.ID
	engine  *policy.Engine
	subject func(spiffeid.ID) *policy.Peer
	others  func() []spiffeid.ID // of the region
	record  func(policy.Decision) policy.Decision
	log     *slog.Logger
	now     func() time.Time

	mu       sync.Mutex // held while policy is asked; guards what follows
	revision string     // that the rest is of
	since    time.Time
	labels   bool
	answers  map[passage]policy.Decision
	before   map[passage]policy.Decision // the answers of a while ago, under the same policy
}

// passage is state of some classes on its way to a node.
type passage struct {
	from, to spiffeid.ID
	classes  string
}

// maxPassages bounds what is remembered; forgetting costs a question.
const maxPassages = 16384

// resides is the replica's Config.Resides: of records on their way from this node, or to it.
func (x *residency) resides(node spiffeid.ID, rec feed.Record) bool {
	if !x.labelled() {
		return true
	}
	ops, err := rec.Ops()
	if err != nil {
		return true // it is refused for what it is
	}
	var classes []string
	for _, op := range ops {
		classes = append(classes, x.classes(op)...)
	}
	from := x.self
	if node == x.self {
		from = rec.Feed().Origin
	}
	return x.may(from, node, classes).Allow
}

// local says why a program of this node may not write something, or nil.
func (x *residency) local(op feed.Op) error {
	if op.Action != feed.Put || !x.labelled() {
		return nil
	}
	classes := x.classes(op)
	for _, node := range append(x.others(), x.self) {
		if d := x.may(x.self, node, classes); !d.Allow {
			return fmt.Errorf("%w: %s is of %s and %s would have it: %s (rule %s; bailiwick why %s)",
				ErrResidency, op.Key, strings.Join(classes, ", "), node, d.Told(), d.Rule, d.ID[:12])
		}
	}
	return nil
}

func (x *residency) classes(op feed.Op) []string {
	key, err := feed.ParseKey(op.Key)
	if err != nil {
		return nil
	}
	return x.engine.Classes(key.Kind, key.Name)
}

// labelled reports whether any key is, and forgets the answers of another policy, or old ones.
func (x *residency) labelled() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	revision, now := x.engine.Revision(), x.now()
	if x.answers == nil || revision != x.revision || now.Sub(x.since) >= askAgain {
		x.before = nil
		if revision == x.revision {
			x.before = x.answers
		}
		x.revision, x.since, x.labels, x.answers = revision, now, x.engine.Labels(), map[passage]policy.Decision{}
	}
	return x.labels
}

// may asks policy, once for an answer that is remembered. A denial is on record.
func (x *residency) may(from, to spiffeid.ID, classes []string) policy.Decision {
	if len(classes) == 0 {
		return policy.Decision{Allow: true}
	}
	classes = slices.Compact(slices.Sorted(slices.Values(classes)))
	p := passage{from, to, strings.Join(classes, " ")}
	x.mu.Lock()
	defer x.mu.Unlock()
	if d, ok := x.answers[p]; ok {
		return d
	}
	d := x.engine.Decide(context.Background(), policy.Input{
		V: policy.InputVersion, Kind: policy.Replicate, Time: policy.Time{Unix: x.now().Unix(), Trusted: true},
		Self: x.subject(x.self), Source: x.subject(from), Destination: x.subject(to), Resource: &policy.Resource{Classes: classes},
	})
	if last, again := x.before[p]; again && last.Allow == d.Allow && last.Rule == d.Rule {
		d = last // on record already
	} else if d = x.record(d); !d.Allow {
		x.log.Warn("labelled state is kept back", "classes", p.classes, "from", from, "to", to, slog.Any("", d))
	}
	if len(x.answers) >= maxPassages {
		clear(x.answers)
	}
	x.answers[p] = d
	return d
}
