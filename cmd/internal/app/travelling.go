package app

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
	"github.com/bailiwick-mesh/bailiwick/policy/travel"
)

// protoPolicy is the stream protocol of package travel: one question, half a close, one
// answer.
const protoPolicy = "policy/1"

const (
	// policyTimeout bounds one answer, on top of what the budget of the link makes of it: a chunk over
	// 64 kbit/s takes eight seconds.
	policyTimeout = 30 * time.Second
	// policyPiece is written at once, and counted.
	policyPiece = 4 << 10
	// policyQuestion bounds how long a peer may take to ask, in less than a packet.
	policyQuestion = 2 * time.Second
	// policyAnswers is how many questions of peers are answered at once.
	policyAnswers = 8
	// policyAnswersEach is how many of them are of one peer.
	policyAnswersEach = 2
)

// newDesk is what brings policy from other nodes to this one.
func (a *App) newDesk() *travel.Desk {
	return travel.New(travel.Config{
		Store: a.store, Global: a.global, Wants: a.wantsPolicy, Judge: a.judgePolicy, Conflict: a.policies.Book().Dispute,
		Take: func(v *bundle.Verified) (refused, err error) {
			before := a.engine.Revision()
			if refused, err = a.policies.Take(v, false); refused == nil && err == nil {
				a.policyTaken(before)
			}
			return refused, err
		},
		Held: a.policies.Content, Peers: a.policyPeers, Ask: a.askPolicy, Log: a.log,
		Budget: func(peer spiffeid.ID) uint64 { return uint64(a.cfg.LinkTo(peer).Budget) },
	})
}

// judgePolicy reports whether a record is news here. One with a plan that a newer one has overtaken is
// none before it has settled: its own rings do not go on.
func (a *App) judgePolicy(v *bundle.Verified) (news bool, err error) {
	if news, err = a.policies.Book().Judge(v); !news || v.Record.Rollout == nil {
		return news, err
	}
	newest, ok := a.policies.Newest(v.Record.Level, v.Record.Scope)
	return !ok || newest.Record.Version < v.Record.Version || a.settledPolicy(newest, v.Name), nil
}

// refusedPolicies is what verified and is not taken: with the reason, as far as it stands.
func (a *App) refusedPolicies() []travel.Refusal {
	out := a.desk.Refused()
	conflicts, err := a.policies.Book().Conflicts()
	if err != nil {
		a.log.Error("policy records that gave way cannot be read", "err", err)
	}
	for _, c := range conflicts {
		out = append(out, travel.Refusal{Record: c.Record, Err: c.Err()})
	}
	return out
}

// settledPolicy reports whether a record that a newer one has overtaken holds elsewhere (rollout.Settled).
func (a *App) settledPolicy(newest bundle.Kept, name [32]byte) bool {
	return rollout.Settled(a.rolloutPeers(newest), [8]byte(name[:]), [8]byte(newest.Name[:]))
}

// offerOvertaken has the desk look again at what others carry under a staged record: what has come in
// vain before may have settled.
func (a *App) offerOvertaken(newest bundle.Kept) {
	for _, e := range a.replica.Named(feed.KindPolicy, governing.NameOf(&newest.Record)+governing.Overtaken) {
		if r, err := bundle.ReadRecord(e.Value); err != nil || r.Version <= a.policies.Version(newest.Record.Level) {
			continue
		}
		if err := a.desk.Offer(e.Value, time.Now()); err != nil {
			a.log.Debug("policy carried by a peer", "peer", e.Owner, "err", err)
		}
	}
}

// wantsPolicy reports whether this node keeps the policy of a scope: that of its own levels
// and, on the authority's node, of all its region, so that there always is one who has it.
func (a *App) wantsPolicy(level, scope string) bool {
	td := a.cfg.Node.TrustDomain().Name()
	return a.policies.Own(level, scope) ||
		a.cfg.Authority != nil && strings.HasPrefix(scope, td+"/")
}

// policyPeers are those who may have the content of a record: neighbours by chance, those on
// thin links last, and then whoever carries the record.
func (a *App) policyPeers(r *bundle.Record) (out []spiffeid.ID) {
	var thin []spiffeid.ID
	for _, p := range a.link.Peers() {
		switch {
		case p.ID.TrustDomain() != a.cfg.Node.TrustDomain() && r.Level != policy.Global:
		case a.cfg.LinkTo(p.ID).Budget > 0:
			thin = append(thin, p.ID)
		default:
			out = append(out, p.ID)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	out = append(out, thin...)
	for _, name := range []string{governing.NameOf(r), governing.NameOf(r) + governing.Overtaken} {
		for _, e := range a.replica.Named(feed.KindPolicy, name) {
			if e.Owner != a.cfg.Node && !slices.Contains(out, e.Owner) {
				out = append(out, e.Owner)
			}
		}
	}
	return out
}

// askPolicy asks a peer for a part of a content.
func (a *App) askPolicy(ctx context.Context, peer spiffeid.ID, question []byte, limit int) ([]byte, error) {
	return a.askPeer(ctx, peer, protoPolicy, question, limit)
}

// askPeer sends a question over a stream of its own and returns the answer.
func (a *App) askPeer(ctx context.Context, peer spiffeid.ID, proto string, question []byte, limit int) ([]byte, error) {
	conn, err := a.peering.reach(ctx, peer)
	if err != nil {
		return nil, err
	}
	s, err := conn.OpenStream(ctx, proto)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Reset)()
	if _, err := s.Write(question); err != nil {
		return nil, err
	}
	if err := s.CloseWrite(); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(s, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%s answers with more than %d bytes", peer, limit)
	}
	return b, err
}

// servePolicy answers one question of a peer for policy content.
func (a *App) servePolicy(ctx context.Context, peer spiffeid.ID, s stream) {
	a.serveQuestion(ctx, peer, s, travel.MaxQuestion, func(_ spiffeid.ID, b []byte) ([]byte, error) { return a.desk.Answer(b) })
}

// serveQuestion answers one question of a peer, when its turn comes, within the budget of the link. A
// peer that asks nothing, or reads nothing, holds up itself only, and no longer than others let it.
func (a *App) serveQuestion(ctx context.Context, peer spiffeid.ID, s stream, longest int64, answer func(peer spiffeid.ID, b []byte) ([]byte, error)) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(policyQuestion)) // fails on a stream that is over, as the read then does
	b, err := io.ReadAll(io.LimitReader(s, longest+1))
	if err != nil {
		return
	}
	allowance, err := a.allowance(ctx, peer)
	if err != nil {
		return
	}
	deadline := time.Now().Add(policyTimeout + travel.Longest(allowance.Rate()))
	_ = s.SetDeadline(deadline)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	known := uint64(a.cfg.LinkTo(peer).Budget) // the peer may say that its link is thinner: that is no excuse
	turn, err := a.answering.Enter(ctx, peer, (known+7)/8)
	if err != nil {
		return
	}
	defer turn.Leave()
	if b, err = answer(peer, b); err != nil {
		a.log.Debug("a peer's question", "peer", peer, "err", err)
		return
	}
	ctx = turn.Context()
	defer context.AfterFunc(ctx, s.Reset)()
	out := allowance.Writer(ctx, s)
	for piece := range slices.Chunk(b, policyPiece) {
		if _, err := out.Write(piece); err != nil {
			s.Reset() // who asked asks another
			return
		}
		turn.Moved(len(piece))
	}
}

// stream is one of the link's, which has authenticated both ends.
type stream interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
	Reset() // both directions: the peer takes nothing that it got for an answer
}

// allowance is the budget of the link to a peer. There is no gossip to share it with before state
// is open.
func (a *App) allowance(ctx context.Context, peer spiffeid.ID) (replica.Allowance, error) {
	if a.replica == nil {
		return replica.Allowance{}, nil
	}
	return a.replica.Allowance(ctx, peer)
}

// domainOf is the trust domain that a scope lies in.
func domainOf(scope string) string {
	td, _, _ := strings.Cut(scope, "/")
	return td
}

// carriesPolicy reports whether this node passes a record on under a key of its own: one
// that was handed to it and, so that others have it when that node is gone, the authority's
// node all and gateways those of the whole mesh.
func (a *App) carriesPolicy(k bundle.Kept) bool {
	return k.Handed || a.authority != nil || a.gateway != nil && k.Record.Level == policy.Global
}

// carriedPolicy keeps the records that this node passes on what they should be, and returns
// the ops that take others back. publish calls it, and owns what is carried.
func (a *App) carriedPolicy(want func(kind, name string, scope feed.Scope, value []byte)) (ops []feed.Op) {
	if a.carried == nil { // what this node carried before it started
		a.carried = map[string]bool{}
		own, _ := a.replica.List(feed.KeyOf(a.cfg.Node, feed.KindPolicy, ""))
		for _, e := range own {
			a.carried[e.Name] = true
		}
	}
	wanted := a.policies.Carried(a.carriesPolicy)
	for name, record := range wanted {
		a.carried[name] = true
		want(feed.KindPolicy, name, feed.ScopeRegion, record)
	}
	for name := range a.carried {
		if wanted[name] != nil {
			continue
		}
		key := feed.KeyOf(a.cfg.Node, feed.KindPolicy, name)
		if _, held := a.replica.Get(key); held {
			ops = append(ops, feed.Op{Key: key, Action: feed.Del, Scope: feed.ScopeRegion})
		}
	}
	return ops
}

// controlCall reports whether a control call of a node may be: what keeps nodes repairable,
// which only the global level can deny (policy.ControlCalls). The nodes are described as they
// enrolled: what a lower level makes of their evidence has no say here either, nor what this
// node doubts for it.
func (a *App) controlCall(source spiffeid.ID, call string) bool {
	describe := func(id spiffeid.ID) *policy.Peer {
		p := a.subjects.by(id, a.enrolledAs(id))
		if a.standing.of(id).Doubted {
			p.Standing = quarantine.OK.String()
		}
		return p
	}
	return a.engine.Decide(context.Background(), policy.Input{
		V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: time.Now().Unix(), Trusted: true},
		Self: describe(a.cfg.Node), Source: describe(source), Action: &policy.Action{Name: call},
	}).Allow
}
