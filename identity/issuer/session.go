package issuer

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity"
)

// session is one connection, and what its calls have in common. Each thing that is
// remembered here holds only beside what it was made from: the roots, the
// entries, the agent's record, a span of time. All of those are replaced when they
// change, never altered, and every call compares. Whether somebody is banned,
// evicted or in bad standing is not remembered.
type session struct {
	credentials.TLSInfo
	peer   atomic.Pointer[peerVerdict]
	record atomic.Pointer[readRecord]
	reach  atomic.Pointer[reached]
}

// peerVerdict is that the client certificate verified.
type peerVerdict struct {
	id          spiffeid.ID
	by          *roots
	from, until time.Time         // in which all of the chain is valid
	root        *x509.Certificate // it leads to
}

// readRecord is an agent's record, decoded.
type readRecord struct {
	raw []byte
	agent
}

// reached are the entries that the caller may ask for, sorted.
type reached struct {
	in          *directory
	record      *readRecord // whose selectors count; nil for a node
	from, until time.Time   // in which no entry of them ends; zero until: never
	ids         []string
	revisions   atomic.Pointer[[]page] // of ids; nil until asked for
}

// sessions makes a session of every connection. It is credentials of a server.
type sessions struct {
	credentials.TransportCredentials
	*Server
}

// ServerHandshake verifies the client certificate in the handshake, and remembers
// that.
func (c sessions) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	s := &session{}
	conn, info, err := credentials.NewTLS(c.tls(s)).ServerHandshake(raw)
	if err != nil {
		return conn, info, err
	}
	tls, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, fmt.Errorf("credentials of %T", info)
	}
	s.TLSInfo = tls
	return conn, s, nil
}

// Clone is for gRPC.
func (c sessions) Clone() credentials.TransportCredentials {
	return sessions{c.TransportCredentials.Clone(), c.Server}
}

// accept is an identity.Authorize that remembers whom by welcomed.
func (s *session) accept(by *roots, welcome identity.Authorize) identity.Authorize {
	return func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		if err := welcome(id, chains); err != nil {
			return err
		}
		v := peerVerdict{id: id, by: by, root: chains[0][len(chains[0])-1]}
		for i, cert := range chains[0] { // one is enough; the others may be valid for longer
			if i == 0 || cert.NotBefore.After(v.from) {
				v.from = cert.NotBefore
			}
			if i == 0 || cert.NotAfter.Before(v.until) {
				v.until = cert.NotAfter
			}
		}
		s.peer.Store(&v)
		return nil
	}
}

// verify returns who shows the client certificate, verifying it as of now: again
// wherever the last time does not say the same of this moment.
func (s *session) verify(now time.Time, by *roots, welcome identity.Authorize) (spiffeid.ID, error) {
	if v := s.peer.Load(); v != nil && v.by == by && !now.Before(v.from) && !now.After(v.until) {
		return v.id, nil
	}
	return identity.VerifyPeer(s.State.PeerCertificates, by.bundle, s.accept(by, welcome), now)
}

// load reads the record of an agent, and decodes it if it is another than before.
func (s *session) load(tx *store.Tx, id spiffeid.ID) (*readRecord, error) {
	raw := tx.Get(agentsBucket, []byte(id.Path()))
	if before := s.record.Load(); before != nil && raw != nil && bytes.Equal(before.raw, raw) {
		return before, nil
	}
	a, err := loadAgent(tx, id)
	if err != nil {
		return nil, err
	}
	r := &readRecord{raw: raw, agent: a}
	s.record.Store(r)
	return r, nil
}

// reachable is directory.reach for the one caller of the session.
func (s *session) reachable(d *directory, holder spiffeid.ID, r *readRecord, now time.Time) []string {
	if m := s.reach.Load(); m != nil && m.in == d && m.record == r && !now.Before(m.from) && (m.until.IsZero() || now.Before(m.until)) {
		return m.ids
	}
	var shows []string
	if r != nil {
		shows = append(slices.Clone(r.Selectors), "spiffe_id:"+holder.String())
	}
	m := &reached{in: d, record: r, from: now, ids: d.reach(holder, shows, now)}
	for _, id := range m.ids {
		if end := d.byID[id].Expires; !end.IsZero() && (m.until.IsZero() || end.Before(m.until)) {
			m.until = end
		}
	}
	s.reach.Store(m)
	return m.ids
}

// revisions returns the revisions of what reachable returned last, in pages.
func (s *session) revisions(d *directory, ids []string) ([]page, error) {
	m := s.reach.Load()
	fits := m != nil && m.in == d && len(m.ids) == len(ids) && len(ids) > 0 && &m.ids[0] == &ids[0]
	if fits {
		if known := m.revisions.Load(); known != nil {
			return *known, nil
		}
	}
	pages, err := d.revisionPages(ids)
	if err == nil && fits {
		m.revisions.Store(&pages)
	}
	return pages, err
}
