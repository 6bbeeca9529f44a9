package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// protoWitness is the stream protocol of witnesses: one request of package witness, half a close,
// one answer.
const protoWitness = "witness/1"

const witnessBucket = "witness/key"

var witnessNonce = []byte("nonce") // 32 bytes; the key of this node as a witness is derived from them

func (a *App) openWitness() error {
	key, err := a.witnessKey()
	if err != nil {
		return err
	}
	a.book = witnessing.NewBook(a.mayWitness, a.vouchedKeys)
	requests := promauto.With(a.metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_witness_requests_total", Help: "Requests of peers to cosign the head of a trail, by the status of the answer.",
	}, []string{"status"})
	a.witness = witness.New(witness.Config{
		Self: a.cfg.Node, Key: key, Store: a.store, Now: time.Now, Log: a.book.Log, Refused: a.refusedHead,
		Roster: func(h [32]byte) (witness.Roster, bool) { return a.book.ByHash(h, time.Now()) },
	})
	a.gatherer = witnessing.NewGatherer(witnessing.Config{
		Self: a.cfg.Node, Dir: filepath.Join(string(a.cfg.State), "trail"), Book: a.book, Log: a.log,
		Trail: func() *trail.Trail { return a.trail.current() },
		Ask: func(ctx context.Context, peer spiffeid.ID, request []byte) ([]byte, error) {
			return a.askPeer(ctx, peer, protoWitness, request, witness.MaxAnswer)
		},
	})
	a.link.Handle(protoWitness, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		a.serveQuestion(ctx, peer, s, witness.MaxRequest, func(peer spiffeid.ID, request []byte) ([]byte, error) {
			answer := a.witness.Add(peer, request)
			requests.WithLabelValues(fmt.Sprint(answer.Status)).Inc()
			return answer.Encode(), nil
		})
	})
	a.link.OnPeer(func(_ spiffeid.ID, up bool) {
		if up {
			a.gatherer.Wake()
		}
	})
	return nil
}

// witnessKey is the key that this node cosigns with. Half of its seed is in the store, with what
// was cosigned: who loses one loses the other. On a disk that may be an old copy it is made anew,
// for what the old one cosigned last may not be known here.
func (a *App) witnessKey() (key *witness.Key, err error) {
	derive := func(nonce []byte) (*witness.Key, error) {
		return witness.NewKey(a.cfg.Node, a.creds.Derive("trail witness "+hex.EncodeToString(nonce)))
	}
	err = a.store.Update(func(tx *store.Tx) error {
		before := ""
		if nonce := tx.Get(witnessBucket, witnessNonce); len(nonce) == 32 {
			if key, err = derive(nonce); err != nil || !a.machine.Restored() {
				return err
			}
			before = key.Verifier()
		}
		nonce := make([]byte, 32)
		_, _ = rand.Read(nonce) // never fails
		if key, err = derive(nonce); err != nil {
			return err
		}
		if err := tx.Put(witnessBucket, witnessNonce, nonce); err != nil {
			return err
		}
		return trail.Append(tx, trail.WitnessKey, map[string]any{"key": key.Verifier(), "retired": before})
	})
	return key, err
}

// mayWitness reports whether a node of the region may be a witness: one with a TPM, or in a dev
// trust domain any, that is not shut out for good.
func (a *App) mayWitness(id spiffeid.ID) bool {
	if !a.cfg.Dev && a.enrolledAs(id).kind != "tpm" {
		return false
	}
	return a.standing.of(id).Standing < quarantine.Quarantined
}

// vouchedKeys reports whether a node's trail key is the one that the authority endorsed. A node
// without a TPM has no endorsement: its keys are as good as its signed state.
func (a *App) vouchedKeys(v witnessing.Vouched) error {
	if len(v.Endorsement) == 0 && a.enrolledAs(v.Owner).kind != "tpm" {
		return nil
	}
	key, err := a.trust.AuthorityKey(v.Owner.TrustDomain())
	if err != nil {
		return err
	}
	return v.Endorsed(key)
}

// heardTrail takes in what a node shows of kind trail.
func (a *App) heardTrail(c replica.Change) {
	switch {
	case c.Name == witnessing.KeysName && c.Deleted:
		a.book.Gone(c.Owner)
	case c.Name == witnessing.KeysName:
		a.book.Heard(c.Owner, c.Value)
	case !c.Deleted:
		if _, _, err := a.standing.evidence(c.Value, c.Owner); err != nil && !errors.Is(err, quarantine.ErrForeign) {
			a.log.Debug("proof of a forked trail carried by a peer", "peer", c.Owner, "err", err)
		}
	}
}

// wantTrail is what this node shows of kind trail: its keys, and the proofs that it found.
func (a *App) wantTrail(want func(kind, name string, scope feed.Scope, value []byte), encode func(any) []byte) {
	if b := a.ownKeys(); b != nil {
		want(feed.KindTrail, witnessing.KeysName, feed.ScopeRegion, b)
	}
	for _, c := range a.standing.set.Cases(time.Now()) {
		for _, e := range c.Evidence {
			if e.Class == witness.Class && len(e.By) == 0 && e.Bytes != nil {
				want(feed.KindTrail, witnessing.ForkName(e.Digest), feed.ScopeRegion, e.Bytes)
			}
		}
	}
}

// ownKeys is this node's record of its keys. The trail key signs a new one where something in it
// changed. Only publish calls it.
func (a *App) ownKeys() []byte {
	t := a.trail.current()
	if t == nil {
		return nil
	}
	endorsement := a.creds.Now().Endorsement
	if v, err := witnessing.ReadRecord(a.shownKeys); err == nil && v.Trail == t.VerifierKey() && bytes.Equal(v.Endorsement, endorsement) {
		return a.shownKeys
	}
	origin, err := trail.Origin(a.cfg.Node, t.Epoch())
	if err != nil {
		return nil
	}
	r, err := witnessing.NewRecord(a.machine.Trail(), origin, a.witness.Verifier(), endorsement, time.Now())
	if err == nil {
		a.shownKeys, err = r.Encode()
	}
	if err != nil {
		a.log.Warn("peers cannot be shown whose this node's trail key is", "err", err)
		return nil
	}
	return a.shownKeys
}

// refusedHead acts on a signed head that does not fit what this node cosigned: on a proof against
// the machine as on any other, on the rest by saying so.
func (a *App) refusedHead(log witness.Log, why witness.Reason, detail string, c *witness.Conflict) {
	a.log.Warn("a head of a trail was not cosigned", "node", log.Owner, "why", why, "detail", detail, "proof", c != nil)
	if c == nil {
		return
	}
	accusation := witness.Accusation{Conflict: *c}
	if v, err := witnessing.ReadRecord(a.book.Record(log.Owner)); err == nil {
		accusation.Endorsement = v.Endorsement
	}
	b, err := accusation.Encode()
	if err == nil {
		_, _, err = a.standing.evidence(b, spiffeid.ID{})
	}
	if err != nil {
		a.log.Error("a trail is forked, and nobody convicted", "node", log.Owner, "err", err)
	}
}

// errNoTPM is why a forked trail convicts nobody: a copied disk without a TPM looks the same.
var errNoTPM = errors.New("no TPM backs the trail's key")

// forkFinding is what an accusation proves, to whoever trusts the region's record: that the
// node's TPM signed two histories. When that was does not matter.
func forkFinding(a witness.Accusation, set *trust.Set) (f quarantine.Finding, err error) {
	if len(a.Endorsement) == 0 {
		return f, errNoTPM
	}
	owner, number, err := witnessing.Convict(a, set.AuthorityKey)
	return quarantine.Finding{Accused: owner, Class: witness.Class, Digest: a.Digest(), Epoch: number}, err
}

// trailStatus is how the trail stands, and with its witnesses.
func (h handler) trailStatus(ctx context.Context) (m *controlv1.Trail, warnings []string) {
	m = &controlv1.Trail{}
	if n, err := h.store.Pending(); err == nil {
		m.Outbox = uint64(n)
	}
	if err := h.store.Err(); err != nil {
		warnings = append(warnings, "state: what must be recorded is refused: "+err.Error())
	}
	t := h.trail.current()
	if t == nil {
		return m, warnings
	}
	head := t.Head()
	m.Size, m.Root, m.At, m.Witnessed = head.Size, hex.EncodeToString(head.Root[:]), timestamppb.New(head.At), !head.Unwitnessed
	if err := t.Err(); err != nil {
		warnings = append(warnings, "trail: "+err.Error())
	}
	state := h.gatherer.State()
	for _, id := range state.Chosen {
		m.Witnesses = append(m.Witnesses, id.String())
	}
	if c, ok := t.Witnessed(); ok {
		v := witness.Judge(c, func(hash [32]byte) (witness.Roster, bool) {
			r, err := witnessing.ReadRoster(h.trail.dir, hash)
			return r, err == nil
		})
		m.WitnessedSize = c.Size
		if v.Good {
			m.WitnessedAt = timestamppb.New(v.Seen)
		}
		for _, by := range v.By {
			m.CosignedBy = append(m.CosignedBy, by.Witness.String())
		}
	}
	switch {
	case m.Witnessed:
	case len(state.Chosen) == 0:
		m.Unwitnessed = fmt.Sprintf("%d nodes of the region may be witnesses, %d others are needed", state.Members, witness.Chosen)
	default:
		var why []string
		for id, reason := range state.Refused {
			why = append(why, id.Path()+": "+strings.TrimSpace(reason))
		}
		slices.Sort(why)
		m.Unwitnessed = strings.Join(why, "; ")
	}
	if state.Ahead > 0 {
		warnings = append(warnings, fmt.Sprintf("witnesses cosigned a head of %d leaves of this trail, which this disk lacks: it is an older copy; no head is witnessed until this node begins a new epoch", state.Ahead))
	}
	var more []string
	m.Custody, more = h.custodyStatus()
	return m, append(warnings, more...)
}
