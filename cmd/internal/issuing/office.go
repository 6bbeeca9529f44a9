package issuing

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Proto is the stream protocol by which a region's issuers ask its authority:
// one question, half a close, one reply, both deterministic CBOR.
const Proto = "issuing/1"

const (
	maxIssuing     = 512 << 10 // bytes of a question or a reply: a notice at its bounds fits
	maxStranger    = 4 << 10   // bytes read of who may not ask
	issuingTimeout = 5 * time.Second
	newsTimeout    = 3 * time.Second // for which a question for news waits, well within issuingTimeout
	refusalEvery   = time.Minute     // between log lines of one peer's refusals
)

// ErrNotIssuer means a node asked the authority for what only issuers get.
var ErrNotIssuer = errors.New("this node is no issuer of the region: list it under authority.issuers of the authority's node")

// question is what an issuer asks: for epochs, for an endorsement, for the first of the
// other issuers' notices in return for its own, for the next, to be told when there are
// others than those it has, or to hear what a quarantined node has to say.
type question struct {
	Epochs  *epochsWire `cbor:"1,keyasint,omitempty"`
	Endorse []byte      `cbor:"2,keyasint,omitempty"` // endorse.Encode
	Notice  *notice     `cbor:"3,keyasint,omitempty"`
	After   string      `cbor:"4,keyasint,omitempty"` // reply.Of before
	Since   *uint64     `cbor:"5,keyasint,omitempty"` // reply.Edition of the notices that it has
	Appeal  []byte      `cbor:"6,keyasint,omitempty"` // quarantine.Appeal.Encode, of a node that this issuer attested
}

type epochsWire struct {
	Node     string `cbor:"1,keyasint"`
	FeedKey  []byte `cbor:"2,keyasint"` // SHA-256 of the PKIX key
	Class    string `cbor:"3,keyasint"`
	Attested bool   `cbor:"4,keyasint"`
	Floor    uint64 `cbor:"5,keyasint"`
	Used     uint64 `cbor:"6,keyasint"`
}

// reply has what was asked for, or why not.
type reply struct {
	Refused     string  `cbor:"1,keyasint,omitempty"`
	Current     uint64  `cbor:"2,keyasint,omitempty"`
	Spare       uint64  `cbor:"3,keyasint,omitempty"`
	Class       string  `cbor:"4,keyasint,omitempty"`
	Endorsement []byte  `cbor:"5,keyasint,omitempty"`
	Notice      *notice `cbor:"6,keyasint,omitempty"` // of one other issuer
	Of          string  `cbor:"7,keyasint,omitempty"` // whose notice; empty: there are no more
	Later       bool    `cbor:"8,keyasint,omitempty"` // Refused for a while only
	Edition     uint64  `cbor:"9,keyasint,omitempty"` // changes with every change of a notice
}

// Office is the authority's side: the one place of the region that gives out epochs
// and endorses. Its methods may be called from any goroutine.
type Office struct {
	td      spiffeid.TrustDomain
	self    spiffeid.ID   // the authority's node
	issuers []spiffeid.ID // other nodes that may ask
	epochs  *authority.Epochs
	key     crypto.Signer // the authority's
	store   *store.Store
	log     *slog.Logger

	// Appeals keeps what a quarantined node has to say, or says why not. It is set before
	// anything is asked. Nil: none are taken.
	Appeals func(quarantine.Appeal) error

	mu      sync.Mutex           // held for map work only; guards what follows
	noted   map[spiffeid.ID]bool // who was refused since
	since   time.Time
	edition uint64        // of the notices; another after a restart
	news    chan struct{} // closes with the next edition; nil: nobody waits
}

// NewOffice makes the office of the authority at node self, whose key signs. Beside the
// issuer of its own node, issuers may ask. What issuers said before is in st still.
func NewOffice(self spiffeid.ID, issuers []spiffeid.ID, epochs *authority.Epochs, key crypto.Signer, st *store.Store, log *slog.Logger) *Office {
	return &Office{td: self.TrustDomain(), self: self, issuers: issuers, epochs: epochs, key: key, store: st, log: log, edition: uint64(time.Now().UnixNano())}
}

// Stream is what question and reply go over: a stream of the link, which has
// authenticated both ends.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetDeadline(time.Time) error
}

// Serve answers one question of a peer.
func (o *Office) Serve(peer spiffeid.ID, s Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(issuingTimeout)) // fails on a stream that is over, as the read then does
	limit := int64(maxIssuing + 1)
	if !slices.Contains(o.issuers, peer) {
		limit = maxStranger
	}
	b, err := io.ReadAll(io.LimitReader(s, limit))
	if err != nil {
		return
	}
	answer, err := o.hear(context.Background(), time.Now(), peer, b)
	if err != nil {
		if o.refused(time.Now(), peer) {
			o.log.Warn("an issuer was refused", "peer", peer, "err", err)
		}
		answer = reply{Refused: err.Error(), Later: errors.Is(err, issuer.ErrEpochsLater)}
	}
	if b, err = statement.Marshal(answer); err == nil {
		_, _ = s.Write(b) // who asks finds out, and asks again
	}
}

// refused reports whether the log is to tell that a peer was: once an interval.
func (o *Office) refused(now time.Time, peer spiffeid.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.noted == nil || now.Sub(o.since) >= refusalEvery {
		o.noted, o.since = map[spiffeid.ID]bool{}, now
	}
	told := o.noted[peer]
	o.noted[peer] = true
	return !told
}

// hear is answer for bytes from a peer.
func (o *Office) hear(ctx context.Context, now time.Time, peer spiffeid.ID, b []byte) (reply, error) {
	if !slices.Contains(o.issuers, peer) {
		return reply{}, fmt.Errorf("%w: %s", ErrNotIssuer, peer)
	}
	if len(b) > maxIssuing {
		return reply{}, fmt.Errorf("a question of more than %d bytes", maxIssuing)
	}
	var q question
	if err := statement.Unmarshal(b, &q); err != nil {
		return reply{}, err
	}
	return o.answer(ctx, now, peer, q)
}

// answer does what an issuer asks. Epochs are durable before it returns; the same
// question again gets the same numbers. Only a question for news waits, until ctx ends at
// the latest.
func (o *Office) answer(ctx context.Context, now time.Time, by spiffeid.ID, q question) (reply, error) {
	switch {
	case q.Epochs != nil:
		id, err := spiffeid.FromString(q.Epochs.Node)
		if err != nil || id.TrustDomain() != o.td {
			return reply{}, fmt.Errorf("%w: node %q is not of %s", authority.ErrEpochRequest, q.Epochs.Node, o.td)
		}
		g, err := o.epochs.Allocate(now, authority.EpochRequest{
			Node: id, FeedKey: q.Epochs.FeedKey, Class: q.Epochs.Class, Attested: q.Epochs.Attested, Floor: q.Epochs.Floor, Used: q.Epochs.Used, By: by,
		})
		if errors.Is(err, authority.ErrEpochRate) {
			err = fmt.Errorf("%w: %w", issuer.ErrEpochsLater, err)
		}
		return reply{Current: g.Epoch, Spare: g.Spare, Class: g.Class}, err
	case len(q.Endorse) > 0:
		e, err := endorse.Decode(q.Endorse)
		if err != nil {
			return reply{}, err
		}
		if e.ID.TrustDomain() != o.td || e.Expires.After(now.Add(epoch.DefaultLifetime+time.Minute)) {
			return reply{}, fmt.Errorf("%w: of %s until %s", endorse.ErrMalformed, e.ID, e.Expires.UTC().Format(time.RFC3339))
		}
		signed, err := o.endorse(by, e)
		return reply{Endorsement: signed}, err
	case q.Notice != nil:
		n, err := q.Notice.taken(now)
		if err == nil {
			err = o.keep(by, n)
		}
		if err != nil {
			return reply{}, err
		}
		edition, _ := o.editionNow() // before they are read: what changes meanwhile is news
		r, err := o.next(by, "")
		r.Edition = edition
		return r, err
	case q.After != "":
		return o.next(by, q.After)
	case q.Since != nil:
		return reply{Edition: o.newsSince(ctx, *q.Since)}, nil
	case len(q.Appeal) > 0:
		return reply{}, o.appeal(now, by, q.Appeal)
	}
	return reply{}, errors.New("an empty question")
}

// appeal hears a node through the issuer that attested it, whose name and not the time that it
// says is kept.
func (o *Office) appeal(now time.Time, by spiffeid.ID, b []byte) error {
	a, err := quarantine.ParseAppeal(b)
	if err != nil {
		return err
	}
	if a.Accused.TrustDomain() != o.td || o.Appeals == nil {
		return fmt.Errorf("%w: of %s at %s", quarantine.ErrAppeal, a.Accused, o.td)
	}
	a.At, a.By = now.UTC().Truncate(time.Second), by
	return o.Appeals(a)
}

// endorse signs for an issuer what the trail then tells of: an issuer that asks for what
// it should not is found out by it.
func (o *Office) endorse(by spiffeid.ID, e endorse.Endorsement) ([]byte, error) {
	signed, err := endorse.Sign(o.key, e)
	if err != nil {
		return nil, err
	}
	ak, err := x509.MarshalPKIXPublicKey(e.AK)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(ak)
	err = o.store.Update(func(tx *store.Tx) error {
		return trail.Append(tx, trail.AuthorityPublish, map[string]any{
			"what": "endorsement", "for": e.ID.String(), "by": by.String(), "ak": digest[:], "not_after": e.Expires.Unix(),
		})
	})
	if err != nil {
		return nil, err // not told, not given
	}
	return signed, nil
}
