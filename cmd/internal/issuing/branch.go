package issuing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// exchangeEvery is how often issuers hear of each other whether there is news or not, and
// exchangeLeast how often at most.
const (
	exchangeEvery = 10 * time.Second
	exchangeLeast = 100 * time.Millisecond
)

// maxColleagues bounds how many other issuers an issuer hears of.
const maxColleagues = 256

// ErrBannedElsewhere means another issuer of the region banned this agent.
var ErrBannedElsewhere = errors.New("another issuer of the region banned this agent: lift the ban there")

// Branch is an issuer's side of the region's authority, on this node or another. It is an
// issuer.Epochs. Its methods may be called from any goroutine.
type Branch struct {
	self   spiffeid.ID
	office *Office                                   // the authority is on this node; nil: elsewhere
	dial   func(ctx context.Context) (Stream, error) // to the authority's node
	store  *store.Store                              // keeps what was heard last
	log    *slog.Logger

	others atomic.Pointer[colleagues] // nil: nothing was ever heard
	barred chan struct{}              // holds one if there is something to say
}

// OpenBranch makes the branch of the issuer on node self. Where the authority is on the
// same node, office is its side, and else dial opens a stream of Proto to it. What was
// heard before a restart holds on: the authority may be away, and who was banned by
// another issuer stays so.
func OpenBranch(self spiffeid.ID, office *Office, dial func(ctx context.Context) (Stream, error), st *store.Store, log *slog.Logger) (*Branch, error) {
	b := &Branch{self: self, office: office, dial: dial, store: st, log: log, barred: make(chan struct{}, 1)}
	heard, err := notices(st, heardBucket)
	if err != nil {
		return nil, err
	}
	b.others.Store(newColleagues(heard))
	return b, nil
}

// Allocate has the authority give out epoch numbers. The error matches
// issuer.ErrAuthorityAway or issuer.ErrEpochsLater where asking again later may help.
func (b *Branch) Allocate(ctx context.Context, r issuer.EpochRequest) (issuer.EpochGrant, error) {
	answer, err := b.ask(ctx, question{Epochs: &epochsWire{
		Node: r.ID.String(), FeedKey: r.FeedKeyHash[:], Class: r.Class, Attested: r.Attested, Floor: r.Floor, Used: r.Have,
	}})
	return issuer.EpochGrant{Current: answer.Current, Spare: answer.Spare, Class: answer.Class}, err
}

// Endorse has the authority sign e.
func (b *Branch) Endorse(ctx context.Context, e endorse.Endorsement) ([]byte, error) {
	payload, err := endorse.Encode(e)
	if err != nil {
		return nil, err
	}
	answer, err := b.ask(ctx, question{Endorse: payload})
	return answer.Endorsement, err
}

// Appeal takes what a quarantined node has to say to the authority.
func (b *Branch) Appeal(ctx context.Context, a issuer.Appeal) error {
	payload, err := quarantine.Appeal{
		Accused: a.Node, Note: a.Note, At: time.Now(), EKHash: a.EKHash, Resets: a.Resets, Starts: a.Starts, Epoch: a.Epoch, By: b.self,
	}.Encode()
	if err != nil {
		return err
	}
	_, err = b.ask(ctx, question{Appeal: payload})
	return err
}

// OtherKeys verify JWT-SVIDs of the region's other issuers now.
func (b *Branch) OtherKeys() []issuer.Authority {
	c := b.others.Load()
	if c == nil {
		return nil
	}
	now := time.Now()
	return slices.DeleteFunc(slices.Clone(c.keys), func(k issuer.Authority) bool { return !now.Before(k.NotAfter) })
}

// bans returns ErrBannedElsewhere for an agent that another issuer banned.
func (b *Branch) bans(id spiffeid.ID) error {
	if c := b.others.Load(); c != nil && c.banned[banOf(id)] {
		return ErrBannedElsewhere
	}
	return nil
}

// evicted reports whether another issuer evicted this agent of late.
func (b *Branch) evicted(id spiffeid.ID) bool {
	c := b.others.Load()
	return c != nil && c.evicted[banOf(id)]
}

// Barred says that there is something new in this issuer's notice. It does not block.
func (b *Branch) Barred() {
	select {
	case b.barred <- struct{}{}:
	default:
	}
}

// run exchanges notices until ctx ends: at once where there is news, and every now and
// then. While the authority is away, what was heard last holds.
func (b *Branch) run(ctx context.Context, own func() (notice, error), forget func(map[ban]bool) error) error {
	said := ""
	for ctx.Err() == nil {
		text := ""
		edition, err := b.exchange(ctx, own, forget)
		if err != nil && ctx.Err() == nil {
			if text = err.Error(); text != said {
				b.log.Warn("this issuer hears nothing of the region's other issuers", "err", err)
			}
		}
		said = text
		b.rest(ctx, edition, err == nil)
	}
	return nil
}

// rest waits for news, here or at the authority, for exchangeEvery at most.
func (b *Branch) rest(ctx context.Context, edition uint64, reached bool) {
	select {
	case <-ctx.Done():
	case <-time.After(exchangeLeast):
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeEvery-exchangeLeast)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for reached && ctx.Err() == nil {
			answer, err := b.ask(ctx, question{Since: &edition})
			if err == nil && answer.Edition != edition {
				return
			}
			reached = err == nil
		}
		<-ctx.Done()
	}()
	select {
	case <-b.barred:
	case <-heard:
	}
	cancel()
	<-heard
}

// exchange says what is new here, and hears one other issuer after the other. What it
// hears counts once all were heard and whom they evicted is forgotten here too; it is on
// disk by then. It returns the edition of what it heard.
func (b *Branch) exchange(ctx context.Context, own func() (notice, error), forget func(map[ban]bool) error) (edition uint64, err error) {
	mine, err := own()
	if err != nil {
		return 0, err
	}
	heard := map[string][]byte{}
	for q := (question{Notice: &mine}); ; {
		answer, err := b.ask(ctx, q)
		if err != nil {
			return 0, err
		}
		if q.Notice != nil {
			edition = answer.Edition
		}
		if answer.Of == "" {
			break
		}
		if answer.Notice == nil || answer.Of <= q.After || len(heard) == maxColleagues {
			return 0, fmt.Errorf("the authority's list of issuers is out of order at %.256q, after %d of them", answer.Of, len(heard))
		}
		if heard[answer.Of], err = statement.Marshal(answer.Notice); err != nil {
			return 0, err
		}
		q = question{After: answer.Of}
	}
	before, err := notices(b.store, heardBucket)
	if err != nil {
		return 0, err
	}
	if gone := newlyEvicted(before, heard); len(gone) > 0 {
		if err := forget(gone); err != nil {
			return 0, err
		}
	}
	if err := keepHeard(b.store, before, heard); err != nil {
		return 0, err
	}
	b.others.Store(newColleagues(heard))
	return edition, nil
}

// ask returns the authority's reply. The error matches issuer.ErrAuthorityAway unless
// the authority said no.
func (b *Branch) ask(ctx context.Context, q question) (reply, error) {
	if b.office != nil {
		return b.office.answer(ctx, time.Now(), b.self, q)
	}
	ctx, cancel := context.WithTimeout(ctx, issuingTimeout)
	defer cancel()
	s, err := b.dial(ctx)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", issuer.ErrAuthorityAway, err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) }) // who waits for news may have some
	defer stop()
	answer, err := converse(ctx, s, q)
	switch {
	case err != nil:
		return reply{}, fmt.Errorf("%w: %w", issuer.ErrAuthorityAway, err)
	case answer.Later:
		return reply{}, fmt.Errorf("%w: it says: %.256s", issuer.ErrEpochsLater, answer.Refused)
	case answer.Refused != "":
		return reply{}, fmt.Errorf("the region's authority says: %.256s", answer.Refused)
	}
	return answer, nil
}

// converse asks over a fresh stream.
func converse(ctx context.Context, s Stream, q question) (answer reply, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.SetDeadline(deadline); err != nil {
			return reply{}, err
		}
	}
	b, err := statement.Marshal(q)
	if err != nil {
		return reply{}, err
	}
	if _, err := s.Write(b); err != nil {
		return reply{}, err
	}
	if err := s.CloseWrite(); err != nil {
		return reply{}, err
	}
	if b, err = io.ReadAll(io.LimitReader(s, maxIssuing+1)); err != nil {
		return reply{}, err
	}
	if len(b) > maxIssuing {
		return reply{}, fmt.Errorf("a reply of more than %d bytes", maxIssuing)
	}
	return answer, statement.Unmarshal(b, &answer)
}
