package issuer

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// localEntryAPI is spire.api.server.entry.v1.Entry for the operator.
type localEntryAPI struct {
	entryv1.UnimplementedEntryServer
	*Server
}

// CountEntries counts the entries that pass a filter.
func (s localEntryAPI) CountEntries(_ context.Context, req *entryv1.CountEntriesRequest) (*entryv1.CountEntriesResponse, error) {
	f := req.GetFilter()
	list := &entryv1.ListEntriesRequest_Filter{BySpiffeId: f.GetBySpiffeId(), ByParentId: f.GetByParentId(), BySelectors: f.GetBySelectors(),
		ByFederatesWith: f.GetByFederatesWith(), ByHint: f.GetByHint(), ByDownstream: f.GetByDownstream()}
	n := int32(0)
	d := s.entries.Load()
	for _, e := range d.byID {
		if pass(list, e) {
			n++
		}
	}
	return &entryv1.CountEntriesResponse{Count: n}, nil
}

// ListEntries returns entries in the order of their IDs, by pages. IDs of those
// that come from files begin with "file-".
func (s localEntryAPI) ListEntries(_ context.Context, req *entryv1.ListEntriesRequest) (*entryv1.ListEntriesResponse, error) {
	if req.GetPageSize() < 0 {
		return nil, status.Error(codes.InvalidArgument, "page size is negative")
	}
	d := s.entries.Load()
	out := &entryv1.ListEntriesResponse{}
	for _, id := range d.ids() {
		if id <= req.GetPageToken() || !pass(req.GetFilter(), d.byID[id]) {
			continue
		}
		if n := len(out.Entries); n > 0 && n == int(req.GetPageSize()) {
			out.NextPageToken = out.Entries[n-1].GetId()
			break
		}
		out.Entries = append(out.Entries, entryMessage(d.byID[id], req.GetOutputMask()))
	}
	return out, nil
}

func pass(f *entryv1.ListEntriesRequest_Filter, e registered) bool {
	same := func(want *types.SPIFFEID, id spiffeid.ID) bool {
		return want == nil || want.GetTrustDomain() == id.TrustDomain().Name() && want.GetPath() == id.Path()
	}
	m := entryMessage(e, nil)
	switch {
	case !same(f.GetBySpiffeId(), e.SPIFFEID), !same(f.GetByParentId(), e.ParentID),
		f.GetBySelectors() != nil && !matches(f.GetBySelectors(), m.GetSelectors()),
		f.GetByFederatesWith() != nil && !matches(federation(f.GetByFederatesWith()), tdSelectors(m.GetFederatesWith())),
		f.GetByHint() != nil && f.GetByHint().GetValue() != e.Hint,
		f.GetByDownstream().GetValue(): // no entry here is
		return false
	}
	return true
}

// federation lets trust domains be matched as selectors are.
func federation(f *types.FederatesWithMatch) *types.SelectorMatch {
	return &types.SelectorMatch{Match: types.SelectorMatch_MatchBehavior(f.GetMatch()), Selectors: tdSelectors(f.GetTrustDomains())}
}

func tdSelectors(tds []string) (out []*types.Selector) {
	for _, td := range tds {
		out = append(out, &types.Selector{Value: td})
	}
	return out
}

// GetEntry returns one entry.
func (s localEntryAPI) GetEntry(_ context.Context, req *entryv1.GetEntryRequest) (*types.Entry, error) {
	e, ok := s.entries.Load().byID[req.GetId()]
	if !ok {
		return nil, entryError(errNoEntry)
	}
	return entryMessage(e, req.GetOutputMask()), nil
}

// BatchCreateEntry adds entries; each is added or refused on its own.
func (s localEntryAPI) BatchCreateEntry(_ context.Context, req *entryv1.BatchCreateEntryRequest) (*entryv1.BatchCreateEntryResponse, error) {
	edits := make([]*edit, len(req.GetEntries()))
	for i, m := range req.GetEntries() {
		e, err := entryOf(m, nil, Entry{})
		if err != nil {
			edits[i] = refused(err)
			continue
		}
		edits[i] = s.create(m.GetId(), e, time.Now())
	}
	if err := s.change("create entry", edits); err != nil {
		return nil, unavailable(err)
	}
	out := &entryv1.BatchCreateEntryResponse{}
	for _, e := range edits {
		r := &entryv1.BatchCreateEntryResponse_Result{Status: entryStatus(e.err)}
		if e.err == nil || errors.Is(e.err, errSame) {
			r.Entry = entryMessage(e.done, req.GetOutputMask())
		}
		out.Results = append(out.Results, r)
	}
	return out, nil
}

// BatchUpdateEntry changes entries of the API: the fields of the mask, or all.
func (s localEntryAPI) BatchUpdateEntry(_ context.Context, req *entryv1.BatchUpdateEntryRequest) (*entryv1.BatchUpdateEntryResponse, error) {
	var edits []*edit
	for _, m := range req.GetEntries() {
		edits = append(edits, s.update(m.GetId(), func(e *Entry) (err error) {
			*e, err = entryOf(m, req.GetInputMask(), *e)
			return err
		}))
	}
	if err := s.change("update entry", edits); err != nil {
		return nil, unavailable(err)
	}
	out := &entryv1.BatchUpdateEntryResponse{}
	for _, e := range edits {
		r := &entryv1.BatchUpdateEntryResponse_Result{Status: entryStatus(e.err)}
		if e.err == nil {
			r.Entry = entryMessage(e.done, req.GetOutputMask())
		}
		out.Results = append(out.Results, r)
	}
	return out, nil
}

// BatchDeleteEntry takes entries of the API away.
func (s localEntryAPI) BatchDeleteEntry(_ context.Context, req *entryv1.BatchDeleteEntryRequest) (*entryv1.BatchDeleteEntryResponse, error) {
	var edits []*edit
	for _, id := range req.GetIds() {
		edits = append(edits, s.remove(id))
	}
	if err := s.change("delete entry", edits); err != nil {
		return nil, unavailable(err)
	}
	out := &entryv1.BatchDeleteEntryResponse{}
	for i, e := range edits {
		out.Results = append(out.Results, &entryv1.BatchDeleteEntryResponse_Result{Id: req.GetIds()[i], Status: entryStatus(e.err)})
	}
	return out, nil
}

// entryOf reads an entry from outside: the fields of the mask, nil for all; the
// others stay as they were.
func entryOf(m *types.Entry, mask *types.EntryMask, e Entry) (Entry, error) {
	bad := func(format string, args ...any) (Entry, error) {
		return e, status.Errorf(codes.InvalidArgument, format, args...)
	}
	set := func(field bool) bool { return mask == nil || field }
	var err error
	if set(mask.GetSpiffeId()) {
		if e.SPIFFEID, err = idOf(m.GetSpiffeId()); err != nil {
			return bad("spiffe_id: %v", err)
		}
	}
	if set(mask.GetParentId()) {
		if e.ParentID, err = idOf(m.GetParentId()); err != nil {
			return bad("parent_id: %v", err)
		}
	}
	if set(mask.GetSelectors()) {
		e.Selectors = nil
		for _, s := range m.GetSelectors() {
			e.Selectors = append(e.Selectors, s.GetType()+":"+s.GetValue())
		}
		slices.Sort(e.Selectors)
		e.Selectors = slices.Compact(e.Selectors)
	}
	if set(mask.GetX509SvidTtl()) {
		e.X509TTL = time.Duration(m.GetX509SvidTtl()) * time.Second
	}
	if set(mask.GetJwtSvidTtl()) {
		e.JWTTTL = time.Duration(m.GetJwtSvidTtl()) * time.Second
	}
	if set(mask.GetFederatesWith()) {
		e.FederatesWith = nil
		for _, name := range m.GetFederatesWith() {
			td, err := spiffeid.TrustDomainFromString(name)
			if err != nil {
				return bad("federates_with: %v", err)
			}
			e.FederatesWith = append(e.FederatesWith, td)
		}
	}
	if set(mask.GetExpiresAt()) {
		e.Expires = time.Time{}
		if m.GetExpiresAt() != 0 {
			e.Expires = time.Unix(m.GetExpiresAt(), 0)
		}
	}
	if set(mask.GetDnsNames()) {
		e.DNSNames = m.GetDnsNames()
	}
	if set(mask.GetHint()) {
		e.Hint = m.GetHint()
	}
	switch {
	case m.GetAdmin() || m.GetDownstream() || m.GetStoreSvid():
		return bad("admin, downstream and store_svid do not exist here")
	case len(e.Selectors) > 64 || len(e.DNSNames) > 64 || len(e.FederatesWith) > 64 || len(e.Hint) > 1024:
		return bad("more than 64 selectors, DNS names or trust domains, or a hint above 1024 bytes")
	}
	return e, nil
}

// refused is an edit that cannot be.
func refused(err error) *edit {
	return &edit{do: editRefused(err)}
}

func entryStatus(err error) *types.Status {
	if err == nil {
		return &types.Status{Message: "OK"}
	}
	st := status.Convert(entryError(err))
	return &types.Status{Code: int32(st.Code()), Message: st.Message()}
}

func entryError(err error) error {
	switch {
	case errors.Is(err, errSame):
		return status.Error(codes.AlreadyExists, "similar entry already exists")
	case errors.Is(err, errNoEntry):
		return status.Error(codes.NotFound, "entry not found")
	case errors.Is(err, errFileOnly), errors.Is(err, errApplied):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, ErrEntry):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Convert(err).Err()
}
