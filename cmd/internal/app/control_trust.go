package app

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// trustBucket keeps imported trust records under their trust domain. What an issuer
// brings is in the identity cache.
const trustBucket = "trust/records"

// TrustValid is the state of a record that the global keys signed, within its validity.
const TrustValid = "valid"

// TrustMessage tells what a record says, as of now, for one whose signatures were
// verified. The states of its roots are
// their issuer's to know.
func TrustMessage(r trust.Record, signatures int, now time.Time) *controlv1.TrustRecord {
	m := &controlv1.TrustRecord{
		Region: r.Region, TrustDomain: r.TrustDomain.Name(), Version: r.Version, State: TrustValid, Signatures: uint32(signatures),
		NotBefore: timestamppb.New(r.NotBefore), NotAfter: timestamppb.New(r.NotAfter),
		AuthorityKey: provision.KeyFingerprint(r.AuthorityKey), PolicyKey: provision.KeyFingerprint(r.PolicyKey),
		Approvals: uint32(r.Approvers.Threshold),
	}
	for _, key := range r.Approvers.Keys {
		m.Approvers = append(m.Approvers, provision.KeyFingerprint(key))
	}
	switch {
	case signatures == 0:
		m.State = "draft"
	case now.Before(r.NotBefore):
		m.State = "early"
	case !r.ValidAt(now):
		m.State = "expired"
	}
	for _, c := range r.X509Roots {
		m.Roots = append(m.Roots, rootMessage("svid", c))
	}
	for _, c := range r.RecordRoots {
		m.Roots = append(m.Roots, rootMessage("record", c))
	}
	return m
}

func rootMessage(kind string, c *x509.Certificate) *controlv1.TrustRoot {
	return &controlv1.TrustRoot{
		Kind: kind, Fingerprint: provision.Fingerprint(c.Raw), Id: hex.EncodeToString(c.SubjectKeyId), NotAfter: timestamppb.New(c.NotAfter),
	}
}

// ListTrust tells all records and, at an issuer, the states of its roots.
func (h handler) ListTrust(ctx context.Context, _ *controlv1.ListTrustRequest) (*controlv1.ListTrustResponse, error) {
	resp := &controlv1.ListTrustResponse{View: h.view(ctx)}
	for _, raw := range h.trust.Export() {
		r, n, err := trust.Read(raw)
		if err != nil {
			return nil, connect.NewError(connect.CodeInternal, err)
		}
		m := TrustMessage(r, n, time.Now())
		if s := h.issuer(); s != nil && r.TrustDomain == h.cfg.Node.TrustDomain() {
			rotation(m, r, s)
		}
		resp.Items = append(resp.Items, m)
	}
	return resp, nil
}

// rotation adds to the record of the issuer's own region how far its roots are, and
// those that the record does not name yet.
func rotation(m *controlv1.TrustRecord, r trust.Record, s *issuer.Server) {
	states := map[string]issuer.Authority{}
	for _, a := range s.Authorities() {
		if a.Kind == issuer.X509 {
			states[a.ID] = a
		}
	}
	for _, c := range s.Roots() {
		if !slices.ContainsFunc(r.X509Roots, c.Equal) {
			added := rootMessage("svid", c)
			added.Unpublished = true
			m.Roots = append(m.Roots, added)
		}
	}
	for _, root := range m.Roots {
		if a, ours := states[root.Id]; ours {
			root.State, root.Tainted = string(a.State), a.Tainted
		} else if root.Kind == "svid" && slices.ContainsFunc(s.Roots(), func(c *x509.Certificate) bool { return provision.Fingerprint(c.Raw) == root.Fingerprint }) {
			root.State = "upstream"
		}
	}
}

// ExportTrust writes records into a file.
func (h handler) ExportTrust(ctx context.Context, req *controlv1.ExportTrustRequest) (*controlv1.ExportTrustResponse, error) {
	resp := &controlv1.ExportTrustResponse{View: h.view(ctx)}
	if req.Draft {
		b, err := h.draft(time.Duration(req.ValidSeconds * float64(time.Second)))
		if err != nil {
			return nil, err
		}
		return resp, addRecord(resp, b)
	}
	for _, raw := range h.trust.Export() {
		r, _, err := trust.Read(raw)
		if err != nil {
			return nil, connect.NewError(connect.CodeInternal, err)
		}
		if req.All || req.Region == r.Region || req.Region == "" && r.TrustDomain == h.cfg.Node.TrustDomain() {
			if err := addRecord(resp, raw); err != nil {
				return nil, err
			}
		}
	}
	if len(resp.Items) == 0 {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%w: region %q", trust.ErrUnknown, req.Region))
	}
	return resp, nil
}

func addRecord(resp *controlv1.ExportTrustResponse, b []byte) error {
	r, n, err := trust.Read(b)
	if err != nil {
		return connect.NewError(connect.CodeInternal, err)
	}
	resp.File = append(resp.File, b...)
	resp.Items = append(resp.Items, TrustMessage(r, n, time.Now()))
	return nil
}

// draft is the next record of this region, for the global keys to sign: the one in
// force with the roots that this issuer has now, and those of the region's others, and
// with the JWT keys of all.
func (h handler) draft(validity time.Duration) ([]byte, error) {
	s := h.issuer()
	if s == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this node is no issuer: only one that holds the region's roots can draft its next trust record"))
	}
	if validity < time.Hour {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("a record valid for %s: want an hour at least", validity))
	}
	r, _ := h.trust.Record(h.cfg.Node.TrustDomain())
	now := time.Now()
	v := provision.ValidFor(validity)
	roots, err := s.NextRoots(r.X509Roots)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	r.Version, r.X509Roots, r.NotBefore, r.NotAfter = r.Version+1, roots, v.From, v.To
	r.RecordRoots = issuing.WithRoot(r.RecordRoots, h.issuing.RecordRoot())
	r.JWTKeys = nil
	for _, k := range append(s.Authorities(), h.branch.OtherKeys()...) {
		if k.Kind == issuer.JWT && now.Before(k.NotAfter) {
			r.JWTKeys = append(r.JWTKeys, trust.JWTKey{ID: k.ID, Key: k.Key, NotAfter: k.NotAfter.Truncate(time.Second)})
		}
	}
	b, err := trust.Draft(r)
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return b, nil
}

// ImportTrust takes a file of records in.
func (h handler) ImportTrust(ctx context.Context, req *controlv1.ImportTrustRequest) (*controlv1.ImportTrustResponse, error) {
	items, err := h.importTrust(ctx, req.File, time.Now())
	if err != nil {
		return nil, err
	}
	return &controlv1.ImportTrustResponse{View: h.view(ctx), Items: items}, nil
}

// refusalHeader tells a caller of ImportTrust the kind of a refusal: a status code of
// the protocol cannot tell an old record from an unsigned one.
const refusalHeader = "Bailiwick-Trust-Refusal"

// refusals are the kinds of a refusal, the gravest first.
var refusals = []struct {
	name string
	is   error
}{
	{"unsigned", trust.ErrUnsigned},
	{"conflict", trust.ErrConflict},
	{"malformed", trust.ErrMalformed},
	{"expired", trust.ErrExpired},
	{"old", trust.ErrOld},
}

func refuseTrust(code connect.Code, err error) error {
	refused := connect.NewError(code, err)
	for _, kind := range refusals {
		if errors.Is(err, kind.is) {
			refused.Meta().Set(refusalHeader, kind.name)
			break
		}
	}
	return refused
}

// TrustRefusal returns the sentinel of package trust that a node refused an import for,
// nil if err is none of those.
func TrustRefusal(err error) error {
	var refused *connect.Error
	if !errors.As(err, &refused) {
		return nil
	}
	for _, kind := range refusals {
		if refused.Meta().Get(refusalHeader) == kind.name {
			return kind.is
		}
	}
	return nil
}

// importTrust judges all records of a file, records them, and then puts them in
// force.
func (a *App) importTrust(ctx context.Context, file []byte, now time.Time) (items []*controlv1.TrustImport, err error) {
	records, err := trust.Cut(file)
	if err != nil {
		return nil, refuseTrust(connect.CodeInvalidArgument, err)
	}
	a.importing.Lock()
	defer a.importing.Unlock()
	var refused []error
	seen := map[string]bool{}
	for _, raw := range records {
		r, news, err := a.trust.Judge(raw, now)
		if err == nil && seen[r.Region] {
			err = fmt.Errorf("%w: the file holds two records of region %s", trust.ErrConflict, r.Region)
		}
		seen[r.Region] = true
		if err != nil {
			refused = append(refused, err)
			continue
		}
		_, n, _ := trust.Read(raw) // it was judged: it reads
		items = append(items, &controlv1.TrustImport{Record: TrustMessage(r, n, now), Changed: news})
	}
	if len(refused) > 0 {
		return nil, refuseTrust(connect.CodePermissionDenied, errors.Join(refused...))
	}
	if err := a.keepTrust(ctx, records, items); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("not recorded, not done: %w", err))
	}
	for _, raw := range records {
		if _, _, err := a.trust.Apply(raw, now); err != nil && !errors.Is(err, trust.ErrOld) { // an issuer may have brought a newer one meanwhile
			return nil, connect.NewError(connect.CodeInternal, err)
		}
	}
	return items, nil
}

// keepTrust stores what is new, with a leaf for each.
func (a *App) keepTrust(ctx context.Context, records [][]byte, items []*controlv1.TrustImport) error {
	return a.store.Update(func(tx *store.Tx) error {
		for i, raw := range records {
			if !items[i].Changed {
				continue
			}
			r, _, err := trust.Read(raw)
			if err != nil {
				return err
			}
			if err := errors.Join(tx.Put(trustBucket, []byte(r.TrustDomain.Name()), raw), enrolling.TellTrust(tx, r, "import")); err != nil {
				return err
			}
			err = adminLeaf(ctx, tx, "trust import", map[string]any{"region": r.Region, "trust_domain": r.TrustDomain.Name(), "version": r.Version})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// importedTrust returns what was imported before.
func importedTrust(st *store.Store) (out [][]byte, err error) {
	err = st.View(func(tx *store.Tx) error {
		tx.Range(trustBucket, nil, func(_, v []byte) bool {
			out = append(out, slices.Clone(v))
			return true
		})
		return nil
	})
	return out, err
}
