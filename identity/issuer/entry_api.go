package issuer

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pageSize is how many entries one message of SyncAuthorizedEntries carries,
// as in SPIRE.
const pageSize = 500

// entryAPI is spire.api.server.entry.v1.Entry.
type entryAPI struct {
	entryv1.UnimplementedEntryServer
	*Server
}

// GetAuthorizedEntries returns all entries the caller may ask SVIDs for.
func (s entryAPI) GetAuthorizedEntries(ctx context.Context, req *entryv1.GetAuthorizedEntriesRequest) (*entryv1.GetAuthorizedEntriesResponse, error) {
	c, err := s.caller(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	d := s.entries.Load()
	out := &entryv1.GetAuthorizedEntriesResponse{}
	for _, id := range c.reach(d) {
		out.Entries = append(out.Entries, entryMessage(d.byID[id], req.GetOutputMask()))
	}
	return out, nil
}

// SyncAuthorizedEntries is the same in pages: up to pageSize entries come at
// once; of more, only the revisions, and the caller asks for those it lacks.
func (s entryAPI) SyncAuthorizedEntries(stream entryv1.Entry_SyncAuthorizedEntriesServer) error {
	c, err := s.caller(stream.Context(), time.Now())
	if err != nil {
		return err
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	mask := req.GetOutputMask()
	switch {
	case len(req.GetIds()) > 0:
		return status.Error(codes.InvalidArgument, "the first request must not name entries")
	case mask != nil && !mask.RevisionNumber:
		return status.Error(codes.InvalidArgument, "revision_number cannot be masked")
	}
	d := s.entries.Load() // one view for the whole stream
	ids := c.reach(d)
	send := func(p page) error { return stream.SendMsg(p) }
	if len(ids) <= pageSize {
		return d.pages(ids, mask, send)
	}
	revisions, err := c.on.revisions(d, ids)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	for _, p := range revisions {
		if err := send(p); err != nil {
			return err
		}
	}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if req.GetOutputMask() != nil {
			return status.Error(codes.InvalidArgument, "only the first request may have a mask")
		}
		if _, err := s.caller(stream.Context(), time.Now()); err != nil { // banned or evicted meanwhile
			return err
		}
		var want []string
		next := 0 // who lacks all asks in the order it was told
		for _, id := range req.GetIds() {
			allowed := next < len(ids) && ids[next] == id
			if !allowed {
				next, allowed = slices.BinarySearch(ids, id)
			}
			if allowed {
				want = append(want, id)
				next++
			}
		}
		if err := d.pages(want, mask, send); err != nil {
			return err
		}
	}
}

// entryMessage shows an entry; a nil mask shows all of it.
func entryMessage(e registered, mask *types.EntryMask) *types.Entry {
	out := &types.Entry{Id: e.ID}
	show := func(field bool) bool { return mask == nil || field }
	if show(mask.GetSpiffeId()) {
		out.SpiffeId = idMessage(e.SPIFFEID)
	}
	if show(mask.GetParentId()) {
		out.ParentId = idMessage(e.ParentID)
	}
	if show(mask.GetSelectors()) {
		for _, s := range e.Selectors {
			kind, value, _ := strings.Cut(s, ":")
			out.Selectors = append(out.Selectors, &types.Selector{Type: kind, Value: value})
		}
	}
	if show(mask.GetX509SvidTtl()) {
		out.X509SvidTtl = int32(e.X509TTL / time.Second)
	}
	if show(mask.GetJwtSvidTtl()) {
		out.JwtSvidTtl = int32(e.JWTTTL / time.Second)
	}
	if show(mask.GetFederatesWith()) {
		for _, td := range e.FederatesWith {
			out.FederatesWith = append(out.FederatesWith, td.Name())
		}
	}
	if show(mask.GetExpiresAt()) && !e.Expires.IsZero() {
		out.ExpiresAt = e.Expires.Unix()
	}
	if show(mask.GetRevisionNumber()) {
		out.RevisionNumber = e.Revision
	}
	if show(mask.GetCreatedAt()) && !e.Created.IsZero() {
		out.CreatedAt = e.Created.Unix()
	}
	if show(mask.GetDnsNames()) {
		out.DnsNames = e.DNSNames
	}
	if show(mask.GetHint()) {
		out.Hint = e.Hint
	}
	return out
}
