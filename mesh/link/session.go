package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// session is what both kinds of connection have in common: a verified peer and
// an end.
type session struct {
	qc      *quic.Conn
	kind    string
	id      spiffeid.ID
	chain   []*x509.Certificate // the peer's, leaf first
	expires time.Time           // when the first certificate of either side ends
	own     []*x509.Certificate // what we showed
	welcome func(spiffeid.ID) error

	mu     sync.Mutex // guards guards
	guards []func() error
}

func newSession(qc *quic.Conn, kind string, own []*x509.Certificate, welcome func(spiffeid.ID) error) (*session, error) {
	cs := qc.ConnectionState()
	if cs.TLS.DidResume || cs.Used0RTT { // cannot happen; worth a wall if it ever can
		return nil, identity.ErrResumed
	}
	id, err := identity.PeerID(cs.TLS)
	if err != nil {
		return nil, err
	}
	s := &session{qc: qc, kind: kind, id: id, chain: cs.TLS.PeerCertificates, own: own, welcome: welcome}
	s.expires = firstEnd(own)
	if end := firstEnd(s.chain); end.Before(s.expires) {
		s.expires = end
	}
	return s, nil
}

// firstEnd returns when the first certificate of a chain ends.
func firstEnd(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// current refuses to show a certificate that has expired.
func current(own []*x509.Certificate, now time.Time) error {
	if end := firstEnd(own); !now.Before(end) {
		return fmt.Errorf("%w: it ended %s", ErrOwnExpired, end.UTC().Format(time.RFC3339))
	}
	return nil
}

// check verifies again, as of now, all that made the peer acceptable.
func (s *session) check(bundles x509bundle.Source, now time.Time) error {
	if err := current(s.own, now); err != nil {
		return err
	}
	_, err := identity.VerifyPeer(s.chain, bundles, func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		if s.welcome == nil {
			return errors.New("nothing here says who is")
		}
		return s.welcome(id)
	}, now)
	if err != nil {
		return err
	}
	s.mu.Lock()
	guards := s.guards
	s.mu.Unlock()
	for _, guard := range guards {
		if err := guard(); err != nil {
			return fmt.Errorf("%w: %s: %w", identity.ErrRefused, s.id, err)
		}
	}
	return nil
}

// end closes the connection and tells the peer why. It returns when the close
// frame was sent; quic-go repeats it while the peer goes on sending.
func (s *session) end(code quic.ApplicationErrorCode, reason string) {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	_ = s.qc.CloseWithError(code, reason)
}

// alive says whether the connection has not ended yet.
func (s *session) alive() bool { return s.qc.Context().Err() == nil }

// codeFor is the close code for a failed check.
func codeFor(err error) quic.ApplicationErrorCode {
	switch {
	case errors.Is(err, identity.ErrExpired), errors.Is(err, ErrOwnExpired):
		return codeExpired
	case errors.Is(err, identity.ErrRefused):
		return codeUnauthorized
	}
	return codeUntrusted
}

// track makes s visible to Recheck and arms its end, then checks it once more:
// whatever changed while the handshake ran is seen here, whatever changes from
// now on is seen by Recheck. An error means that s was ended.
func (l *Link) track(s *session) error {
	var expiry *time.Timer
	tracked := l.spawn(func() {
		<-s.qc.Context().Done()
		expiry.Stop()
		l.mu.Lock()
		delete(l.sessions, s)
		l.mu.Unlock()
		l.m.live.WithLabelValues(s.kind).Dec()
	}, func() {
		l.sessions[s] = struct{}{}
		l.m.live.WithLabelValues(s.kind).Inc()
		expiry = time.AfterFunc(time.Until(s.expires), func() {
			s.end(codeExpired, "a certificate of this connection ended "+s.expires.UTC().Format(time.RFC3339)+": dial again")
		})
	})
	if !tracked {
		s.end(codeStopping, "the node is stopping")
		return fmt.Errorf("%w: the link is closed", ErrClosed)
	}
	if err := s.check(l.cfg.Bundles, time.Now()); err != nil {
		s.end(codeFor(err), err.Error())
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return nil
}

// Recheck verifies every live connection again, as of now: trust bundle,
// validity, welcome, and the guards of tunnels. It closes those that fail, with
// the reason, and returns when their close frames were sent. Call it when trust
// bundles, standing or policy change; Run also calls it every half minute, for
// clocks that jump.
func (l *Link) Recheck() {
	l.mu.Lock()
	live := make([]*session, 0, len(l.sessions))
	for s := range l.sessions {
		live = append(live, s)
	}
	l.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range live {
		wg.Go(func() {
			if err := s.check(l.cfg.Bundles, time.Now()); err != nil && s.alive() {
				l.log.Warn("closing connection: peer is no longer acceptable", "kind", s.kind, "peer", s.id.String(), "err", err)
				s.end(codeFor(err), err.Error())
			}
		})
	}
	wg.Wait()
}

// err says why the session ended, or nil.
func (s *session) err() error {
	if s.alive() {
		return nil
	}
	return explain(context.Cause(s.qc.Context()))
}
