package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/authz"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// neighbours answers programs of this machine that speak ext_authz or AuthZEN.
type neighbours struct {
	app    *App
	serves []func(context.Context) error
	ready  atomic.Bool // what decisions rest on is known

	mu  sync.Mutex // guards may
	may map[asker]leave

	refused refusedUsers
	counted *prometheus.CounterVec
}

// asker is who asks about others, and the generation under which policy was asked whether it may.
// All programs that nobody can tell apart are one.
type asker struct {
	uid, gid int64
	workload string
	api      string
	revision string
}

// leave is what policy said, and until when that is remembered.
type leave struct {
	may   bool
	until time.Time
}

// Bounds of what is remembered; forgetting costs a question.
const (
	maxAskers = 1024
	leaveFor  = time.Minute
)

func openNeighbours(a *App) (*neighbours, error) {
	n := &neighbours{app: a, may: map[asker]leave{}, counted: promauto.With(a.metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_authz_refusals_not_recorded_total", Help: "Questions of programs of this machine that were refused and only counted, for there were too many of one user.",
	}, []string{"api", "rule"})}
	if c := a.cfg.Policy.ExtAuthz; c != nil {
		lis, err := listenLocal(c.Listen, c.Group)
		if err != nil {
			return nil, fmt.Errorf("policy.ext_authz: %w", err)
		}
		a.onStop(closing(lis))
		e := &authz.Envoy{Decider: n, Service: c.Service, Headers: c.Headers}
		n.serves = append(n.serves, func(ctx context.Context) error { return e.Serve(ctx, lis) })
	}
	if c := a.cfg.Policy.AuthZEN; c != nil {
		lis, err := listenLocal(c.Listen, c.Group)
		if err != nil {
			return nil, fmt.Errorf("policy.authzen: %w", err)
		}
		a.onStop(closing(lis))
		z := &authz.AuthZEN{Decider: n, Headers: c.Headers}
		n.serves = append(n.serves, func(ctx context.Context) error { return z.Serve(ctx, lis) })
	}
	return n, nil
}

// closing closes a listener that its server may have closed before.
func closing(lis net.Listener) func() error {
	return func() error {
		if err := lis.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

func listenLocal(e config.Endpoint, group string) (net.Listener, error) {
	if path := e.Path(); path != "" {
		return local.Unix(path, group)
	}
	return local.TCP(e.Port())
}

// run serves all listeners until ctx ends or one of them fails.
func (n *neighbours) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(n.serves))
	for _, serve := range n.serves {
		go func() { ended <- serve(ctx) }()
	}
	var errs []error
	for range n.serves {
		err := <-ended
		if ctx.Err() != nil {
			err = nil // of the end
		}
		errs = append(errs, err)
		cancel()
	}
	if len(n.serves) == 0 {
		<-ctx.Done()
	}
	return errors.Join(errs...)
}

// Decide is authz.Decider.
func (n *neighbours) Decide(ctx context.Context, from *local.Caller, q authz.Question) policy.Decision {
	a := n.app
	in := policy.Input{V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: time.Now().Unix(), Trusted: true}, Self: a.subjects.node(a.cfg.Node)}
	if in.Request = q.Request; q.Request != nil {
		in.Kind = policy.HTTPRequest
	} else {
		in.Action = &policy.Action{Name: policy.Accept}
	}
	name, region, ok := splitService(q.Service)
	if ok {
		in.Service = &policy.Service{Name: name, Region: region, Protocol: "tcp"}
		if q.Request != nil {
			in.Service.Protocol = "http"
		}
	}
	own := policy.Call{API: q.API, Name: askForOthers}
	mine := a.calledBy(&own, from)
	refuse := func(rule string, err error) policy.Decision {
		in.Source = mine // who asks; whom it names has done nothing
		return n.refuse(in, own, rule, err)
	}
	switch {
	case !q.Subject.IsZero() && (mine == nil || mine.SPIFFEID != q.Subject.String()):
		in.Source = &policy.Peer{SPIFFEID: q.Subject.String(), TrustDomain: q.Subject.TrustDomain().Name(), Path: segments(q.Subject), Region: a.dir.region(q.Subject.TrustDomain())}
	case mine != nil:
		in.Source = mine
	}
	if !n.ready.Load() {
		return refuse(authz.RuleNotReady, fmt.Errorf("%w: %s", authz.ErrNotReady, n.lacks()))
	}
	switch {
	case q.Err != nil:
		return refuse(authz.RuleQuestion, q.Err)
	case !ok:
		return refuse(authz.RuleQuestion, fmt.Errorf("%w: the service: want <service>.<region>.mesh", authz.ErrQuestion))
	case in.Source == nil:
		return refuse(authz.RuleQuestion, fmt.Errorf("%w: no subject is named, and the program that asks has no identity here", authz.ErrQuestion))
	case in.Source != mine && !n.mayAsk(ctx, own, mine):
		return refuse("asks-for-others", fmt.Errorf("%w: %s about another, %.200s", ErrAdmin, q.API, q.Subject))
	}
	return a.data.ask(ctx, in, authority.Mode.MayConnect)
}

// lacks is what a node waits for that is not ready.
func (n *neighbours) lacks() string {
	if !n.app.creds.Valid() {
		return "it has no identity"
	}
	return "the authority record of its region has not come"
}

// refuse denies what policy is not asked, and records it, unless the user has asked too much of
// that: then the decision is the event that says so.
func (n *neighbours) refuse(in policy.Input, own policy.Call, rule string, err error) policy.Decision {
	record := func(rule, reason string) policy.Decision {
		return n.app.data.unasked(in, policy.Decision{At: time.Now(), Rule: rule, Reason: fmt.Sprintf("%s (asked by user %d)", reason, own.UID)})
	}
	event, beyond := n.refused.beyond(own.UID, time.Now(), func(until time.Time) policy.Decision {
		return record("asks-too-much", fmt.Sprintf("%d questions of one user were refused: what else is until %s is counted and not recorded", refusedEach, until.UTC().Format(time.TimeOnly)))
	})
	if !beyond {
		return record(rule, err.Error())
	}
	n.counted.WithLabelValues(own.API, rule).Inc()
	event.Rule, event.Reason = rule, err.Error()
	return event
}

// askForOthers is the call of kind admin that is about other subjects than the one that asks.
const askForOthers = "AskForOthers"

// mayAsk asks policy, once a minute for an asker and a generation, whether it may ask about others
// than itself (kind admin).
func (n *neighbours) mayAsk(ctx context.Context, own policy.Call, mine *policy.Peer) bool {
	now, key := time.Now(), asker{own.UID, own.GID, "", own.API, n.app.engine.Revision()}
	if mine != nil {
		key.workload = mine.SPIFFEID
	}
	n.mu.Lock()
	known, ok := n.may[key]
	n.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.may
	}
	may := n.app.decisions.Decide(ctx, policy.Input{
		V: policy.InputVersion, Kind: policy.Admin, Time: policy.Time{Unix: now.Unix(), Trusted: true},
		Self: n.app.subjects.node(n.app.cfg.Node), Call: &own, Source: mine,
	}).Allow
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.may) >= maxAskers {
		clear(n.may)
	}
	n.may[key] = leave{may, now.Add(leaveFor)}
	return may
}
